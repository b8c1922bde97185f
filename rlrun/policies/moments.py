"""Running mean and variance, to bring observations to a common scale."""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.policies.layers import DictFeatures, VectorFeatures
from rlrun.schema import UserError
from rlrun.spaces import example, leaves

EPSILON = 1e-8  # keeps what never varies finite
CLIP = 10.0  # standard deviations beyond which a value is cut off


class RunningMoments(nn.Module):
    """Mean and variance of everything observed so far, component by component.

    Before anything is observed they are 0 and 1. They live in buffers, so that they are saved
    with the weights, and change by `observe` alone: whoever only acts leaves them as they are.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, rows: Tensor) -> None:
        """Take in `[n, size]` (Chan, Golub and LeVeque 1979)."""
        rows = rows.to(self.mean)
        total = self.count + len(rows)
        share = (len(rows) / total).to(self.mean)  # of the new rows
        shift = rows.mean(0) - self.mean
        spread = rows.var(0, correction=0) - self.variance
        self.variance += share * (spread + (1.0 - share) * shift.square())
        self.mean += share * shift
        self.count.copy_(total)

    def normalized(self, rows: Tensor) -> Tensor:
        """Rows `[n, size]` with mean 0 and variance 1, cut off at ten deviations."""
        deviation = (self.variance + EPSILON).sqrt()
        return ((rows - self.mean) / deviation).clamp(-CLIP, CLIP)


class Normalized(nn.Module):
    """Features of vectors, brought to mean 0 and variance 1 by the moments of those observed.

    Args:
        features: from observations `[N, ...]` to vectors `[N, size]`.
        size: of a vector.
    """

    def __init__(self, features: nn.Module, size: int) -> None:
        super().__init__()
        self.features = features
        self.moments = RunningMoments(size)

    def observe(self, observations: Tensor) -> None:
        """Take fresh observations `[N, ...]` into the moments."""
        self.moments.observe(self.features(observations))

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, ...]` -> `[N, size]`."""
        return self.moments.normalized(self.features(observations))


def normalize(features: nn.Module, space: spaces.Space[Any]) -> nn.Module:
    """The features of observations of `space`, with every vector of a Box normalised.

    Each vector of a Dict or Tuple by moments of its own; classes, bits and pictures are left
    alone. `DictFeatures` are changed in place, all else is wrapped.

    Raises:
        UserError: there is no such vector.
    """
    if isinstance(features, DictFeatures):
        entries = leaves(space)
        found = False
        for i, (part, leaf) in enumerate(zip(features.parts, entries.values(), strict=True)):
            if isinstance(part, VectorFeatures) and _is_numbers(leaf):
                features.parts[i] = Normalized(part, part.size)
                found = True
        if not found:
            raise UserError(
                f"env.normalize_observations: only for Box observations that are vectors, and none "
                f"of this environment's entries ({', '.join(entries)}) is one. Leave it out."
            )
        return features
    if not _is_numbers(space):
        raise UserError(
            f"env.normalize_observations: only for Box observations, not for {space}. Leave it out."
        )
    with torch.no_grad():
        shown = features(example(space))
    if shown.dim() != 2:
        raise UserError(
            "env.normalize_observations: only for vectors, not for pictures. Leave it out."
        )
    return Normalized(features, shown.shape[1])


def _is_numbers(space: spaces.Space[Any]) -> bool:
    """Is it a Box of numbers, as against one of truth values?"""
    return isinstance(space, spaces.Box) and space.dtype != "bool"
