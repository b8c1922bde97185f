"""What ACER estimates on a segment: action values, their targets, and the policy gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms import segments
from rlrun.data.rollout import Rollout
from rlrun.functional.distributions import Distribution
from rlrun.functional.returns import retrace
from rlrun.policies.base import Head, Policy


class Estimates(NamedTuple):
    """What comes of a segment of `N = T * B` steps; only `outputs` have gradients."""

    gradient: Tensor
    """`[N, P]`, ascent direction of the policy by its statistics, without entropy and bounds."""
    outputs: list[Tensor]
    """What the critic has to move: `[N]`, or `[(T + 1) * B + K]` with the rows that bootstrap."""
    errors: list[Tensor]
    """Gradient of its loss by each of these outputs, per step."""
    q: Tensor
    """`[N]`, values of the actions taken."""
    q_ret: Tensor
    """`[N]`, their Retrace targets."""
    values: Tensor
    """`[N]`."""
    advantages: Tensor
    """`[N]`, as they weigh the actions taken."""
    rho: Tensor
    """`[N]`, importance ratios of the actions taken."""
    losses: Callable[[], tuple[Tensor, Tensor]]
    """`[N]` each, whose negative gradient `gradient` is: truncated term, bias correction. Only
    the log asks for them."""


class Estimator(Protocol):
    """`acer_exact.Exact` or `acer_sampled.Sampled`."""

    distribution: Distribution
    outputs: int
    """Width of the head of the policy."""

    @staticmethod
    def heads(space: spaces.Space[Any]) -> dict[str, Head]:
        """What the network must have for actions in `space`; raises UserError if none can."""

    def estimates(
        self,
        policy: Policy,
        latents: Tensor,
        statistics: Tensor,
        batch: Rollout,
        rng: torch.Generator,
    ) -> Estimates:
        """Estimates for a segment.

        Args:
            policy: the network, whose heads are read.
            latents: `[(T + 1) * B + K, L]`, of all rows of `segments.observed`.
            statistics: `[(T + 1) * B + K, P]`, likewise.
            batch: the segment.
            rng: draws actions.
        """


def retrace_targets(batch: Rollout, q: Tensor, values: Tensor, rho: Tensor, gamma: float) -> Tensor:
    """Retrace targets `[T * B]` with traces `min(1, rho)`; `values` are those of all rows."""
    shape = batch.rewards.shape
    step_values, final_values = segments.by_step(batch, values)
    return retrace(
        batch.rewards,
        q.view(shape),
        step_values,
        rho.view(shape),
        batch.terminated,
        batch.truncated,
        final_values,
        gamma,
    ).flatten()
