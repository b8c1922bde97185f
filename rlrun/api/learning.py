"""What goes on around `learn`: who looks on, and where the metrics go."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rlrun.api.base_callback import BaseCallback
from rlrun.envs import Step
from rlrun.run.loggers import TensorBoardLogger
from rlrun.run.training import Training
from rlrun.spaces import shown


class Watch:
    """Tells a callback what happens in a training; a context, which ends with it.

    Args:
        model: that is trained, for the callback to use.
        callback: looks on.
        told: what the callback finds in its `locals` from the start.
    """

    def __init__(self, model: Any, callback: BaseCallback, told: Mapping[str, Any]) -> None:
        self._callback = callback
        self._space = model.observation_space
        self._told = {"self": model, "callback": callback, **told}
        callback.init_callback(model)

    def __enter__(self) -> Self:
        try:
            self._callback.on_training_start(self._told, globals())
        except BaseException:
            self._callback.on_training_end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._callback.on_training_end()

    def rollout_start(self) -> None:
        """A segment begins."""
        self._callback.on_rollout_start()

    def step(self, step: Step) -> bool:
        """All environments have taken a step; False to stop."""
        self._callback.update_locals(
            {
                "obs": shown(self._space, step.obs),
                "rewards": step.reward,
                "dones": step.terminated | step.truncated,
                "ep_returns": [episode.ret for episode in step.episodes],
                "ep_lengths": [episode.length for episode in step.episodes],
            }
        )
        return self._callback.on_step() is not False

    def rollout_end(self) -> None:
        """A segment is collected."""
        self._callback.on_rollout_end()


class Record:
    """Takes what callbacks measure into the next row of the metrics."""

    def __init__(self, recorded: dict[str, float]) -> None:
        self._recorded = recorded

    def record(self, key: str, value: float) -> None:
        """Show `value` under `group/name`."""
        self._recorded[key] = float(value)


class Report:
    """Shows the metrics of one `learn` on the terminal and in TensorBoard; a context.

    Args:
        verbose: whether to print.
        folder: of TensorBoard's runs; None for none.
        name: of the run; a number is added: that of the last one if it goes on, else the next.
        step: environment steps so far; 0 for a new run.
    """

    def __init__(
        self, verbose: bool, folder: str | os.PathLike[str] | None, name: str, step: int
    ) -> None:
        self._verbose = verbose
        self._view: TensorBoardLogger | None = None
        if folder is not None:
            self._view = TensorBoardLogger()
            runs, new = Path(folder), step == 0
            self._view.open(runs / f"{name}_{max(1, _number(runs, name) + new)}", step)
        self._started, self._first = time.perf_counter(), step

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row of metrics."""
        seconds = time.perf_counter() - self._started
        clock = {
            "time/seconds": seconds,
            "time/steps_per_second": (step - self._first) / max(seconds, 1e-9),
        }
        rows = {**metrics, **clock}
        if self._view is not None:
            self._view.write(step, rows)
        if self._verbose:
            print(_table({"train/timesteps": step, **rows}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._view is not None:
            self._view.close(0)


def train(training: Training, total: int, log_interval: int, watch: Watch, report: Report) -> None:
    """Learn until `total` steps are done or the callback stops."""
    while training.step < total:
        rollout = training.collect(watch)
        if rollout is None:
            return
        if metrics := training.learn(rollout, total, log_interval):
            report.show(training.step, metrics)
    training.algorithm.settle()


def _number(folder: Path, name: str) -> int:
    """The highest number of a run of that name; 0 if there is none."""
    pattern = re.compile(re.escape(name) + r"_(\d+)")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max([int(match[1]) for each in names if (match := pattern.fullmatch(each))], default=0)


def _table(rows: Mapping[str, float]) -> str:
    texts = {
        name: f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        for name, value in rows.items()
    }
    width = max(map(len, texts)), max(map(len, texts.values()))
    line = "-" * (sum(width) + 7)
    body = [f"| {name:<{width[0]}} | {text:>{width[1]}} |" for name, text in texts.items()]
    return "\n".join([line, *body, line])
