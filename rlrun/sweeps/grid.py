"""`--multirun`: every combination of the values given, each a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlrun.run.console import say
from rlrun.run.lock import RunLock
from rlrun.run.signals import StopRequest, stop_on_signals
from rlrun.sweeps import estimate, plan, table
from rlrun.sweeps.folder import Job, Sweep
from rlrun.sweeps.planner import Planner
from rlrun.sweeps.pool import Carrier, Shows, carry
from rlrun.sweeps.work import trusted


class Grid(Planner):
    """Runs what of the grid is missing or has failed.

    Args:
        params: values by key, as an experiment may give them; the command line wins.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = params or {}

    def sweep(self, arguments: list[str]) -> None:
        """Plan all jobs, run them, tell how they ended, and set the command's exit code.

        Raises:
            UserError: a job cannot be run as it is asked for, or the sweep runs already.
        """
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        jobs, found = plan.planned(plan.combinations(words), self.compose)
        if self.master.sweep.estimate:
            estimate.tell(jobs, found, self.index)
            return
        if isinstance(self.carrier, Shows) and self.carrier.print_only:
            shown = self._missing(self.index.numbered(jobs), found)
            trust = sorted({name for config in found for name in trusted(config)})
            self.carrier.show(self.index, shown, trust)
            return
        with RunLock(self.index.folder), stop_on_signals() as stop:
            jobs = self.index.add(jobs, found)
            missing = self._missing(jobs, found)
            say(_announced(self.index, jobs, missing), "bold")
            if missing and not self._waited_for(missing, stop):
                say(f"`rlrun sweep status {self.index.folder.name}` tells how they stand")
                return
            asked = {job.number for job in jobs}
            skipped = asked - {job.number for job in missing}
            code = table.summary(self.index, skipped, asked)
        self.command.exit_code = stop.exit_code or code

    def _missing(self, jobs: list[Job], found: list[dict[str, Any]]) -> list[Job]:
        """Those that are still to be run, or are to be begun anew."""
        return [
            job
            for job, config in zip(jobs, found, strict=True)
            if self.index.state(job).status != "finished" or config["run"]["overwrite"]
        ]

    def _waited_for(self, jobs: list[Job], stop: StopRequest) -> bool:
        """Have the jobs carried; whether they have come to their end by now."""
        if not isinstance(self.carrier, Carrier):
            self.launch(jobs)
            return True
        pool = self.carrier.pool(self.index)
        try:
            if self.carrier.waits:
                carry(self.index, pool, jobs, stop)
            else:
                pool.submit(jobs)
        finally:
            pool.close()
        return self.carrier.waits


def _announced(sweep: Sweep, jobs: list[Job], missing: list[Job]) -> str:
    before = len(jobs) - len(missing)
    steps = sum(job.total_timesteps for job in missing)
    parts = [f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}"]
    parts += [f"{before} finished before"] if before else []
    parts += [f"{len(missing)} to run, {steps:,} steps"] if missing else []
    return f"{sweep.folder}: {', '.join(parts)}"
