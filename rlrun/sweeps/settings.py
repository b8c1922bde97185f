"""The settings of a search; conf/hydra/sweeper/optuna.yaml explains each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlrun.schema import PositiveInt, Range, UserError


def missing(who_needs: str, error: ModuleNotFoundError) -> UserError:
    """What to say where a package of the extra `search` is not installed."""
    package = str(error.name).partition(".")[0]
    return UserError(f"{who_needs} {package}: pip install 'rlrun[search]'")


@dataclass(frozen=True)
class Asha:
    """When trials are stopped early."""

    min_steps: PositiveInt | None = None
    factor: Annotated[int, Range(2)] = 3


@dataclass(frozen=True)
class Settings:
    """Keys of `hydra.sweeper`."""

    n_trials: PositiveInt = 30
    seeds: PositiveInt = 1
    objective: Literal["final", "auc"] = "final"
    over_seeds: Literal["iqm", "mean"] = "iqm"
    sampler: Literal["tpe", "random", "cmaes"] = "tpe"
    sampler_seed: int = 0
    pruner: Literal["none", "asha"] = "none"
    asha: Asha = field(default_factory=Asha)
    storage: str | None = None
    study: str | None = None
