"""`hydra/sweeper=optuna`: looks for the best of the ranges given, trial by trial."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrun import config as configs
from rlrun import schema
from rlrun.run.console import say
from rlrun.run.lock import RunLock
from rlrun.run.signals import stop_on_signals
from rlrun.schema import UserError
from rlrun.sweeps import plan
from rlrun.sweeps.folder import INDEX, Job, Sweep
from rlrun.sweeps.planner import Planner
from rlrun.sweeps.pool import Carrier, jobs_at_once
from rlrun.sweeps.settings import Asha, Settings, missing

if TYPE_CHECKING:
    from rlrun.sweeps.space import Space


class Search(Planner):
    """Asks Optuna for trials, and has each of them trained with several seeds."""

    marks = ("optuna",)

    def __init__(self, **settings: Any) -> None:
        """Its settings are read, and checked, when the search begins."""

    def sweep(self, arguments: list[str]) -> None:
        """Carry the search to its end, or go on with it, and set the command's exit code.

        Raises:
            UserError: something has to be changed first.
        """
        if self.master.sweep.estimate:
            raise UserError(
                "sweep.estimate=true: a grid can be estimated, not a search, whose trials are not "
                "known before"
            )
        try:
            from rlrun.sweeps import search_report, space, trials
            from rlrun.sweeps.driver import Driver
        except ModuleNotFoundError as error:
            raise missing("hydra/sweeper=optuna needs the package", error) from error
        settings = _checked(configs.plain(self.master.hydra.sweeper))
        carrier, room, folder = self._carrier(), self._room(), self.index.folder
        found = space.space(arguments)
        settings = self._probed(found, settings)
        if (folder / INDEX).exists() and not trials.place_of(folder):
            raise UserError(f"{folder} is a grid; give the search another place by sweep.name=NAME")
        identity = {
            "words": sorted(arguments),
            "seeds": settings.seeds,
            "objective": settings.objective,
            "over_seeds": settings.over_seeds,
        }
        with trials.quiet(), stop_on_signals() as stop, ExitStack() as stack:
            study = trials.Trials(folder, settings, found.ranges, identity)
            stack.callback(study.close)
            with study.turn():
                self.index.jobs = Sweep(folder).jobs
                self.index.save()
            _hold(stack, folder)
            told, count = study.told(), settings.n_trials
            say(f"{folder}: {count} trials, {max(0, count - told)} to run")
            pool = carrier.pool(self.index)
            stack.callback(pool.close)

            def planned(params: Mapping[str, Any]) -> tuple[list[Job], list[dict[str, Any]]]:
                return self._planned(found, params, settings.seeds)

            Driver(self.index, pool, study, settings, planned, room).run(stop)
            code = search_report.report(self.index)
        self.command.exit_code = stop.exit_code or code

    def _carrier(self) -> Carrier:
        shown = self.index.launcher.get("print_only")
        if isinstance(self.carrier, Carrier) and self.carrier.waits and not shown:
            return self.carrier
        raise UserError(
            "hydra/sweeper=optuna needs a launcher that it can watch: hydra/launcher=local, or "
            "hydra/launcher=slurm that waits for its jobs"
        )

    def _room(self) -> int:
        """How many jobs the launcher runs at once: so many are kept going."""
        if room := jobs_at_once(self.index.launcher):
            return room
        raise UserError(
            "hydra.launcher.parallel: a search learns from the trials before, so say how many jobs "
            "it may have at once: hydra.launcher.parallel=N"
        )

    def _planned(
        self, found: Space, params: Mapping[str, Any], seeds: int
    ) -> tuple[list[Job], list[dict[str, Any]]]:
        words = found.words(params)
        return plan.planned([[*words, f"seed={seed}"] for seed in range(seeds)], self.compose)

    def _probed(self, found: Space, settings: Settings) -> Settings:
        """Check the ranges by their ends, and what the search reads of the evaluations.

        Raises:
            UserError: trials would be refused, or leave nothing to go by.
        """
        for params in found.probes():
            try:
                _, (config,) = self._planned(found, params, seeds=1)
            except UserError as error:
                whole = "\nWhole numbers between two bounds: int(interval(LOW,HIGH))"
                between = any(isinstance(value, float) for value in params.values())
                raise UserError(f"{error}{whole if between else ''}") from error
            every = config["eval"]["every_steps"]
            if config["run"]["overwrite"]:
                raise UserError("run.overwrite=true: a search goes on with its runs; leave it out")
            if not config["eval"]["episodes"]:
                raise UserError("eval.episodes=0: a search goes by the returns of evaluations")
            if every is None and (settings.pruner != "none" or settings.objective == "auc"):
                raise UserError(
                    "pruning, and objective=auc, read the evaluations during the training: type "
                    "eval.every_steps=N"
                )
        if settings.asha.min_steps is None:
            return replace(settings, asha=replace(settings.asha, min_steps=every))
        return settings


def _checked(given: Mapping[str, Any]) -> Settings:
    given = {key: value for key, value in given.items() if key != "_target_"}
    values = schema.coerced(Settings, given)
    if "params" in given:
        raise UserError(
            "hydra/sweeper=optuna: this experiment is a grid (hydra.sweeper.params); leave out the "
            "one or the other"
        )
    if found := schema.problems(Settings, values, prefix="hydra.sweeper."):
        raise UserError("\n".join(found))
    values = schema.completed(Settings, values)
    return Settings(**(values | {"asha": Asha(**values["asha"])}))


def _hold(stack: ExitStack, folder: Path) -> None:
    """Be the driver that others see, unless there is one already that we help."""
    try:
        stack.enter_context(RunLock(folder))
    except UserError:
        say(f"{folder}: another driver is at work too")
