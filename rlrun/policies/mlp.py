"""The policy for vectors: one tower of fully connected layers per head."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces

from rlrun.policies.base import Head, Policy
from rlrun.policies.heads import Activation, make_heads, too_narrow
from rlrun.policies.layers import features_of
from rlrun.schema import PositiveInt


class MlpPolicy(Policy):
    """Separate towers, so that actor and critic share no weights.

    Args:
        observation_space: of one environment.
        heads: the outputs, by name.
        generator: source of the initial weights.
        hidden: width of each hidden layer.
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
        hidden: list[PositiveInt] = [64, 64],  # noqa: B006 - read only
        activation: Activation = "tanh",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.features = features_of(observation_space, pictures=False)
        size = self.features.size
        self.heads = make_heads(size, heads, hidden, activation, layer_norm, generator)

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> list[str]:
        """A layer that is normalised needs more than one unit."""
        return too_narrow(values, "hidden")
