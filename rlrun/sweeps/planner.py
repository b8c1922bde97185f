"""What rlrun's sweepers share: words to configs, a folder, a launcher, an exit code."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import Overrides
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlrun import config as configs
from rlrun import explain, usage
from rlrun.schema import UserError
from rlrun.sweeps.folder import Job, Sweep, name_of
from rlrun.sweeps.work import STOPPED, trusted, work


class Planner(Sweeper):
    """A sweeper of Hydra's, begun."""

    marks: tuple[str, ...] = ()
    """Words that set its sweeps apart from those of another sweeper with the same words."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: Any
    ) -> None:
        """Called by Hydra; makes the launcher."""
        setup_globals()
        self.command: Any = task_function
        """rlrun's command line, which takes the exit code."""
        self.master = config
        """The config that all jobs start from, Hydra's own settings included."""
        self.loader: Any = hydra_context.config_loader
        self._bases: dict[tuple[str, ...], Any] = {}  # composed, by the words that choose options
        name = config.sweep.name or name_of([*config.hydra.overrides.task, *self.marks])
        self.index = Sweep(Path(config.hydra.sweep.dir, name))
        self.index.command = sys.argv[1:]
        self.index.launcher = configs.plain(config.hydra.launcher)
        self.carrier: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=carried, config=config
        )

    def compose(self, words: list[str]) -> dict[str, Any]:
        """The config of one job, not checked.

        Raises:
            UserError: Hydra refuses the words.
        """
        try:
            return self._composed(words)
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            raise UserError(explain.explain(error, [usage.config_folder()])) from error

    def _composed(self, words: list[str]) -> dict[str, Any]:
        """The config of one job.

        Hydra composes the options of the groups first and puts the values on top. The former,
        which takes most of the time, is done once for all jobs that differ in values alone.
        """
        overrides = OverridesParser.create(self.loader).parse_overrides(words)
        values = Overrides(self.loader.repository, overrides).config_overrides
        values = [value for value in values if not value.is_hydra_override()]
        if self.master.hydra.searchpath:  # there may be more groups than the loader knows of
            values = []
        kept = {id(value) for value in values}
        choices = tuple(str(word.input_line) for word in overrides if id(word) not in kept)
        if choices not in self._bases:
            base = self.loader.load_sweep_config(self.master, list(choices))
            with open_dict(base):
                del base["hydra"]
            self._bases[choices] = base
        composed = copy.deepcopy(self._bases[choices])
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return configs.plain(composed)

    def launch(self, jobs: list[Job]) -> None:
        """Have jobs carried by a launcher that is not rlrun's own."""
        place = f"hydra.sweep.dir='{self.index.folder}'"  # Hydra composes each job anew
        try:
            ended = self.carrier.launch([[*job.words, place] for job in jobs], initial_job_idx=0)
        except SystemExit as end:
            if end.code not in STOPPED:
                raise
            return  # it was meant for the whole sweep, which heard of it too
        for job, result in zip(jobs, ended, strict=True):
            if result.status is JobStatus.FAILED:
                self.index.report(job, "failed", repr(result._return_value))


def carried(composed: Any) -> int:
    """A job in the process of a launcher that is not rlrun's own."""
    config = configs.check(configs.plain(composed))
    sweep = Sweep(Path(HydraConfig.get().sweep.dir))
    run = str(configs.run_folder(config))
    (job,) = (job for job in sweep.jobs if job.run == run)
    code = work(sweep.folder, job.number, trusted(config))
    if code in STOPPED:
        raise SystemExit(code)  # and the jobs after it do not start
    return code
