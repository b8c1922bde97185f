"""Environments: any Gymnasium id as a batch of environments whose state can be restored.

The names are loaded on first use: tab completion needs `rlrun.envs.registry` only, and is quicker
without numpy and gymnasium.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlrun.envs.make import is_deterministic, make_vec
    from rlrun.envs.vector import (
        BadEnvironment,
        Episode,
        Interface,
        ReplayMismatch,
        Step,
        VectorEnv,
    )

__all__ = [
    "BadEnvironment",
    "Episode",
    "Interface",
    "ReplayMismatch",
    "Step",
    "VectorEnv",
    "is_deterministic",
    "make_vec",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "make" if name in ("is_deterministic", "make_vec") else "vector"
    return getattr(import_module(f"{__name__}.{home}"), name)
