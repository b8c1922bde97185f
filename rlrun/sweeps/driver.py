"""Carries a search through: asks for trials, watches their runs, tells how they ended.

Nothing but the storage and the folders of sweep and runs is remembered, so that a driver that was
killed is begun again at any moment.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlrun import stored
from rlrun.run.console import say
from rlrun.run.signals import StopRequest
from rlrun.schema import UserError
from rlrun.sweeps import objective, trials
from rlrun.sweeps.folder import CANCEL, CONFIG, Job, State, Sweep
from rlrun.sweeps.pool import Pool
from rlrun.sweeps.settings import Settings
from rlrun.sweeps.trials import Owned, Trials

Plan = Callable[[Mapping[str, Any]], tuple[list[Job], list[dict[str, Any]]]]
"""From parameters to jobs and their checked configs; raises UserError."""


@dataclass
class _Watched:
    """A trial whose runs go on."""

    owned: Owned
    jobs: list[Job]
    every: int | None
    """Steps between evaluations."""
    reported: int
    reason: str = ""
    """Why its runs are being stopped."""


class Driver:
    """One of perhaps several that carry a search.

    Args:
        sweep: takes the jobs.
        pool: carries them.
        found: the trials.
        settings: of the search.
        plan: gives the jobs of a trial.
        room: jobs that the pool runs at once.
    """

    def __init__(
        self, sweep: Sweep, pool: Pool, found: Trials, settings: Settings, plan: Plan, room: int
    ) -> None:
        self._sweep, self._pool, self._trials = sweep, pool, found
        self._settings, self._plan, self._room = settings, plan, room
        self._watched: dict[int, _Watched] = {}
        self._carried: dict[int, Job] = {}  # by our pool, now
        self._submitted: set[int] = set()

    def run(self, stop: StopRequest) -> None:
        """Until all trials are told, or others have them in hand, or a stop is asked for."""
        stopping, began = False, time.time()
        while True:
            if not stop and self._is_cancelled_since(began):
                stop.signal = signal.SIGTERM
            while not stop and len(self._carried) < self._room and self._begin():
                pass
            if not self._watched or (stopping and not self._carried):
                break
            for job in self._pool.poll(0.5):
                self._carried.pop(job.number, None)
            for watched in list(self._watched.values()):
                self._look(watched, stop)
            if stop and not stopping:
                self._pool.stop(self._carried.values())
                stopping = True

    def _is_cancelled_since(self, then: float) -> bool:
        try:
            return (self._sweep.folder / CANCEL).stat().st_mtime > then
        except FileNotFoundError:
            return False

    def _begin(self) -> bool:
        """Take a trial in hand, if there is one."""
        with self._trials.turn():
            owned = self._trials.take()
            if owned is None:
                return False
            self._sweep.jobs = Sweep(self._sweep.folder).jobs  # other drivers add theirs
            try:
                jobs = self._jobs(owned)
                self._trials.note(owned, [job.number for job in jobs])
            except UserError as error:
                self._tell(owned, trials.FAIL, reason=str(error))
                return True
        config = stored.read(self._sweep.job_folder(jobs[0]) / CONFIG)
        every, reported = config["eval"]["every_steps"], self._trials.reported(owned)
        self._watched[owned.number] = _Watched(owned, jobs, every, reported)
        self._look(self._watched[owned.number])
        return True

    def _jobs(self, owned: Owned) -> list[Job]:
        jobs, configs = self._plan(owned.params)
        known = {job.run: job for job in self._sweep.jobs}
        if all(job.run in known for job in jobs):
            return [known[job.run] for job in jobs]
        return self._sweep.add(jobs, configs)

    def _look(self, watched: _Watched, stop: StopRequest | None = None) -> None:
        states = {job.number: self._sweep.state(job) for job in watched.jobs}
        carried = [job for job in watched.jobs if job.number in self._carried]
        failed = any(state.status == "failed" for state in states.values())
        # Runs that a killed driver left behind go on by themselves; they are waited for.
        if carried or any(state.status == "running" for state in states.values()):
            if not watched.reason and failed:
                watched.reason = "another seed failed"
            elif not watched.reason and self._is_behind(watched):
                watched.reason = f"pruned at step {watched.reported:,}"
            else:
                return
            self._pool.stop(carried)
        else:
            self._settle(watched, states, bool(stop))

    def _is_behind(self, watched: _Watched) -> bool:
        """Report what all seeds have reached; whether to stop the trial for it."""
        if watched.every is None:
            return False
        rungs = [
            objective.at_rungs(self._sweep.run_folder(job), watched.every, self._settings)
            for job in watched.jobs
        ]
        for step in sorted(set.intersection(*map(set, rungs))):
            if step > watched.reported:
                watched.reported = step
                value = objective.over_seeds([found[step] for found in rungs], self._settings)
                if self._trials.report(watched.owned, step, value):
                    return True
        return False

    def _settle(self, watched: _Watched, states: dict[int, State], stopping: bool) -> None:
        """None of the runs goes on: tell the trial, or have the runs carried (further)."""
        found = {state.status for state in states.values()}
        if found == {"finished"}:
            return self._complete(watched)
        if "failed" in found:
            reasons = [state.reason for state in states.values() if state.status == "failed"]
            return self._done(watched, trials.FAIL, reason=reasons[0])
        if watched.reason or "pruned" in found:
            old = [state.reason for state in states.values() if state.status == "pruned"]
            reason = watched.reason or old[0]
            for job in watched.jobs:
                if states[job.number].status not in ("finished", "pruned"):
                    self._sweep.report(job, "pruned", reason)
            return self._done(watched, trials.PRUNED, reason=reason)
        rest = [job for job in watched.jobs if states[job.number].status != "finished"]
        ended = [states[job.number].status for job in rest if job.number in self._submitted]
        if stopping or {"stopped", "waiting"} & set(ended):
            return self._leave(watched)
        if all(job.number in self._submitted for job in rest):
            return self._done(watched, trials.FAIL, reason=states[rest[0].number].reason)
        self._submitted.update(job.number for job in rest)
        self._carried |= {job.number: job for job in rest}
        self._pool.submit(rest)

    def _complete(self, watched: _Watched) -> None:
        while self._is_behind(watched):  # report it all: others are compared with it
            pass
        values = [
            objective.at_end(self._sweep.run_folder(job), self._settings) for job in watched.jobs
        ]
        value = objective.over_seeds(values, self._settings)
        if math.isfinite(value):
            return self._done(watched, trials.COMPLETE, value)
        self._done(watched, trials.FAIL, reason=f"its objective is {value}")

    def _done(
        self, watched: _Watched, state: Any, value: float | None = None, reason: str = ""
    ) -> None:
        del self._watched[watched.owned.number]
        self._tell(watched.owned, state, value, reason)

    def _leave(self, watched: _Watched) -> None:
        """Its runs were stopped from outside: they go on when the search is begun again."""
        del self._watched[watched.owned.number]
        self._trials.leave(watched.owned)

    def _tell(self, owned: Owned, state: Any, value: float | None = None, reason: str = "") -> None:
        self._trials.tell(owned, state, value, reason)
        params = "  ".join(f"{key}={value}" for key, value in owned.params.items())
        end = f"{value:.6g}" if value is not None else state.name.lower()
        why = f": {reason.splitlines()[0]}" if reason else ""
        count = f"{self._trials.told()}/{self._settings.n_trials}"
        say(f"[{count}] trial {owned.number}  {end}  {params}{why}")
