"""Building blocks of the networks: observations to features, and layers with a seeded start."""

import math
from typing import TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.policies.base import Observer
from rlrun.schema import UserError
from rlrun.spaces import is_composite, leaves, refuse_unknown, unpack

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with an orthogonal weight of the given gain and a zero bias."""
    return _orthogonal(nn.Linear(inputs, outputs, device="meta"), gain, generator)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, generator: torch.Generator
) -> nn.Conv2d:
    """A convolution before a ReLU, with an orthogonal weight and a zero bias."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, device="meta")
    return _orthogonal(layer, math.sqrt(2), generator)


def _orthogonal(layer: Layer, gain: float, generator: torch.Generator) -> Layer:
    """A layer without memory, given its parameters; `to_empty` would import SymPy for it."""
    weight = torch.empty(layer.weight.shape)
    nn.init.orthogonal_(weight, gain, generator=generator)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(len(weight)))
    return layer


SMALLEST = 7  # pixels per side: below that nothing is left after three convolutions
LARGE = 36  # pixels per side from which on the network of Mnih et al. fits
_SOME = 16  # pictures


def picture_shape(space: spaces.Space) -> tuple[int, int, int] | None:  # type: ignore[type-arg]
    """Channels, height and width of a Box of bytes with two to four dimensions; else None.

    `[H, W]`, `[C, H, W]`, `[H, W, C]`, or a stack of frames `[S, C, H, W]` or `[S, H, W, C]`,
    whose `S C` channels are those of all frames.
    """
    shape = space.shape or ()
    if not (isinstance(space, spaces.Box) and space.dtype == "uint8" and 2 <= len(shape) <= 4):
        return None
    if len(shape) == 2:
        return (1, *shape)
    if _channels_last(shape):
        height, width, channels = shape[-3:]
    else:
        channels, height, width = shape[-3:]
    return math.prod(shape[:-3]) * channels, height, width


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Are the channels behind the sides? Equal lengths are sides; else the shortest is no side."""
    if len(shape) == 2:
        return False
    first, second, third = shape[-3:]
    if first == second or second == third:
        return second != third
    return third < min(first, second)


def is_picture(space: spaces.Space, smallest: int) -> bool:  # type: ignore[type-arg]
    """Has it the shape of a picture, both sides of which have that many pixels?"""
    shape = picture_shape(space)
    return shape is not None and min(shape[1:]) >= smallest


def has_picture(space: spaces.Space) -> bool:  # type: ignore[type-arg]
    """Does it show a picture, or a Dict or Tuple one among its entries?"""
    return any(is_picture(leaf, SMALLEST) for leaf in leaves(space).values())


def _of(name: str) -> str:
    """Subject of a message about the observations, or about one entry of them."""
    return f"entry {name!r} of this environment's observations" if name else "this environment"


class Features(nn.Module):
    """What turns observations into the floats that a network reads; it has no parameters."""

    shapes: list[tuple[int, ...]]
    """`(C, H, W)` of each picture and `(size,)` of each vector in the features, in order."""
    size: int
    """How many floats they are."""


class VectorFeatures(Features):
    """Observations as flat float vectors, `[N, ...]` -> `[N, size]`; discrete ones as one-hots.

    Args:
        space: Box, Discrete, MultiDiscrete or MultiBinary.
        name: of the entry, if the observation has several.

    Raises:
        UserError: the space is none of these, or shows pictures so large that a network that
            reads vectors is no way to read them.
    """

    def __init__(self, space: spaces.Space, name: str = "") -> None:  # type: ignore[type-arg]
        super().__init__()
        if is_picture(space, LARGE):
            raise UserError(
                f"policy=mlp reads vectors, and {_of(name)} shows pictures of "
                f"{'x'.join(map(str, space.shape or ()))}. Use policy=cnn."
            )
        self.classes: list[int] = []  # of each component, if they are classes
        self.starts: list[int] = []
        if isinstance(space, spaces.Discrete):
            self.classes, self.starts = [int(space.n)], [int(space.start)]
        elif isinstance(space, spaces.MultiDiscrete):
            self.classes, self.starts = (
                space.nvec.flatten().tolist(),
                space.start.flatten().tolist(),
            )
        elif not isinstance(space, (spaces.Box, spaces.MultiBinary)):
            raise UserError(
                f"{_of(name)} gives {space}; allowed: Box, Discrete, MultiDiscrete, MultiBinary, "
                f"and Dict and Tuple of these. Turn it into a Box with "
                f"gymnasium.wrappers.TransformObservation."
            )
        self.size = sum(self.classes) if self.classes else math.prod(space.shape or ())
        self.shapes = [(self.size,)]

    def forward(self, observations: Tensor) -> Tensor:
        """Scale nothing: the values are the environment's own."""
        if not self.classes:
            return observations.reshape(len(observations), self.size).float()
        columns = observations.reshape(len(observations), len(self.classes)).long().unbind(1)
        one_hots = [
            nn.functional.one_hot(column - start, classes)
            for column, start, classes in zip(columns, self.starts, self.classes, strict=True)
        ]
        return torch.cat(one_hots, dim=1).float()


class ImageFeatures(Features):
    """Pictures as `[N, C, H, W]` float in [0, 1], channels-last in memory.

    Args:
        space: Box of bytes as in `picture_shape`, each side at least `SMALLEST` pixels long.

    Raises:
        UserError: the space is no such Box.
    """

    def __init__(self, space: spaces.Space) -> None:  # type: ignore[type-arg]
        super().__init__()
        shape = picture_shape(space)
        if shape is None:
            raise UserError(
                f"policy=cnn reads pictures (a Box of uint8, [H, W], [C, H, W] or [H, W, C], or "
                f"a stack of them), and this environment gives {space}. Use policy=mlp, or turn "
                f"pictures into uint8 with gymnasium.wrappers.DtypeObservation."
            )
        if min(shape[1:]) < SMALLEST:
            raise UserError(
                f"policy=cnn needs pictures of at least {SMALLEST}x{SMALLEST} pixels, "
                f"and this environment's have {shape[1]}x{shape[2]}. Use policy=mlp, or enlarge "
                f"them with gymnasium.wrappers.ResizeObservation."
            )
        self.channels_last = _channels_last(space.shape or ())
        self.shape = shape
        self.shapes = [shape]
        self.size = math.prod(shape)

    def forward(self, observations: Tensor) -> Tensor:
        """Bytes to floats."""
        if self.channels_last:
            observations = observations.movedim(-1, -3)
        pictures = observations.reshape(-1, *self.shape)
        scaled = torch.empty_like(pictures, dtype=torch.float32, memory_format=torch.channels_last)
        # A few at a time, which stay in the cache on their way through three passes.
        for some, into in zip(*(torch.split(x, _SOME) for x in (pictures, scaled)), strict=True):
            into.copy_(some.to(torch.float32).div_(255.0))
        return scaled


class DictFeatures(Features):
    """The features of all entries of a Dict or Tuple, `[N, n_bytes]` -> `[N, size]`.

    Args:
        space: Dict or Tuple; nested ones count by their leaves.
        pictures: entries of the shape of a picture are read as `ImageFeatures`, all others as
            `VectorFeatures`.

    Raises:
        UserError: an entry cannot be read, or none of them is a picture though `pictures`.
    """

    def __init__(self, space: spaces.Space, pictures: bool) -> None:  # type: ignore[type-arg]
        super().__init__()
        refuse_unknown(space)
        self.space = space
        self.parts = nn.ModuleList()
        self.shapes = []
        for name, leaf in leaves(space).items():
            picture = pictures and is_picture(leaf, SMALLEST)
            part = ImageFeatures(leaf) if picture else VectorFeatures(leaf, name)
            self.parts.append(part)
            self.shapes += part.shapes
        if pictures and not has_picture(space):
            raise UserError(
                f"policy=cnn reads pictures (a Box of uint8 with sides of at least {SMALLEST} "
                f"pixels), and this environment's observations have none among their entries "
                f"({', '.join(leaves(space))}). Use policy=mlp."
            )
        self.size = sum(math.prod(shape) for shape in self.shapes)

    def observe(self, observations: Tensor) -> None:
        """Show `[N, n_bytes]` to those of the parts that learn from what they see."""
        for part, values in zip(self.parts, unpack(self.space, observations), strict=True):
            if isinstance(part, Observer):
                part.observe(values)

    def forward(self, observations: Tensor) -> Tensor:
        """Entry by entry, in order; pictures are flattened channel by channel."""
        values = unpack(self.space, observations)
        features = [part(v).flatten(1) for part, v in zip(self.parts, values, strict=True)]
        return torch.cat(features, dim=1)


def split_features(features: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """`[N, size]` -> `[N, *shape]` for each of the shapes, which lie one after the other."""
    pieces = torch.split(features, [math.prod(shape) for shape in shapes], dim=1)
    return [piece.reshape(len(piece), *shape) for piece, shape in zip(pieces, shapes, strict=True)]


def features_of(space: spaces.Space, pictures: bool) -> Features:  # type: ignore[type-arg]
    """The features of any space, for a network that can read pictures or one that cannot.

    Raises:
        UserError: the observations cannot be read, or do not fit the network.
    """
    if is_composite(space):
        return DictFeatures(space, pictures)
    return ImageFeatures(space) if pictures else VectorFeatures(space)
