"""Spaces as data, to be stored beside what was learnt in them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Space = spaces.Space[Any]

_LARGEST = 10**8  # numbers in an observation: more in a file is damage or malice


def encode(space: Space) -> dict[str, Any]:
    """A space as a tree of dicts, lists, numbers and arrays, which `decode` makes a space again.

    Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these.
    """
    if isinstance(space, spaces.Dict):
        # Pairs, for the order of the entries tells where they lie in a packed observation.
        return {"Dict": [[str(key), encode(entry)] for key, entry in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"Tuple": [encode(entry) for entry in space.spaces]}
    if isinstance(space, spaces.Box):
        bounds = {"low": _short(space.low), "high": _short(space.high)}
        return {"Box": {**bounds, "shape": list(space.shape), "dtype": str(space.dtype)}}
    if isinstance(space, spaces.Discrete):
        return {"Discrete": {"n": int(space.n), "start": int(space.start)}}
    if isinstance(space, spaces.MultiDiscrete):
        return {"MultiDiscrete": {"nvec": space.nvec, "start": space.start}}
    if isinstance(space, spaces.MultiBinary):
        return {"MultiBinary": int(space.n) if isinstance(space.n, int) else list(space.shape)}
    raise TypeError(f"a {type(space).__name__} is no space that can be learnt in")


def _short(bounds: NDArray[Any]) -> NDArray[Any]:
    """One number for all, where all are the same."""
    flat = bounds.ravel()
    same = bounds.ndim > 0 and flat.size > 0 and bool((flat == flat[0]).all())
    return flat[:1].copy() if same else bounds


def decode(data: Mapping[str, Any]) -> Space:
    """The space that `encode` described.

    Raises:
        ValueError: it describes none, or one that is absurdly large.
    """
    try:
        if _numbers(data) > _LARGEST:
            raise ValueError(f"a space of more than {_LARGEST} numbers")
        return _decode(data)
    except (
        AttributeError,
        KeyError,
        TypeError,
        AssertionError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ValueError(f"this describes no space: {error}") from error


def _numbers(data: Mapping[str, Any]) -> int:
    """How many numbers an observation of the space has."""
    ((kind, value),) = data.items()
    if kind == "Dict":
        return sum(_numbers(entry) for _, entry in value)
    if kind == "Tuple":
        return sum(map(_numbers, value))
    if kind == "Box":
        return math.prod(value["shape"])
    if kind == "MultiBinary":
        return math.prod(value) if isinstance(value, list) else int(value)
    return 1


def _decode(data: Mapping[str, Any]) -> Space:
    ((kind, value),) = data.items()
    if kind == "Dict":
        return spaces.Dict([(key, _decode(entry)) for key, entry in value])
    if kind == "Tuple":
        return spaces.Tuple([_decode(entry) for entry in value])
    if kind == "Box":
        shape = tuple(value["shape"])
        low, high = (np.broadcast_to(value[name], shape).copy() for name in ("low", "high"))
        return spaces.Box(low, high, dtype=np.dtype(value["dtype"]).type)
    if kind == "Discrete":
        return spaces.Discrete(value["n"], start=value["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(value["nvec"], start=value["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(value)
    raise ValueError(f"{kind}: there is no such space")
