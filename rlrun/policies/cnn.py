"""The policy for pictures: the network of Mnih et al. (Nature, 2015) with one head per output."""

from collections.abc import Mapping

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.policies.base import Head, Policy, Segment
from rlrun.policies.cnn_encoder import CnnEncoder
from rlrun.policies.heads import make_heads
from rlrun.policies.layers import features_of
from rlrun.schema import PositiveInt


class CnnPolicy(Policy, rows_in_order=True):
    """Three convolutions per picture and a layer of features, shared by all heads.

    Args:
        observation_space: of one environment.
        heads: the outputs, by name.
        generator: source of the initial weights.
        filters: of the three convolutions.
        features_dim: width of the layer before the heads.

    Raises:
        UserError: the observations do not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,  # type: ignore[type-arg]
        heads: Mapping[str, Head],
        generator: torch.Generator,
        *,
        filters: tuple[PositiveInt, PositiveInt, PositiveInt] = (32, 64, 64),
        features_dim: PositiveInt = 512,
    ) -> None:
        super().__init__()
        self.features = features_of(observation_space, pictures=True)
        self.encoder = CnnEncoder(self.features, filters, features_dim, generator)
        self.heads = make_heads(features_dim, heads, [], "relu", False, generator)

    def encode(self, features: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Features of pictures to `[N, features_dim]`."""
        return self.encoder(features), segment.state
