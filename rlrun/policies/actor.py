"""Who acts: a network, and the distribution of the actions that its output stands for."""

import math
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.functional.distributions import (
    Categorical,
    Distribution,
    Factored,
    Gaussian,
    Probabilities,
)
from rlrun.policies.base import Policy, Segment
from rlrun.schema import UserError
from rlrun.transfer import sent


class Acted(NamedTuple):
    """What one step of `B` environments takes, on the CPU."""

    actions: Tensor
    """`[B]` int64 for Discrete, `[B, J]` int64 for several factors, `[B, D]` for Box."""
    statistics: Tensor
    """`[B, P]`, of the distributions that they were drawn from."""
    state: Tensor
    """`[B, S]`, the recurrent state after this step."""


def factors(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Numbers of choices of all factors of a discrete space; one factor for Discrete, none for Box.

    Raises:
        UserError: nothing can act in this space.
    """
    sizes: tuple[int, ...] = ()
    if isinstance(space, spaces.Discrete):
        sizes = (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(space.nvec.flatten().tolist())
    elif isinstance(space, spaces.MultiBinary):
        sizes = (2,) * math.prod(space.shape)
    elif not (isinstance(space, spaces.Box) and space.dtype in ("float32", "float64")):
        raise UserError(
            f"env: rlrun acts in Discrete, MultiDiscrete and MultiBinary spaces and in Box spaces "
            f"of float32 or float64, not in {space}. {_way_out(space)}"
        )
    if 0 in (space.shape or ()):
        raise UserError(f"env: there is nothing to choose in the action space {space}")
    return sizes


def _way_out(space: spaces.Space[Any]) -> str:
    """What to do about an action space that is not supported."""
    if isinstance(space, spaces.Box):
        into = "a Box of float32" if space.dtype.kind == "f" else "MultiDiscrete"
    elif isinstance(space, (spaces.Dict, spaces.Tuple)):
        into = "one MultiDiscrete, or one Box of float32,"
    else:
        into = "one of these"
    return f"Turn it into {into} with gymnasium.wrappers.TransformAction."


def distribution_of(
    space: spaces.Space[Any], base: Categorical | Probabilities
) -> tuple[Distribution, int]:
    """The distribution of actions in a space, and the width of the output that tells it.

    Args:
        space: of the actions.
        base: of one factor, if they are discrete.

    Raises:
        UserError: nothing can act in this space.
    """
    sizes = factors(space)
    if isinstance(space, spaces.Box):
        return Gaussian(), math.prod(space.shape)
    if isinstance(space, spaces.Discrete):
        return base, sizes[0]
    return Factored(base, sizes), sum(sizes)


class Actor(nn.Module):
    """Acts by the head `policy` of a network; the deviations of a Gaussian are no state's own.

    Args:
        policy: network with a head `policy`.
        distribution: of the actions.
        outputs: width of that head, logits or means.
        log_std_init: where the logarithm of the Gaussian's standard deviation starts.
    """

    def __init__(
        self, policy: Policy, distribution: Distribution, outputs: int, log_std_init: float
    ) -> None:
        super().__init__()
        self.policy = policy
        self.distribution = distribution
        self.log_std: nn.Parameter | None = None
        self.n_statistics = outputs
        if isinstance(distribution, Gaussian):
            log_std = torch.full((outputs,), log_std_init, device=self.device)
            self.log_std = nn.Parameter(log_std)
            self.n_statistics = 2 * outputs

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.policy.parameters()).device

    def statistics(self, latents: Tensor) -> Tensor:
        """Of the distribution of actions, `[..., L]` -> `[..., P]`."""
        return self.distribution.statistics(self.policy.head("policy", latents), self.log_std)

    @torch.no_grad()
    def encode(self, observations: Tensor, reset: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[B, L]` and next state `[B, S]` of one step; arguments as for `act`."""
        device = self.device
        segment = Segment.step(sent(state, device), sent(reset, device))
        return self.policy.encode(self.policy.features(sent(observations, device)), segment)

    @torch.no_grad()
    def act(
        self, observations: Tensor, reset: Tensor, state: Tensor, rng: torch.Generator | None
    ) -> Acted:
        """One step of `B` environments.

        Args:
            observations: `[B, ...]`.
            reset: `[B]` bool, whether they are the first of an episode.
            state: `[B, S]`, the recurrent state after the step before.
            rng: draws the actions; None for the most probable ones.
        """
        latents, state = self.encode(observations, reset, state)
        statistics = self.statistics(latents).cpu()
        if rng is None:
            actions = self.distribution.mode(statistics)
        else:
            actions = self.distribution.sample(statistics, rng)
        return Acted(actions, statistics, state.cpu())
