"""The policy for pictures: the network of Mnih et al. (Nature, 2015) with one head per output."""

import math
from collections.abc import Mapping

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.policies.base import Policy
from rlrun.policies.layers import ImageFeatures, conv, linear
from rlrun.schema import PositiveInt


class CnnPolicy(Policy):
    """Three convolutions and a layer of features, shared by all heads.

    Args:
        observation_space: of one environment.
        heads: size of each output by name, in the order in which `forward` returns them.
        generator: source of the initial weights.
        filters: of the three convolutions.
        features_dim: width of the layer before the heads.

    Raises:
        UserError: the observations do not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,  # type: ignore[type-arg]
        heads: Mapping[str, int],
        generator: torch.Generator,
        *,
        filters: tuple[PositiveInt, PositiveInt, PositiveInt] = (32, 64, 64),
        features_dim: PositiveInt = 512,
    ) -> None:
        super().__init__()
        self.features = images = ImageFeatures(observation_space)
        channels, height, width = images.shape
        for kernel, stride in ((8, 4), (4, 2), (3, 1)):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.trunk = nn.Sequential(
            conv(channels, filters[0], 8, 4, generator),
            nn.ReLU(),
            conv(filters[0], filters[1], 4, 2, generator),
            nn.ReLU(),
            conv(filters[1], filters[2], 3, 1, generator),
            nn.ReLU(),
            nn.Flatten(),
            linear(filters[2] * height * width, features_dim, math.sqrt(2), generator),
            nn.ReLU(),
        )
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads = nn.ModuleDict(
            {
                name: linear(features_dim, outputs, 0.01, generator)
                for name, outputs in heads.items()
            }
        )

    def head(self, name: str, features: Tensor) -> Tensor:
        """One head alone, `[N, C, H, W]` -> `[N, outputs]`."""
        output: Tensor = self.heads[name](self.trunk(features))
        return output

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """`self.features(observations)`, `[N, C, H, W]` -> one `[N, outputs]` per head."""
        trunk = self.trunk(features)
        return tuple(head(trunk) for head in self.heads.values())
