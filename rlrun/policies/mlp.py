"""The policy for vectors: one tower of fully connected layers per head."""

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.policies.base import Policy
from rlrun.policies.layers import VectorFeatures, linear
from rlrun.schema import PositiveInt

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


class MlpPolicy(Policy):
    """Separate towers, so that actor and critic share no weights.

    Args:
        observation_space: of one environment.
        heads: size of each output by name, in the order in which `forward` returns them.
        generator: source of the initial weights.
        hidden: width of each hidden layer.
        activation: after each hidden layer.

    Raises:
        UserError: the observations do not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,  # type: ignore[type-arg]
        heads: Mapping[str, int],
        generator: torch.Generator,
        *,
        hidden: list[PositiveInt] = [64, 64],  # noqa: B006 - read only
        activation: Literal["tanh", "relu", "elu"] = "tanh",
    ) -> None:
        super().__init__()
        self.features = vectors = VectorFeatures(observation_space)
        self.towers = nn.ModuleDict()
        for name, outputs in heads.items():
            layers: list[nn.Module] = []
            for inputs, width in itertools.pairwise([vectors.size, *hidden]):
                layers += [
                    linear(inputs, width, math.sqrt(2), generator),
                    ACTIVATIONS[activation](),
                ]
            last = hidden[-1] if hidden else vectors.size
            self.towers[name] = nn.Sequential(*layers, linear(last, outputs, 0.01, generator))

    def head(self, name: str, features: Tensor) -> Tensor:
        """One head alone, `[N, size]` -> `[N, outputs]`."""
        output: Tensor = self.towers[name](features)
        return output

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """`self.features(observations)`, `[N, size]` -> one `[N, outputs]` per head."""
        return tuple(tower(features) for tower in self.towers.values())
