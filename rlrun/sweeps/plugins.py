"""rlrun's sweepers and launchers, made known to Hydra."""

import sys
from types import ModuleType

from hydra.core.plugins import Plugins

from rlrun.sweeps.grid import Grid
from rlrun.sweeps.local import Local
from rlrun.sweeps.search import Search
from rlrun.sweeps.slurm import Slurm

_HOME = "hydra_plugins.rlrun"
"""Hydra takes sweepers and launchers from the package `hydra_plugins` only. A folder of that name
beside ours would be in everybody's way, so it is made in memory."""


def register() -> None:
    """Let configs name them as `hydra_plugins.rlrun.Grid` and so on, in this program."""
    home = sys.modules.setdefault(_HOME, ModuleType(_HOME))
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    vars(package)["rlrun"] = home
    for plugin in (Grid, Local, Search, Slurm):
        plugin.__module__ = _HOME
        setattr(home, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
