"""What a sweep tells on the terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rlrun import stored
from rlrun.run.console import say
from rlrun.run.panel import duration, short
from rlrun.sweeps import groups
from rlrun.sweeps.folder import OUTPUT, Job, State, Sweep

COLOURS = {
    "finished": "",
    "running": "cyan",
    "failed": "red",
    "lost": "red",
    "stopped": "yellow",
    "pruned": "dim",
    "waiting": "dim",
}
"""How the state of a job looks on a terminal."""
_TROUBLE = ("failed", "lost", "stopped")
_DONE = ("finished", "pruned")


def tell(sweep: Sweep, job: Job, done: int, count: int) -> None:
    """One line for a job that has ended."""
    state = sweep.state(job)
    parts = [f"[{done:{len(str(count))}}/{count}] {state.status:8}  {label(sweep, job)}"]
    if state.status == "finished":
        result = stored.read_json(sweep.run_folder(job) / "result.json")
        value = groups.evaluation_return(result)
        value = groups.training_return(result) if value is None else value
        parts += [] if value is None else [f"return {short(value)}"]
    elif state.reason:
        parts.append(first_line(state.reason))
    parts += [] if state.seconds is None else [f"in {duration(state.seconds)}"]
    say("   ".join(parts), COLOURS[state.status])


def summary(
    sweep: Sweep, skipped: Collection[int] = (), asked: Collection[int] | None = None
) -> int:
    """Tell how all jobs stand; returns the exit code, 1 if one that was asked for is not finished.

    Args:
        sweep: after the jobs.
        skipped: numbers of the jobs that had been finished before.
        asked: numbers of the jobs of this command; None: all of them.
    """
    states = sweep.states()
    say()
    found = groups.measured(sweep, states)
    for index, line in enumerate(columns(HEAD, rows(found))):
        say(line, "" if index else "bold")
    if any(group.returns for group in found.rows):
        say(f"return: {meaning(found)}", "dim")
    for job in sweep.jobs:
        if states[job.number].status in _TROUBLE:
            trouble(sweep, job, states[job.number])
    say()
    say(f"{sweep.folder}: {counted(states.values(), len(skipped))}", "bold")
    if all(states[number].status in _DONE for number in (states if asked is None else asked)):
        return 0
    retry = f"`rlrun sweep retry {sweep.folder.name}`"
    say(f"The same command again, or {retry}, runs what is not finished.")
    return 1


HEAD = ("jobs", "seeds", "return", "IQM", "95 % of the mean", "steps/s")
"""Of the table of all groups."""


def rows(found: groups.Groups) -> list[tuple[str, ...]]:
    """The table of all groups."""
    lines: list[tuple[str, ...]] = []
    for group in found.rows:
        returns = group.returns
        around = returns.interval if returns else None
        lines.append(
            (
                group.label,
                f"{group.finished}/{len(group.jobs)}",
                short(returns.mean) if returns else "-",
                short(returns.iqm) if returns else "-",
                f"{short(around[0])} to {short(around[1])}" if around else "-",
                "-" if group.speed is None else f"{group.speed:,.0f}",
            )
        )
    return lines


def meaning(found: groups.Groups) -> str:
    """What the returns of the table are."""
    if found.from_evaluation:
        return "mean over the seeds of the last evaluation of each"
    return "mean over the seeds of the last 100 episodes of each training"


def columns(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A table as lines, its first `left` columns flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *lines)
    ]


def counted(states: Iterable[State], skipped: int = 0) -> str:
    """How many jobs there are of each kind."""
    counts = Counter[str](state.status for state in states)
    total = sum(counts.values())
    before = f" ({skipped} before)" if skipped else ""
    parts = [f"{counts['finished']} of {total} job{'' if total == 1 else 's'} finished{before}"]
    parts += [f"{counts[status]} {status}" for status in list(COLOURS)[1:] if counts[status]]
    return ", ".join(parts)


def trouble(sweep: Sweep, job: Job, state: State) -> None:
    """Why a job did not finish, and where to read on."""
    say()
    reason = f": {state.reason}" if state.reason else ""
    say(f"{state.status} {label(sweep, job)}{reason}", COLOURS[state.status])
    log = log_of(sweep, job)
    if log is not None:
        say(f"  {shown(log)}", "dim")


def log_of(sweep: Sweep, job: Job) -> Path | None:
    """What a job printed, else the log of its run, if there is any."""
    places = (sweep.job_folder(job) / OUTPUT, sweep.run_folder(job) / "run.log")
    return next((path for path in places if path.is_file()), None)


def shown(path: Path) -> str:
    """A path as one types it here."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


def label(sweep: Sweep, job: Job) -> str:
    """The words that tell a job from the others."""
    return groups.labels(sweep.jobs)[job.number]


def first_line(text: str) -> str:
    """Of a reason, what fits into one line."""
    return (text.splitlines() or [""])[0]


def progress(states: Mapping[int, State], jobs: Sequence[Job]) -> float:
    """Share of the steps of all jobs that is done, 0 to 1."""
    done = sum(min(states[job.number].step, job.total_timesteps) for job in jobs)
    return done / max(1, sum(job.total_timesteps for job in jobs))
