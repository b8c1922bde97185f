"""`--multirun`: every combination of the values given, each a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from rlrun.run.console import say
from rlrun.run.lock import RunLock, clear
from rlrun.run.signals import StopRequest, stop_on_signals
from rlrun.schema import UserError
from rlrun.sweeps import estimate, plan, table
from rlrun.sweeps.folder import SEARCH, Job, Sweep
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
        if (self.index.folder / SEARCH).exists():
            raise UserError(
                f"{self.index.folder} is a search; give the grid another place by sweep.name=NAME"
            )
        words = [*(f"{key}={_typed(value)}" for key, value in self.params.items()), *arguments]
        jobs, found = plan.planned(plan.combinations(words, self.loader), self.compose)
        if self.master.sweep.estimate:
            estimate.tell(jobs, found, self.index)
            return
        if isinstance(self.carrier, Shows) and self.carrier.print_only:
            shown = self._missing(self.index.numbered(jobs))
            trust = sorted({name for config in found for name in trusted(config)})
            self.carrier.show(self.index, shown, trust)
            return
        with RunLock(self.index.folder), stop_on_signals() as stop:
            _clear(self.index, jobs, found)
            jobs = self.index.add(jobs, found)
            missing = self._missing(jobs)
            say(_announced(self.index, jobs, missing), "bold")
            if missing and not self._waited_for(missing, stop):
                say(f"`rlrun sweep status {self.index.folder.name}` tells how they stand")
                return
            asked = {job.number for job in jobs}
            skipped = asked - {job.number for job in missing}
            code = table.summary(self.index, skipped, asked)
        self.command.exit_code = stop.exit_code or code

    def _missing(self, jobs: list[Job]) -> list[Job]:
        """Those that are still to be run."""
        return [job for job in jobs if self.index.state(job).status != "finished"]

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


def _typed(value: Any) -> str:
    """A value of a YAML file as one types it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _clear(sweep: Sweep, jobs: list[Job], configs: list[dict[str, Any]]) -> None:
    """Empty the runs that are to be begun anew, all at once: none of them may count as done.

    Their configs say no more of it, so that a job that is begun a second time goes on.
    """
    anew = [
        (sweep.run_folder(job), config["run"])
        for job, config in zip(jobs, configs, strict=True)
        if config["run"]["overwrite"]
    ]
    with ExitStack() as stack:
        for run, _ in anew:
            stack.enter_context(RunLock(run))
        for run, node in anew:
            clear(run)
            node["overwrite"] = False


def _announced(sweep: Sweep, jobs: list[Job], missing: list[Job]) -> str:
    before = len(jobs) - len(missing)
    steps = sum(job.total_timesteps for job in missing)
    parts = [f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}"]
    parts += [f"{before} finished before"] if before else []
    parts += [f"{len(missing)} to run, {steps:,} steps"] if missing else []
    return f"{sweep.folder}: {', '.join(parts)}"
