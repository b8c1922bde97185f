"""From pictures, and the vectors that come with them, to one layer of features."""

import math

import torch
from torch import Tensor, nn

from rlrun.policies.layers import LARGE, Features, ImageFeatures, conv, linear, split_features
from rlrun.schema import PositiveInt


class CnnEncoder(nn.Module):
    """Three convolutions for each picture, and a layer that reads them and all vectors.

    Args:
        features: of the observations; only its shapes are taken.
        filters: of the three convolutions.
        features_dim: width of the layer of features.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        features: Features,
        filters: tuple[PositiveInt, PositiveInt, PositiveInt],
        features_dim: PositiveInt,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.size = features_dim
        self.shapes = None if isinstance(features, ImageFeatures) else list(features.shapes)
        self.pictures = nn.ModuleList()
        inputs = 0
        for shape in features.shapes:
            if len(shape) == 3:
                convolutions, size = _convolutions(shape, filters, generator)
                self.pictures.append(convolutions)
                inputs += size
            else:
                inputs += math.prod(shape)
        self.output = nn.Sequential(
            linear(inputs, features_dim, math.sqrt(2), generator), nn.ReLU()
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """`[N, C, H, W]`, or `[N, size]` of `DictFeatures`, -> `[N, features_dim]`."""
        if self.shapes is None:
            return self.output(self.pictures[0](features))  # type: ignore[no-any-return]
        convolutions = iter(self.pictures)
        parts = [
            next(convolutions)(part) if part.dim() == 4 else part
            for part in split_features(features, self.shapes)
        ]
        return self.output(torch.cat(parts, dim=1))  # type: ignore[no-any-return]


def _convolutions(
    shape: tuple[int, ...],
    filters: tuple[PositiveInt, PositiveInt, PositiveInt],
    generator: torch.Generator,
) -> tuple[nn.Sequential, int]:
    """The convolutions for one picture `[C, H, W]`, and the number of their flat outputs.

    Where both sides have at least 36 pixels they are those of Mnih et al. (Nature, 2015): kernels
    8, 4 and 3, strides 4, 2 and 1. On smaller pictures, of which these would leave little or
    nothing, all kernels are 3 and all strides 1, but for a first stride of 2 where both sides
    have at least 16 pixels.
    """
    channels, height, width = shape
    kernels, strides = (8, 4, 3), (4, 2, 1)
    if min(height, width) < LARGE:
        kernels, strides = (3, 3, 3), (2 if min(height, width) >= 16 else 1, 1, 1)
    layers: list[nn.Module] = []
    for outputs, kernel, stride in zip(filters, kernels, strides, strict=True):
        layers += [conv(channels, outputs, kernel, stride, generator), nn.ReLU()]
        channels = outputs
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return nn.Sequential(*layers, nn.Flatten()), channels * height * width
