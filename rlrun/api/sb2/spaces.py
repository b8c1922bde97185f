"""Spaces in the files of stable-baselines, as far as their readable fields tell them."""

import math
import re
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Space = spaces.Space[Any]

LARGEST = 1 << 24  # values of one observation
DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")


def space_of(entry: Any) -> Space | None:
    """The space that an entry of `data` describes, None if its fields do not tell it.

    NumPy prints large arrays with gaps, so their bounds are known only for bytes from 0 to 255.
    A space of gymnasium is returned as it is.
    """
    if isinstance(entry, spaces.Space):
        return entry
    if not isinstance(entry, dict):
        return None
    kind = re.search(r"\.(\w+)'>$", str(entry.get(":type:")))
    try:
        match kind and kind[1]:
            case "Discrete":
                return spaces.Discrete(int(entry["n"]))
            case "MultiBinary":
                return spaces.MultiBinary(_sized(int(entry["n"])))
            case "MultiDiscrete":
                return spaces.MultiDiscrete(_numbers(entry["nvec"]).astype(np.int64))
            case "Box":
                return _box(entry)
    except (KeyError, TypeError, ValueError, OverflowError, AssertionError):
        pass  # fields that are missing, or mean nothing
    return None


def _box(entry: dict[str, Any]) -> spaces.Box:
    dtype = np.dtype(DTYPES[DTYPES.index(entry["dtype"])])
    field = entry["shape"] if "shape" in entry else entry["_shape"]
    shape = tuple(int(side) for side in field)
    _sized(math.prod(shape))
    if dtype == np.uint8 and "..." in entry["low"]:
        if [{*_printed(entry[key])} for key in ("low", "high")] != [{"0", "..."}, {"255", "..."}]:
            raise ValueError("bounds with gaps")
        return spaces.Box(0, 255, shape, np.uint8)
    low, high = _numbers(entry["low"]), _numbers(entry["high"])
    with np.errstate(all="ignore"):  # the largest number of a type, as it is printed
        low, high = (values.astype(dtype).reshape(shape) for values in (low, high))
    kind: Any = dtype.type
    box: spaces.Box = spaces.Box(low, high, dtype=kind)
    return box


def _sized(size: int) -> int:
    if not 0 < size <= LARGEST:
        raise ValueError("too large a space")
    return size


def _printed(text: str) -> list[str]:
    """The numbers of an array as NumPy prints it, and its gaps as `...`."""
    return re.sub(r"[\[\],]", " ", text).split()


def _numbers(text: str) -> NDArray[np.float64]:
    return np.array([float(number) for number in _printed(text)])


def is_bytes(space: Space | None) -> bool:
    """Are they bytes from 0 to 255, which both libraries scale to [0, 1]?"""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def matches(stored: Space | None, given: Space, bounds: bool) -> bool:
    """May `given` take the place of `stored`, as far as that is known?

    Args:
        stored: in the file, None if it is unknown.
        given: of the environment.
        bounds: whether those of a Box have to be the same, apart from how they were printed.
    """
    if stored is None:
        return True
    if isinstance(stored, spaces.Discrete):
        return isinstance(given, spaces.Discrete) and stored.n == given.n
    if isinstance(stored, spaces.MultiDiscrete):
        return isinstance(given, spaces.MultiDiscrete) and np.array_equal(stored.nvec, given.nvec)
    if not isinstance(stored, spaces.Box):
        return stored == given
    if not isinstance(given, spaces.Box) or stored.shape != given.shape:
        return False
    return not bounds or all(
        np.allclose(printed, exact, rtol=1e-4)
        for printed, exact in ((stored.low, given.low), (stored.high, given.high))
    )
