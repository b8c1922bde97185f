"""Who acts: a network, and the distribution of the actions that its output stands for."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from rlrun.policies.cnn_encoder import CnnEncoder
from rlrun.policies.recall import Recall
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


def _require_compiler(mode: str) -> None:
    """On the CPU, `torch.compile` writes C++; its own complaint comes late, and is a page long."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise UserError(
            f"compile: {mode}: PyTorch needs a C++ compiler for it and found none. Install g++, or "
            f"name yours in the variable CXX, or use compile=none"
        ) from error


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
        self._first = [next(policy.parameters())]  # in a list it is no parameter of the actor's own
        self.distribution = distribution
        self.log_std: nn.Parameter | None = None
        self.n_statistics = outputs
        if isinstance(distribution, Gaussian):
            log_std = torch.full((outputs,), log_std_init, device=self.device)
            self.log_std = nn.Parameter(log_std)
            self.n_statistics = 2 * outputs
        self._recall: Recall | None = None
        plain = self.device.type == "cpu" and policy.autocast is None and not policy.state_size
        encoder = getattr(policy, "encoder", None)
        if plain and isinstance(encoder, CnnEncoder):
            self._recall = Recall(encoder, policy.features)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._first[0].device

    def statistics(self, latents: Tensor) -> Tensor:
        """Of the distribution of actions, `[..., L]` -> `[..., P]`."""
        return self.distribution.statistics(self.policy.head("policy", latents), self.log_std)

    def compile_encoder(self, mode: str) -> None:
        """Let `torch.compile` make one kernel of many in the policy's encoder.

        Args:
            mode: of `torch.compile`.

        Raises:
            UserError: it has none, or there is no compiler for what PyTorch writes.
        """
        encoder = getattr(self.policy, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise UserError(
                f"compile: {mode}: this policy has no encoder, the part that is compiled: it gains "
                f"where there are convolutions. Use compile=none, or policy=cnn or policy=lstm"
            )
        from torch._functorch import config

        if self.device.type == "cpu":
            _require_compiler(mode)
        config.donated_buffer = False  # the norms of two losses go back through one graph
        encoder.compile(mode=mode)
        self._recall = None  # it looks into layers, which are no longer called one by one

    def latents(self, features: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """As `Policy.encode`, in the precision that the policy is to be run in."""
        dtype = self.policy.autocast
        if dtype is None:
            return self.policy.encode(features, segment)
        with torch.autocast(features.device.type, dtype):
            latents, state = self.policy.encode(features, segment)
        return latents.float(), state.float()

    @contextmanager
    def recalling(self, observations: Tensor) -> Iterator[None]:
        """Inside, one pass over all observations `[T + 1, B, ...]` of a segment, and maybe more.

        It takes what is known of the `T` steps that were acted in with the weights of now.
        """
        if self._recall is None:
            yield
            return

        def again(observations: Tensor) -> None:
            n = len(observations)
            segment = Segment.step(torch.empty(n, 0), torch.ones(n, dtype=torch.bool))
            self.statistics(self.latents(self.policy.features(observations), segment)[0])

        with self._recall.recalling(observations, again):
            yield

    @torch.no_grad()
    def encode(self, observations: Tensor, reset: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[B, L]` and next state `[B, S]` of one step; arguments as for `act`."""
        return self._encode(observations, reset, state)

    def _encode(self, observations: Tensor, reset: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        device = self.device
        segment = Segment.step(sent(state, device), sent(reset, device))
        return self.latents(self.policy.features(sent(observations, device)), segment)

    @torch.no_grad()
    def act(
        self,
        observations: Tensor,
        reset: Tensor,
        state: Tensor,
        rng: torch.Generator | None,
        note: bool = False,
    ) -> Acted:
        """One step of `B` environments.

        Args:
            observations: `[B, ...]`.
            reset: `[B]` bool, whether they are the first of an episode.
            state: `[B, S]`, the recurrent state after the step before.
            rng: draws the actions; None for the most probable ones.
            note: for `recalling`.
        """
        with self._recall.noting(observations) if note and self._recall else nullcontext():
            latents, state = self._encode(observations, reset, state)
            statistics = self.statistics(latents).cpu()
        if rng is None:
            actions = self.distribution.mode(statistics)
        else:
            actions = self.distribution.sample(statistics, rng)
        return Acted(actions, statistics, state.cpu())
