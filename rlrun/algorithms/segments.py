"""The observations of a segment of experience as rows of one batch, and what came of them.

The rows are the `(T + 1) * B` observations, time first, and then the `K` last observations of
truncated episodes, whose values take the place of what would have come.
"""

import torch
from torch import Tensor

from rlrun.data.rollout import Rollout
from rlrun.policies.base import Segment


def observed(batch: Rollout) -> tuple[Tensor, Segment]:
    """All observations `[(T + 1) * B + K, ...]`, and how they follow each other."""
    observations = batch.observations.flatten(0, 1)
    if len(batch.final_index):
        observations = torch.cat([observations, batch.final_observations])
    return observations, Segment(batch.state, batch.reset, batch.final_index)


def acted_in(batch: Rollout) -> tuple[Tensor, Segment]:
    """The observations that were acted in, `[T * B, ...]`, and how they follow each other."""
    segment = Segment(batch.state, batch.reset[:-1], batch.final_index[:0])
    return batch.observations[:-1].flatten(0, 1), segment


def by_step(batch: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
    """Values of all rows, `[(T + 1) * B + K]`, as the targets of the critic read them.

    Returns:
        `[T + 1, B]`, and `[T, B]` with those of the last observations where an episode was
        truncated, 0 elsewhere.
    """
    final_values = torch.zeros_like(batch.rewards)
    steps = batch.reset.numel()
    if len(batch.final_index):
        final_values[batch.final_index[:, 0], batch.final_index[:, 1]] = values[steps:]
    return values[:steps].view(batch.reset.shape), final_values
