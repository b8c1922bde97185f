"""Building blocks of the networks: observations to features, and layers with a seeded start."""

import math
from typing import TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.schema import UserError

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with an orthogonal weight of the given gain and a zero bias."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    return _orthogonal(layer, gain, generator)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, generator: torch.Generator
) -> nn.Conv2d:
    """A convolution before a ReLU, with an orthogonal weight and a zero bias."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, device="meta").to_empty(device="cpu")
    return _orthogonal(layer, math.sqrt(2), generator)


def _orthogonal(layer: Layer, gain: float, generator: torch.Generator) -> Layer:
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


SMALLEST = 36  # pixels per side: below that nothing is left after the third convolution


def is_picture(space: spaces.Box) -> bool:
    """Bytes of two or three dimensions, of which two are as long as a picture's sides."""
    sides = sorted(space.shape)[-2:]
    return space.dtype == "uint8" and len(space.shape) in (2, 3) and min(sides) >= SMALLEST


class VectorFeatures(nn.Module):
    """Observations as flat float vectors, `[N, ...]` -> `[N, size]`; discrete ones as one-hots.

    Raises:
        UserError: the space is neither `Box` nor `Discrete`, or shows pictures large enough for
            `ImageFeatures`.
    """

    def __init__(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.classes: int | None = None
        self.start = 0
        if isinstance(space, spaces.Discrete):
            self.classes, self.start = int(space.n), int(space.start)
            self.size = self.classes
        elif isinstance(space, spaces.Box) and not is_picture(space):
            self.size = math.prod(space.shape)
        elif isinstance(space, spaces.Box):
            raise UserError(
                f"policy=mlp reads vectors, and this environment shows pictures of "
                f"{'x'.join(map(str, space.shape))}. Use policy=cnn."
            )
        else:
            raise UserError(
                f"policy=mlp reads Box and Discrete observations, and this environment gives "
                f"{space}. Wrap it with gymnasium.wrappers.FlattenObservation."
            )

    def forward(self, observations: Tensor) -> Tensor:
        """Scale nothing: the values are the environment's own."""
        if self.classes is not None:
            return nn.functional.one_hot(observations - self.start, self.classes).float()
        return observations.flatten(1).float()


class ImageFeatures(nn.Module):
    """Pictures as `[N, C, H, W]` float in [0, 1], channels-last in memory.

    Raises:
        UserError: the space is not a `Box` of bytes with two or three dimensions, or smaller
            than the receptive field of the network.
    """

    def __init__(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        super().__init__()
        shape = space.shape or ()
        if not (isinstance(space, spaces.Box) and space.dtype == "uint8" and len(shape) in (2, 3)):
            raise UserError(
                f"policy=cnn reads pictures (a Box of uint8, [C, H, W] or [H, W, C]), and this "
                f"environment gives {space}. Use policy=mlp."
            )
        self.channels_last = len(shape) == 3 and shape[2] < min(shape[:2])
        if len(shape) == 2:
            shape = (1, *shape)
        elif self.channels_last:
            shape = (shape[2], *shape[:2])
        if min(shape[1:]) < SMALLEST:
            raise UserError(
                f"policy=cnn needs pictures of at least {SMALLEST}x{SMALLEST} pixels, "
                f"and this environment's have {shape[1]}x{shape[2]}. Enlarge them with "
                f"gymnasium.wrappers.ResizeObservation, or use policy=mlp."
            )
        self.shape = shape

    def forward(self, observations: Tensor) -> Tensor:
        """Bytes to floats."""
        if self.channels_last:
            observations = observations.movedim(-1, 1)
        pictures = observations.reshape(-1, *self.shape)
        return pictures.to(torch.float32, memory_format=torch.channels_last).div_(255.0)
