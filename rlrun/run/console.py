"""What a run shows: a live screen on a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rlrun.run import panel

if TYPE_CHECKING:
    from rich.console import Console

    from rlrun.run.frame import Frame

_REFRESH_SECONDS = 0.25
_FIRST_LINE_SECONDS = 1.0
_LINE_SECONDS = 10.0


def is_terminal() -> bool:
    """Whether somebody watches standard output on a terminal that can redraw.

    Pipes, files, the logs of Slurm jobs and of CI are none, whatever FORCE_COLOR says; an
    interactive shell inside a Slurm job is one.
    """
    try:
        watched = sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # a closed one
        return False
    return watched and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI")


def _encoding() -> str:
    # While the live frame stands, standard output is rich's stand-in, which has no encoding.
    return getattr(getattr(sys.stdout, "rich_proxied_file", sys.stdout), "encoding", "") or "ascii"


def _is_unicode() -> bool:
    return _encoding().lower().startswith("utf")


@cache
def console() -> Console:
    """The one rich console of this process; whoever prints during a run prints through it."""
    from rich.console import Console

    return Console(force_terminal=is_terminal(), highlight=False, markup=False, emoji=False)


def say(line: str = "", style: str = "") -> None:
    """Print a line, above the live screen if there is one; never wrapped, so it can be copied.

    A closed pipe, a full disk or a lost terminal is no failure, and what the encoding of
    standard output lacks is replaced.
    """
    if sys.stdout is None:
        return
    try:
        text = line.encode(_encoding(), "replace").decode(_encoding())
        if is_terminal():
            console().print(text, style=style or None, soft_wrap=True)
        else:
            print(text, flush=True)
    except (OSError, ValueError):
        pass


class ConsoleHandler(logging.Handler):
    """Sends log records where the screen goes, so that they do not garble it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record; from warnings on with its level."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if record.levelno < logging.WARNING:
            say(text)
        else:
            style = "yellow" if record.levelno < logging.ERROR else "red"
            say(f"{record.levelname.lower()}: {text}", style)


@contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Show the records of rlrun on the console and, given a path, append them to that file."""
    logger = logging.getLogger("rlrun")
    handlers: list[logging.Handler] = [ConsoleHandler()]
    if path is not None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class Screen:
    """The progress of a run, while the context is open.

    title: one line; details: names and values printed once below it;
    total_steps: environment steps at which the run ends; start_step: where it begins or goes on.

    On a terminal a live frame is redrawn at most four times a second, by the calls of `update`
    themselves; elsewhere a line is printed every ten seconds.
    """

    def __init__(
        self, title: str, details: Mapping[str, str], total_steps: int, start_step: int = 0
    ) -> None:
        self._title = title
        self._details = details
        self._status = panel.Status(total_steps, start_step)
        self._frame: Frame | None = None
        self._began = 0.0
        self._next = 0.0
        self._lost = False
        self._interval = _LINE_SECONDS

    def __enter__(self) -> Screen:
        say(self._title, "bold")
        for name, value in self._details.items():
            say(f"  {name:<12}{value}")
        self._began = time.monotonic()
        self._next = self._began + _FIRST_LINE_SECONDS
        if is_terminal():
            from rlrun.run.frame import Frame

            self._interval = _REFRESH_SECONDS
            self._next = self._began
            self._frame = Frame(console(), self._draw)
            self._frame.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status.ended = True
        self._show()
        if self._frame is not None:
            with suppress(OSError):
                self._frame.stop()

    def update(
        self,
        step: int,
        steps_per_second: float,
        metrics: Mapping[str, float],
        return_mean: float | None,
        length_mean: float | None,
    ) -> None:
        """Take the state after an update; cheap when there is nothing to draw yet.

        metrics: under `group/name`, kept without a copy; the last ones stay if there are none;
        return_mean, length_mean: of the last 100 episodes, None before the first has ended.
        """
        status = self._status
        status.step = step
        status.steps_per_second = steps_per_second
        if metrics:
            status.metrics = metrics
        status.return_mean = return_mean
        status.length_mean = length_mean
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self._show()

    def evaluation(self, step: int, mean: float, std: float, episodes: int) -> None:
        """Show the returns of an evaluation at `step`."""
        returns = f"{panel.short(mean)} {'±' if _is_unicode() else '+-'} {panel.short(std)}"
        self._status.evaluation = [f"return {returns}", f"{episodes} episodes", f"at step {step:,}"]
        if self._frame is None:
            say(f"evaluation at step {step:,}: return {returns} over {episodes} episodes")

    def note(self, message: str) -> None:
        """Print a line for whoever watches; what should stay is for the log."""
        say(message)

    def _show(self) -> None:
        self._status.elapsed = time.monotonic() - self._began
        self._status.remember_return()
        if self._frame is None:
            say(panel.plain_line(self._status))
        elif not self._lost:
            try:
                self._frame.refresh()
            except OSError:  # the terminal is gone, the run goes on
                self._lost = True

    def _draw(self, width: int) -> list[panel.Line]:
        return panel.lines(self._status, width, _is_unicode())


def farewell(folder: Path, result: Mapping[str, Any], commands: Sequence[tuple[str, str]]) -> None:
    """Print what came out of a run, where it is, and what to do next.

    result: as in result.json; commands: each with what it does.
    """
    colours = {"finished": "bold green", "stopped": "bold yellow", "failed": "bold red"}
    say()
    speed = result.get("steps_per_second")
    parts = [f"{result['step']:,} steps", *([f"{speed:,.0f} per second"] if speed else [])]
    say(f"{result['status']:<12}{'   '.join(parts)}", colours.get(result["status"], "bold"))
    evaluation = result.get("eval")
    if evaluation:
        spread = f"{'±' if _is_unicode() else '+-'} {panel.short(evaluation['return_std'])}"
        how = "deterministic" if evaluation["deterministic"] else "stochastic"
        say(
            f"{'evaluation':<12}return {panel.short(evaluation['return_mean'])} {spread}"
            f"   {evaluation['episodes']} episodes, {how}"
        )
    last = result.get("train_return_last100")
    if last is not None:
        say(f"{'training':<12}return {panel.short(last)}   mean of the last 100 episodes")
    say(f"{'folder':<12}{folder}")
    if commands:
        say()
        say("What next", "bold")
    for command, meaning in commands:
        say(f"  {meaning}", "dim")
        say(f"    {command}", "cyan")
