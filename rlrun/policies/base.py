"""What algorithms ask of a network."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Head(NamedTuple):
    """An output that an algorithm asks for."""

    outputs: int
    inputs: int = 0
    """Width of what it reads beside the latents, such as an action."""


_NONE = torch.empty(0, 2, dtype=torch.int64)


class Segment(NamedTuple):
    """How rows of observations follow each other: `T` steps of `B` environments, time first.

    After these `T * B` rows there may be `K` more: last observations of truncated episodes, each
    of which follows the step `(t, b)` that its row of `final_index` names.
    """

    state: Tensor
    """`[B, S]`, the recurrent state before the first step; `S` is 0 without memory."""
    reset: Tensor
    """`[T, B]` bool: the observation is the first of an episode, so the state begins at zero."""
    final_index: Tensor
    """`[K, 2]` int64."""

    @staticmethod
    def step(state: Tensor, reset: Tensor) -> "Segment":
        """One step of `B` environments; `reset` is `[B]`."""
        return Segment(state, reset.unsqueeze(0), _NONE)


@runtime_checkable
class Observer(Protocol):
    """Features that depend on what was observed before."""

    def observe(self, observations: Tensor) -> None:
        """Take in observations `[N, ...]`."""


class Policy(nn.Module):
    """From observations to the outputs that an algorithm asks for, in three steps.

        features   raw observations to floats; without parameters, for the result is shared by a
                   policy and its running average
        encode     features to latents, along the steps of a segment if there is a memory
        head       latents to one output

    A policy is built as `MyPolicy(observation_space, heads, generator, **settings)`, where
    `heads` maps the name of each output to a `Head`; `rlrun.policies.heads.make_heads` builds
    them. The last layer of a head starts with a gain of 0.01, so that a fresh policy is close to
    uniform.
    """

    features: nn.Module
    """Raw observations `[N, ...]` -> floats `[N, ...]`."""
    heads: nn.ModuleDict
    """By name; reads latents, with its further inputs appended."""
    state_size: int = 0
    """Size `S` of the recurrent state."""
    autocast: torch.dtype | None = None
    """What `encode` is to compute in, by autocast; None for the dtype of its parameters."""

    rows_in_order: bool = False
    """Whether each layer sees all rows of a pass once and in their order, all at a time or step by
    step, so that the first ones are the same in all layers."""

    def __init_subclass__(cls, rows_in_order: bool = False, **others: Any) -> None:
        """A class says it of itself alone, for what is derived from it may call layers anew."""
        super().__init_subclass__(**others)
        cls.rows_in_order = rows_in_order

    def observe(self, observations: Tensor) -> None:
        """Learn from fresh observations `[N, ...]` what the features depend on, if anything.

        Called once an update is over, so that all of a segment is seen with the same eyes.
        """
        if isinstance(self.features, Observer):
            self.features.observe(observations)

    def encode(self, features: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """What all heads share.

        Args:
            features: `[T * B + K, ...]`.
            segment: how they follow each other.

        Returns:
            Latents `[T * B + K, L]`, and the state `[B, S]` after the last of the `T` steps.
        """
        return features, segment.state

    def head(self, name: str, latents: Tensor, *inputs: Tensor) -> Tensor:
        """One output `[..., outputs]` of latents `[..., L]` and further inputs `[..., inputs]`."""
        output: Tensor = self.heads[name](torch.cat([latents, *inputs], -1) if inputs else latents)
        return output
