"""What rlrun's sweepers share: words to configs, a folder, a launcher, an exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import open_dict

from rlrun import config as configs
from rlrun.sweeps.folder import Job, Sweep, name_of
from rlrun.sweeps.work import trusted, work


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
        self._loader = hydra_context.config_loader
        name = config.sweep.name or name_of([*config.hydra.overrides.task, *self.marks])
        self.index = Sweep(Path(config.hydra.sweep.dir, name))
        self.index.command = sys.argv[1:]
        self.index.launcher = configs.plain(config.hydra.launcher)
        self.carrier: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=carried, config=config
        )

    def compose(self, words: list[str]) -> dict[str, Any]:
        """The config of one job, not checked."""
        composed = self._loader.load_sweep_config(self.master, words)
        with open_dict(composed):
            del composed["hydra"]
        return configs.plain(composed)

    def launch(self, jobs: list[Job]) -> None:
        """Have jobs carried by a launcher that is not rlrun's own."""
        place = f"hydra.sweep.dir='{self.index.folder}'"  # Hydra composes each job anew
        ended = self.carrier.launch([[*job.words, place] for job in jobs], initial_job_idx=0)
        for job, result in zip(jobs, ended, strict=True):
            if result.status is JobStatus.FAILED:
                self.index.report(job, "failed", repr(result._return_value))


def carried(composed: Any) -> int:
    """A job in the process of a launcher that is not rlrun's own."""
    config = configs.check(configs.plain(composed))
    sweep = Sweep(Path(HydraConfig.get().sweep.dir))
    run = str(configs.run_folder(config))
    (job,) = (job for job in sweep.jobs if job.run == run)
    return work(sweep.folder, job.number, trusted(config))
