"""Observations and actions at the edge of the system: how they are kept, sent and read.

Observations of Dict and Tuple spaces, nested ones too, travel as one vector of bytes each, so that
segments, the replay memory and checkpoints know of a single tensor only. Every entry ("leaf") lies
in it in its own dtype, one after the other; all else travels as the array that it is.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlrun.schema import UserError

Array = NDArray[Any]
Space = spaces.Space[Any]

_WIDER = {"uint16": "int32", "uint32": "int64"}
"""PyTorch has these dtypes but can hardly do anything with them."""


def is_composite(space: Space) -> bool:
    """Is it made of entries, and so kept as bytes?"""
    return isinstance(space, (spaces.Dict, spaces.Tuple)) and len(space.spaces) > 0


def leaves(space: Space) -> dict[str, Space]:
    """The simple spaces of a Dict or Tuple in order, by dotted path ("camera", "state.0").

    A simple space is its own only leaf, under the name "".

    Raises:
        UserError: two of them have the same path.
    """
    found: dict[str, Space] = {}
    for path, leaf in _walk(space, ()):
        name = ".".join(path)
        if name in found:
            raise UserError(
                f"two entries of the environment's observations are named {name!r}. Rename one of "
                f"them in its observation space: a dot also separates the names of nested entries."
            )
        found[name] = leaf
    return found


def _walk(space: Space, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Space]]:
    if not is_composite(space):
        yield path, space
        return
    for key, entry in _entries(space):
        yield from _walk(entry, (*path, str(key)))


def _entries(space: Any) -> list[tuple[Any, Space]]:
    """Keys and spaces of a Dict, numbers and spaces of a Tuple."""
    items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return list(items)


def refuse_unknown(space: Space) -> None:
    """Raise UserError, naming the entry, if `space` cannot be observed."""
    for name, leaf in leaves(space).items():
        where = f"entry {name!r} of this environment's observations" if name else "this environment"
        known = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        if not isinstance(leaf, known):
            raise UserError(
                f"{where} is {'of' if name else 'observed in'} the space {leaf}; allowed: Box, "
                f"Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these with at least "
                f"one entry. Turn it into a Box with gymnasium.wrappers.TransformObservation."
            )
        if isinstance(leaf, spaces.Box) and (leaf.dtype.kind not in "fiub" or leaf.dtype == "u8"):
            raise UserError(
                f"{where} has a Box of {leaf.dtype}; allowed: floats, bool, uint8, uint16, uint32 "
                f"and int8 to int64. Convert it with gymnasium.wrappers.DtypeObservation."
            )


def array_layout(space: Space) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one observation as it is kept.

    Floats are kept in single precision, Discrete ones in int64, unsigned integers of 16 and 32
    bits in the next wider signed type; Dict and Tuple as bytes; all else as it comes.
    """
    if is_composite(space):
        layouts = [array_layout(leaf) for leaf in leaves(space).values()]
        n_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layouts)
        return (n_bytes,), np.dtype(np.uint8)
    if isinstance(space, spaces.Discrete):
        return (), np.dtype(np.int64)
    dtype = np.dtype(space.dtype)
    kept = np.float32 if dtype.kind == "f" else _WIDER.get(dtype.name, dtype)
    return space.shape or (), np.dtype(kept)


def tensor_dtype(space: Space) -> torch.dtype:
    """The dtype of `array_layout`, in PyTorch."""
    return torch.from_numpy(np.empty(0, array_layout(space)[1])).dtype


def observation_tensor(space: Space, *steps: int) -> Tensor:
    """Room for observations, `[*steps, ...]`."""
    return torch.empty((*steps, *array_layout(space)[0]), dtype=tensor_dtype(space))


def action_tensor(space: Space, *steps: int) -> Tensor:
    """Room for actions as `acting` takes them: `[*steps]`, `[*steps, J]` or `[*steps, D]`."""
    if isinstance(space, spaces.Discrete):
        return torch.empty(steps, dtype=torch.int64)
    dtype = torch.float32 if isinstance(space, spaces.Box) else torch.int64
    return torch.empty(*steps, math.prod(space.shape or ()), dtype=dtype)


def example(space: Space) -> Tensor:
    """A batch of one observation that `space` might give, `[1, ...]`: zeros, or the first class."""
    if is_composite(space):
        values = [example(leaf).numpy() for leaf in leaves(space).values()]
        return torch.from_numpy(_join(space, values))
    observation = torch.zeros_like(observation_tensor(space, 1))
    return observation + torch.as_tensor(getattr(space, "start", 0), dtype=observation.dtype)


class _Piece(NamedTuple):
    """Where a leaf lies in the bytes of an observation, and how."""

    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _pieces(space: Space) -> list[_Piece]:
    pieces = []
    stop = 0
    for leaf in leaves(space).values():
        shape, dtype = array_layout(leaf)
        start, stop = stop, stop + math.prod(shape) * dtype.itemsize
        pieces.append(_Piece(start, stop, shape, dtype))
    return pieces


def pack(space: Space, observations: Any) -> Array:
    """A batch of observations as one array: `[B, n_bytes]` for Dict and Tuple, else as it is.

    Args:
        space: of one observation.
        observations: as a vector of environments gives them: a dict or tuple of arrays `[B, ...]`,
            nested like the space; for a simple space an array `[B, ...]`.
    """
    if not is_composite(space):
        return np.asarray(observations)
    return _join(space, _arrays(space, observations))


def _join(space: Space, values: Iterable[Array]) -> Array:
    """The arrays `[B, ...]` of all leaves as bytes, `[B, n_bytes]`."""
    rows = []
    for (_, _, shape, dtype), array in zip(_pieces(space), values, strict=True):
        with np.errstate(over="ignore"):  # what is too large in single precision becomes infinite
            flat = np.ascontiguousarray(array, dtype)
        rows.append(flat.reshape(len(array), math.prod(shape)).view(np.uint8))
    return np.concatenate(rows, axis=1)


def _arrays(space: Space, observations: Any) -> Iterator[Array]:
    """The arrays of the leaves, in order."""
    if not is_composite(space):
        yield np.asarray(observations)
        return
    for key, entry in _entries(space):
        yield from _arrays(entry, observations[key])


def unpack(space: Space, packed: Tensor) -> list[Tensor]:
    """One tensor `[N, ...]` per leaf from `pack`'s bytes `[N, n_bytes]`, bit for bit."""
    tensors = []
    for start, stop, shape, dtype in _pieces(space):
        values = packed[:, start:stop]
        if dtype != np.uint8:
            # A copy, for a number may begin at any byte of an observation.
            values = values.clone(memory_format=torch.contiguous_format).flatten()
            values = values.view(torch.from_numpy(np.empty(0, dtype)).dtype)
        tensors.append(values.reshape(len(packed), *shape))
    return tensors


def shown(space: Space, packed: Array) -> Any:
    """`pack` undone: a batch of observations as the environment has them, `[B, ...]`.

    Arrays of the dtypes of `space`; nested in dicts and tuples like it.
    """
    if not is_composite(space):
        return packed
    return _nested(space, (t.numpy() for t in unpack(space, torch.from_numpy(packed))))


def _nested(space: Space, arrays: Iterator[Array]) -> Any:
    """The arrays of the leaves, in order, nested like the space."""
    if not is_composite(space):
        return next(arrays).astype(space.dtype or np.int64)
    values = {key: _nested(entry, arrays) for key, entry in _entries(space)}
    return values if isinstance(space, spaces.Dict) else tuple(values.values())


def sound(space: Space, observations: Array) -> NDArray[np.bool_]:
    """Which of the observations `[B, ...]`, as `pack` gives them, can be learnt from; `[B]`.

    Their floats are finite, and their classes are among those of the space.
    """
    n = len(observations)
    if not is_composite(space):
        return _sound(space, observations.reshape(n, math.prod(observations.shape[1:])))
    fine = np.ones(n, np.bool_)
    pieces = zip(_pieces(space), leaves(space).values(), strict=True)
    for (start, stop, _, dtype), leaf in pieces:
        if may_be_unsound(leaf):
            fine &= _sound(leaf, np.ascontiguousarray(observations[:, start:stop]).view(dtype))
    return fine


def may_be_unsound(space: Space) -> bool:
    """Is there anything in it for `sound` to find?"""
    return any(
        isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete))
        or array_layout(leaf)[1].kind == "f"
        for leaf in leaves(space).values()
    )


def _sound(leaf: Space, values: Array) -> NDArray[np.bool_]:
    """`sound` for a simple space; values `[B, size]`."""
    if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)):
        n = leaf.n if isinstance(leaf, spaces.Discrete) else leaf.nvec.flatten()
        counted = values - np.ravel(leaf.start)
        return np.asarray(((counted >= 0) & (counted < n)).all(1))
    return np.asarray(np.isfinite(values).all(1))


def action_scale(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and half the width of each dimension of a Box of floats, `[D]` each, flat.

    The environment's action is `middle + half_width * a`: the bounds are at -1 and 1. Dimensions
    that lack a bound have 0 and 1, and so are acted in in the environment's own units; a bound
    at the largest number that there is counts as none. Where both bounds are the same number,
    the half-width is 1: it is never 0.
    """
    low, high = (bound.astype(np.float64).flatten() for bound in (space.low, space.high))
    dtypes: list[Any] = [space.dtype, np.float32]
    largest = min(float(np.finfo(dtype).max) for dtype in dtypes)
    bounded = (np.abs(low) < largest) & (np.abs(high) < largest)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)


def acting(space: Space) -> Callable[[Array], Array]:
    """What turns the actions of a policy into those of `B` environments, `[B, *space.shape]`.

    Policies act in Discrete spaces by `[B]` int64 counted from 0; in MultiDiscrete and
    MultiBinary by `[B, J]` int64, flat, counted from 0; in Box of floats by `[B, D]`, flat, in the
    units of `action_scale`, and are clipped to the bounds. Nothing is done for other spaces.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        start = getattr(space, "start", 0)
        shape, dtype = space.shape or (), space.dtype
        return lambda actions: (actions.reshape(-1, *shape) + start).astype(dtype, copy=False)
    if not (isinstance(space, spaces.Box) and space.dtype.kind == "f"):
        return lambda actions: actions
    box = space
    middle, half_width = (values.reshape(box.shape) for values in action_scale(box))
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)

    def act(actions: Array) -> Array:
        inside = middle + half_width * actions.reshape(-1, *box.shape)
        return np.clip(inside, low, high).astype(box.dtype)

    return act


def as_acted(space: Space, actions: Array) -> Array:
    """Actions of environments, `[B, *space.shape]`, as a policy would say them: `acting` undone."""
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        middle, half_width = action_scale(space)
        scaled: Array = (actions.reshape(-1, middle.size) - middle) / half_width
        return scaled
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        counted = actions.astype(np.int64) - getattr(space, "start", 0)
        return counted if isinstance(space, spaces.Discrete) else counted.reshape(len(actions), -1)
    return actions
