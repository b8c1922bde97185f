"""The policy for vectors: fully connected layers, shared by the heads and for each its own."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.policies.base import Head, Policy, Segment
from rlrun.policies.heads import Activation, dense, make_heads, too_narrow
from rlrun.policies.layers import features_of
from rlrun.schema import PositiveInt


class MlpPolicy(Policy, rows_in_order=True):
    """Layers shared by all heads, if any, then a tower for each of them.

    Without shared layers, as it is unless asked for, actor and critic share no weights.

    Args:
        observation_space: of one environment.
        heads: the outputs, by name.
        generator: source of the initial weights.
        shared: width of each layer below all heads.
        hidden: width of each hidden layer of the policy's tower.
        critic_hidden: of the towers of all other heads; None for the same widths.
        activation: after each hidden layer.
        layer_norm: normalise the inputs of each activation.

    Raises:
        UserError: the observations do not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,  # type: ignore[type-arg]
        heads: Mapping[str, Head],
        generator: torch.Generator,
        *,
        shared: list[PositiveInt] = [],  # noqa: B006 - read only
        hidden: list[PositiveInt] = [64, 64],  # noqa: B006 - read only
        critic_hidden: list[PositiveInt] | None = None,
        activation: Activation = "tanh",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.features = features_of(observation_space, pictures=False)
        widths = [self.features.size, *shared]
        self.shared = nn.Sequential(*dense(widths, activation, layer_norm, generator))
        self.heads = make_heads(
            widths[-1], heads, hidden, activation, layer_norm, generator, critic_hidden
        )

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> list[str]:
        """A layer that is normalised needs more than one unit."""
        return too_narrow(values, "shared", "hidden", "critic_hidden")

    def encode(self, features: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Through the shared layers, `[N, size]` -> `[N, L]`."""
        return self.shared(features), segment.state
