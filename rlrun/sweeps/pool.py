"""What carries the jobs of a sweep: processes here, or a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction

from rlrun.run.signals import StopRequest
from rlrun.schema import UserError
from rlrun.sweeps import table
from rlrun.sweeps.folder import Job, Sweep


class Pool(Protocol):
    """Carries jobs of one sweep; each runs `rlrun.sweeps.work.work` in a process of its own.

    What became of a job stands in the folder of the sweep: `Sweep.state`.
    """

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take these jobs in hand; they run as soon as there is room."""

    def poll(self, seconds: float) -> list[Job]:
        """Those that have ended since the last call, waiting for one at most so many seconds."""

    def stop(self, jobs: Iterable[Job]) -> None:
        """Let these save themselves and end; those that have not begun never begin."""

    def close(self) -> None:
        """Give everything back; jobs that still run go on only if nobody needs to watch them."""


@runtime_checkable
class Detached(Protocol):
    """A pool whose jobs go on without the driver."""

    def leave(self, jobs: Iterable[Job]) -> None:
        """Say how to look after jobs that the driver leaves alone."""


@runtime_checkable
class Shows(Protocol):
    """A launcher that can show what it would do."""

    print_only: bool
    """Whether that is all it is asked for."""

    def show(self, sweep: Sweep, jobs: Sequence[Job], trust: Sequence[str]) -> None:
        """Print it; nothing is written, so that the folder of the sweep may be missing."""


@runtime_checkable
class Carrier(Protocol):
    """A launcher of rlrun's own: it gives a pool, and says whether to wait for it."""

    waits: bool
    """Whether the command stays until the jobs are done."""

    def pool(self, sweep: Sweep) -> Pool:
        """A pool for the jobs of the sweep."""


class OwnLauncher(Launcher):
    """What Hydra asks of a launcher; rlrun's sweepers ask for its `pool` instead."""

    waits = True

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: Any
    ) -> None:
        """Nothing to keep."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Refuse sweepers that are not rlrun's."""
        raise UserError("hydra/launcher: this one works with hydra/sweeper=grid or optuna only")


def jobs_at_once(launcher: Mapping[str, Any]) -> int | None:
    """How many jobs a launcher carries at once, by its config; None if it does not say."""
    if "n_jobs" not in launcher:
        return launcher.get("parallel")
    n_jobs = launcher["n_jobs"]
    # None is rlrun's word for all cores, and a negative number that of others.
    return n_jobs if isinstance(n_jobs, int) and n_jobs > 0 else len(os.sched_getaffinity(0))


def carry(sweep: Sweep, pool: Pool, jobs: Sequence[Job], stop: StopRequest) -> None:
    """Have all these jobs carried to their end, or stopped when the driver is asked to stop."""
    waiting = {job.number: job for job in jobs}
    pool.submit(jobs)
    stopping = False
    while waiting:
        for job in pool.poll(0.5):
            if waiting.pop(job.number, None) is not None:
                table.tell(sweep, job, len(jobs) - len(waiting), len(jobs))
        if stop and isinstance(pool, Detached):
            pool.leave(waiting.values())
            return
        if stop and not stopping:
            pool.stop(waiting.values())
            stopping = True
