"""Sweeps on a Slurm cluster: an array of jobs that survive preemption and time limits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rlrun import stored
from rlrun.run.console import say
from rlrun.schema import UserError
from rlrun.sweeps import slurm_queue as queue
from rlrun.sweeps.folder import CONFIG, Job, State, Status, Sweep
from rlrun.sweeps.pool import OwnLauncher
from rlrun.sweeps.slurm_job import STARTS, saved_step
from rlrun.sweeps.slurm_script import PER_ARRAY, Settings, arrays, script
from rlrun.sweeps.work import trusted

TRIES = 3
"""So often a job that was killed is submitted again."""

_OFTEN, _SELDOM = 1.0, 15.0  # seconds between two looks at the queue
_CANCELLED = "cancelled"


class Slurm(OwnLauncher):
    """`hydra/launcher=slurm`: its file explains the settings.

    Args:
        wait: stay until the jobs are done.
        print_only: show the script and do nothing.
        settings: of the batch script.
    """

    def __init__(self, wait: bool = True, print_only: bool = False, **settings: Any) -> None:
        self.waits = wait
        self.print_only = print_only
        self._given = settings

    def setup(self, **context: Any) -> None:
        """Check the settings; called by Hydra.

        Raises:
            UserError: one of them is not possible.
        """
        for name, value in (("wait", self.waits), ("print_only", self.print_only)):
            if type(value) is not bool:
                raise UserError(f"hydra.launcher.{name}: {value!r} is not possible; true or false")
        lines, extra = self._given.pop("setup", None) or [], self._given.pop("extra", None) or {}
        lines = lines if isinstance(lines, str) else list(lines)
        self._settings = Settings(**self._given, setup=lines, extra=dict(extra))
        self._settings.check()

    def pool(self, sweep: Sweep) -> SlurmPool:
        """What carries the jobs of the sweep."""
        return SlurmPool(sweep, self._settings)

    def show(self, sweep: Sweep, jobs: Sequence[Job], trust: Sequence[str]) -> None:
        """Print the scripts that these jobs would be submitted by."""
        for part, indices in arrays([job.number for job in jobs]).items():
            say(script(self._settings, sweep.folder, sweep.home, part, indices, trust))


class SlurmPool:
    """The jobs of one sweep in Slurm's queue, seen from its driver.

    Args:
        sweep: whose jobs.
        settings: of the batch script, checked.
    """

    def __init__(self, sweep: Sweep, settings: Settings) -> None:
        self._sweep = sweep
        self._settings = settings
        self._watched: dict[int, Job] = {}
        self._ids: dict[int, str] = {}
        self._again: list[Job] = []  # to be submitted again
        self._tries: Counter[int] = Counter()
        self._saved: dict[int, int] = {}  # steps when they were submitted
        self._pause, self._next = _OFTEN, 0.0
        self._is_away = False

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs, but for those that are in the queue already.

        Raises:
            UserError: Slurm refuses them, or is not there.
        """
        try:
            waiting = queue.queued(self._sweep)
            # A cancelled one is in the queue for as long as it takes to save itself.
            new = [job for job in jobs if job.number not in waiting or self._is_cancelled(job)]
            for job in new:
                self._sweep.report(job, "waiting")
                (self._sweep.job_folder(job) / STARTS).unlink(missing_ok=True)
            self._hand_in(new)
        except queue.SlurmError as error:
            raise UserError(f"Slurm does not take the jobs: {error}") from error
        self._watched |= {job.number: job for job in jobs}
        self._ids = {n: found.id for n, found in waiting.items()} | self._ids
        if len(new) < len(jobs):
            say(f"{len(jobs) - len(new)} jobs are in the queue of Slurm already")
        self._pause = _OFTEN

    def _hand_in(self, jobs: Sequence[Job]) -> None:
        configs = [self._sweep.job_folder(job) / CONFIG for job in jobs]
        trust = sorted({name for path in configs for name in trusted(stored.read(path))})
        for part, indices in arrays([job.number for job in jobs]).items():
            place = (self._sweep.folder, self._sweep.home, part, indices)
            array = queue.submit(script(self._settings, *place, trust))
            self._ids |= {PER_ARRAY * part + i: f"{array}_{i}" for i in indices}
            say(f"submitted to Slurm as {array}: {len(indices)} jobs")
        self._saved |= {job.number: saved_step(self._sweep.run_folder(job)) for job in jobs}

    def poll(self, seconds: float) -> list[Job]:
        """Those that have ended; a job that was killed is submitted again, and has not."""
        now = time.monotonic()
        if now < self._next:
            time.sleep(min(seconds, self._next - now))
            if time.monotonic() < self._next:
                return []
        ended: list[Job] = []
        try:
            waiting = queue.queued(self._sweep)
            self._ids |= {n: found.id for n, found in waiting.items()}
            for number, job in list(self._watched.items()):
                if number not in waiting and job not in self._again and self._has_ended(job):
                    ended.append(self._watched.pop(number))
            self._submit_again(waiting)
            self._is_away = False
        except queue.SlurmError as error:
            if not self._is_away:
                say(f"Slurm does not answer; the jobs go on meanwhile: {error}")
            self._is_away = True
        # A job may have ended in the last moment: look soon again while things happen.
        self._pause = _OFTEN if ended else min(1.3 * self._pause, _SELDOM)
        self._next = time.monotonic() + self._pause
        return ended

    def _submit_again(self, waiting: dict[int, queue.Queued]) -> None:
        # One of them may be there already, if Slurm took it and the answer was lost.
        self._again = [job for job in self._again if job.number not in waiting]
        if self._again:
            self._hand_in(self._again)
            self._again = []
            self._pause = _OFTEN

    def _has_ended(self, job: Job) -> bool:
        """Whether a job that has left the queue is over; if not, it is to be submitted again."""
        state = self._sweep.state(job)
        if state.status in ("finished", "failed", "pruned"):
            return True
        if state.status == "running":  # its process is just about to end
            return False
        if self._is_cancelled(job):
            return True
        end = queue.outcome(self._ids[job.number])
        if state.status == "waiting" and end.state == "CANCELLED":
            self._sweep.report(job, "stopped", _CANCELLED)
            return True
        if state.status == "waiting" and end.code:
            reason = f"its batch script ended with exit code {end.code}; see its output.log"
            self._sweep.report(job, "failed", reason)
            return True
        if end.state == "OUT_OF_MEMORY":
            self._sweep.report(job, "failed", "out of memory: raise hydra.launcher.memory")
            return True
        came_further = saved_step(self._sweep.run_folder(job)) > self._saved.get(job.number, -1)
        if end.state != "TIMEOUT" or not came_further:
            self._tries[job.number] += 1
        how = f"Slurm: {end.state or 'forgotten'}"
        if self._tries[job.number] > TRIES:
            self._sweep.report(job, "lost", f"killed {TRIES + 1} times ({how})")
            return True
        say(f"{' '.join(job.words)} was killed ({how}) and is submitted again")
        self._again.append(job)
        return False

    def _is_cancelled(self, job: Job) -> bool:
        record = self._sweep.record(job)
        return (record.get("status"), record.get("reason")) == ("stopped", _CANCELLED)

    def stop(self, jobs: Iterable[Job]) -> None:
        """Cancel these jobs; they save themselves first."""
        _cancelled(self._sweep, jobs)

    def leave(self, jobs: Iterable[Job]) -> None:
        """Say how to look after jobs that go on without the driver."""
        jobs, name, now = list(jobs), self._sweep.folder.name, states(self._sweep)
        for job in jobs:
            if now[job.number].status == "waiting":
                self._sweep.report(job, "waiting")  # one that was killed, and is begun again
        say(
            f"{len(jobs)} jobs go on in Slurm. The same command looks after them again; "
            f"`rlrun sweep status {name}` tells how they stand, `rlrun sweep cancel {name}` "
            "ends them."
        )

    def close(self) -> None:
        """Nothing to give back: the jobs are Slurm's."""


def states(sweep: Sweep) -> dict[int, State]:
    """How each job stands, with what Slurm alone knows, if it answers.

    One that was killed and is in the queue is not lost, and one that waits without being in the
    queue will not begin.
    """
    found = sweep.states()
    try:
        waiting = queue.queued(sweep)
    except (UserError, queue.SlurmError):
        return found
    for number, state in found.items():
        if number in waiting and state.status == "lost":
            status: Status = "waiting" if waiting[number].state == "PENDING" else "running"
            found[number] = State(status, step=state.step)
        elif number not in waiting and state.status == "waiting":
            found[number] = State("lost", "it has left the queue of Slurm", state.step)
    return found


def cancel(sweep: Sweep) -> int:
    """Cancel all jobs of a sweep that wait or run; they save themselves first.

    Returns:
        How many there were.

    Raises:
        UserError: Slurm is not there, or does not answer.
    """
    return _cancelled(sweep, sweep.jobs)


def _cancelled(sweep: Sweep, jobs: Iterable[Job]) -> int:
    try:
        waiting = queue.queued(sweep)
        there = [job for job in jobs if job.number in waiting]
        queue.cancel([waiting[job.number].id for job in there])
    except queue.SlurmError as error:
        raise UserError(f"Slurm does not answer: {error}") from error
    for job in there:
        sweep.report(job, "stopped", _CANCELLED)
    return len(there)
