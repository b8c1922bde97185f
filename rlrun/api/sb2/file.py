"""The file of a stable-baselines model: bounded reads, and never a pickle.

It is a zip of three members. `data` is JSON, in which whatever is not JSON stands as a base64
pickle under `:serialized:` beside readable fields; `parameters` is an npz, and `parameter_list`
tells the order of its arrays.
"""

import io
import json
import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rlrun.schema import UserError

Array = NDArray[Any]

MIB = 1 << 20
JSON_LIMIT = 64 * MIB
ARRAYS_LIMIT = 1024 * MIB  # of all parameters together
MEMBERS = {"data": JSON_LIMIT, "parameter_list": JSON_LIMIT, "parameters": ARRAYS_LIMIT}

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # a compression or encryption that zipfile does not know
    RuntimeError,  # a password is needed, and RecursionError
    EOFError,
    OSError,
    KeyError,
    ValueError,  # also UnicodeDecodeError and JSONDecodeError
    TypeError,  # texts and numbers in one list
    MemoryError,
    SyntaxError,  # of the header of an array
    tokenize.TokenError,
)
"""What reading a damaged file may raise."""


def is_sb2(path: str | Path) -> bool:
    """Is it a zip with the members of a stable-baselines model?"""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"data", "parameters"} <= set(archive.namelist())
    except DAMAGE:
        return False


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """`data` without its pickles, and the parameters by name, in order.

    Raises:
        UserError: the file cannot be read, is damaged, too large, or of the old format.
    """
    _refuse_others(path)
    try:
        with zipfile.ZipFile(path) as archive:
            raw = {name: _member(archive, name, limit) for name, limit in MEMBERS.items()}
        data = json.loads(raw["data"], object_hook=_readable)
        order = json.loads(raw["parameter_list"])
        parameters = arrays(raw["parameters"])
        if not isinstance(data, dict):
            raise ValueError("'data' is no mapping")
        if not isinstance(order, list) or sorted(order) != sorted(parameters):
            raise ValueError("'parameter_list' does not name the arrays of 'parameters'")
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged, or no model of stable-baselines: {reason(error)}. Copy it anew, "
            f"or save the model again."
        ) from error
    return data, {name: parameters[name] for name in order}


def arrays(raw: bytes) -> dict[str, Array]:
    """The arrays of an npz by name, none of them of objects.

    Raises:
        ValueError or another error of reading: damaged, too large, or not made of numbers.
    """
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > ARRAYS_LIMIT:
            raise ValueError(f"its arrays take {size} bytes; at most {ARRAYS_LIMIT} are read")
        return {
            entry.removesuffix(".npy"): _array(entry, _member(archive, entry, size))
            for entry in archive.namelist()
        }


def _refuse_others(path: Path) -> None:
    """A missing file, and what stable-baselines wrote up to 2.7, which only runs as code."""
    try:
        with path.open("rb") as file:
            start = file.read(1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if start == b"\x80" or path.suffix == ".pkl":
        raise UserError(
            f"{path} is a pickle, as stable-baselines wrote them up to 2.7; reading it would run "
            f"whatever it holds. Allowed: the zip format. Load it with stable-baselines 2.8 to "
            f"2.10, where it came from, and save it again."
        )
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no zip, and so no model of stable-baselines, or it was cut off")


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the JSON without its pickle, so that no one can ever come to load it."""
    entry.pop(":serialized:", None)
    return entry


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with archive.open(name) as file:
        return bounded(file, name, limit)


def bounded(file: IO[bytes], name: str, limit: int) -> bytes:
    """All of a file, whatever size it claims; raises ValueError if it is too large."""
    raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"{name!r} is larger than {limit} bytes")
    return raw


def _array(name: str, raw: bytes) -> Array:
    """An npy of numbers; its size is compared with its shape before there is room made for it."""
    stream = io.BytesIO(raw)
    if npy.read_magic(stream) == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    else:
        shape, _, dtype = npy.read_array_header_2_0(stream)
    if dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize != len(raw) - stream.tell():
        raise ValueError(f"{name!r} is no array of numbers of the size that it claims")
    stream.seek(0)
    array: Array = npy.read_array(stream, allow_pickle=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name!r} has values that are not finite")
    return array


def reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = error.args[0] if isinstance(error, KeyError) else error
    return str(text).removesuffix(".") or type(error).__name__
