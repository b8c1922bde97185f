"""The moments of observations that stable-baselines kept beside a model, in VecNormalize."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.api.sb2.file import DAMAGE, JSON_LIMIT, Array, arrays, bounded, reason
from rlrun.policies.layers import VectorFeatures
from rlrun.policies.moments import CLIP, EPSILON
from rlrun.schema import UserError

COUNT = 1_000_000  # observations that moments without a count stand for: others shift them slowly
FIXED = {"epsilon": EPSILON, "clip_obs": CLIP}


def moments(
    values: Mapping[str, Any] | str | Path, observation_space: spaces.Space[Any]
) -> dict[str, Tensor]:
    """Entries of the state dict of an `Actor` whose observations are `Normalized`.

    Args:
        values: `mean` and `var` of each component and, if known, the `count` of observations,
            `epsilon` and `clip_obs`; or the path of a `.json` or `.npz` file with them.
        observation_space: of one environment.

    Raises:
        UserError: they do not fit the space, or stand for another way of normalising.
    """
    if not isinstance(values, Mapping):
        values = _read(Path(values))
    allowed = ("mean", "var", "count", *FIXED)
    if not {"mean", "var"} <= set(values) <= set(allowed):
        raise UserError(
            f"moments: found {', '.join(map(str, values)) or 'nothing'}; needed are mean and var, "
            f"allowed are {', '.join(allowed)}"
        )
    found = {name: _numbers(name, value) for name, value in values.items()}
    for name, fixed in FIXED.items():
        if not np.array_equal(found.get(name, fixed), fixed):
            raise UserError(f"moments: {name}: rlrun normalises with {fixed} only")
    mean, variance = found["mean"].reshape(-1), found["var"].reshape(-1)
    count = found.get("count", np.array(float(COUNT)))
    size = VectorFeatures(observation_space).size
    if not isinstance(observation_space, spaces.Box) or not mean.size == variance.size == size:
        raise UserError(
            f"moments: {mean.size} means and {variance.size} variances do not fit "
            f"{observation_space}; needed is one of each for every number of a Box"
        )
    if (variance < 0).any() or count.size != 1 or not 0 <= count.item() < 2**63:
        raise UserError("moments: var and count are at least 0, and there is one count")
    prefix = "policy.features.moments"
    return {
        f"{prefix}.mean": torch.from_numpy(mean.astype(np.float32)),
        f"{prefix}.variance": torch.from_numpy(variance.astype(np.float32)),
        f"{prefix}.count": torch.tensor(round(count.item())),
    }


def _read(path: Path) -> dict[str, Any]:
    """The entries of a file."""
    try:
        if path.suffix not in (".json", ".npz"):
            raise ValueError("its name must end with .json or .npz")
        with path.open("rb") as file:
            raw = bounded(file, path.name, JSON_LIMIT)
        entries: Any = json.loads(raw) if path.suffix == ".json" else arrays(raw)
        if not isinstance(entries, dict):
            raise ValueError("it holds no mapping")
    except DAMAGE as error:
        raise UserError(f"{path} holds no moments: {reason(error)}") from error
    return entries


def _numbers(name: str, value: Any) -> Array:
    """A value as an array of finite doubles."""
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"moments: {name} is made of no numbers") from error
    if not np.isfinite(numbers).all():
        raise UserError(f"moments: {name} has values that are not finite")
    return numbers
