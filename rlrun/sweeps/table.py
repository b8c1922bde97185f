"""What a sweep tells on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from rlrun.run.console import say
from rlrun.sweeps.folder import Job, Sweep


def tell(sweep: Sweep, job: Job, done: int, count: int) -> None:
    """One line for a job that has ended."""
    state = sweep.state(job)
    reason = f": {state.reason.splitlines()[0]}" if state.reason else ""
    say(f"[{done}/{count}] {state.status}  {' '.join(job.words)}{reason}")


def summary(sweep: Sweep, skipped: Collection[int] = ()) -> int:
    """Tell how all jobs stand; returns the exit code, 1 if one of them is not finished.

    Args:
        sweep: after the jobs.
        skipped: numbers of the jobs that had been finished before.
    """
    states = sweep.states()
    for job in sweep.jobs:
        state = states[job.number]
        shown = "skipped (finished before)" if job.number in skipped else state.status
        reason = f": {state.reason}" if state.reason else ""
        say(f"  {job.number:3d}  {shown:10s}  {' '.join(job.words)}{reason}")
    counts = Counter(state.status for state in states.values())
    say(f"{sweep.folder}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    return 0 if counts["finished"] + counts["pruned"] == len(states) else 1
