"""Bytes to disk and back: durable writes, bounded reads, and state trees as safetensors and JSON.

Nothing here can run code from a file: tensors are raw bytes with a JSON header, the rest is JSON.
"""

import contextlib
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

MIB = 1 << 20
JSON_LIMIT = 64 * MIB
HEADER_LIMIT = MIB
TENSORS_LIMIT = 8 << 30


class CheckpointError(Exception):
    """A stored file is missing, damaged or not acceptable; the message names it and says why."""


@dataclass(frozen=True)
class Stamp:
    """Size in bytes and hexadecimal SHA-256 of a file."""

    size: int
    sha256: str


class Disk:
    """The operations that change a disk; each raises OSError. Tests put a model in its place."""

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        """Create `path` anew with this content, which is on the disk (not only cached) at return.

        The name of the file is durable only after `sync(path.parent)`.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # never write through a link that was left there
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(path, flags, 0o666), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def mkdir(self, path: Path) -> None:
        """Create one folder."""
        os.mkdir(path)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder a new name, in one step; a file may replace another one."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file or a symbolic link (not what it points to)."""
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable: creations, renames and removals until now."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


DISK = Disk()


def put(path: Path, chunks: Iterable[bytes | memoryview], disk: Disk = DISK) -> Stamp:
    """Write a file durably and return its stamp, hashed while writing."""
    digest = hashlib.sha256()
    size = 0

    def hashed() -> Iterator[bytes | memoryview]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    disk.write(path, hashed())
    return Stamp(size, digest.hexdigest())


def write_atomic(path: Path, data: bytes | str, disk: Disk = DISK) -> None:
    """Replace a small file durably: readers and crashes see the old content or the new one."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        disk.write(temporary, [data.encode() if isinstance(data, str) else data])
        disk.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise
    disk.sync(path.parent)


def make_folder(path: Path, disk: Disk = DISK) -> None:
    """Create a folder and its missing parents durably; an existing folder is fine."""
    if not path.is_dir():
        make_folder(path.parent, disk)
        try:
            disk.mkdir(path)
        except FileExistsError:  # another process may have made it meanwhile
            if not path.is_dir():
                raise
        disk.sync(path.parent)


def remove(path: Path, disk: Disk = DISK) -> None:
    """Remove a file, or a folder with all it holds; links are removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            remove(child, disk)
        disk.rmdir(path)
    else:
        disk.unlink(path)


@contextlib.contextmanager
def _opened(path: Path, stamp: Stamp | None, limit: int) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file of the stamped size, at most `limit` bytes; CheckpointError if not."""
    try:
        # Without O_NONBLOCK, opening a pipe that somebody put here would wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise CheckpointError(f"{path}: not a regular file")
            if stamp is not None and info.st_size != stamp.size:
                raise CheckpointError(f"{path}: {info.st_size} bytes instead of {stamp.size}")
            if info.st_size > limit:
                raise CheckpointError(f"{path}: {info.st_size} bytes, over the limit of {limit}")
            yield file, info.st_size
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def read(path: Path, stamp: Stamp | None, limit: int) -> bytes:
    """Return the content of a regular file after checking its size and, if stamped, its digest.

    Raises CheckpointError, for a file of the wrong size before any memory is taken for it.
    """
    with _opened(path, stamp, limit) as (file, size):
        data = file.read(size)
    if stamp is not None and hashlib.sha256(data).hexdigest() != stamp.sha256:
        raise CheckpointError(f"{path}: damaged (its digest differs from the manifest's)")
    return data


def check(path: Path, stamp: Stamp, limit: int, *, digest: bool) -> None:
    """Raise CheckpointError unless the file has the stamped size and, if asked, digest."""
    with _opened(path, stamp, limit) as (file, _):
        if digest and hashlib.file_digest(file, "sha256").hexdigest() != stamp.sha256:
            raise CheckpointError(f"{path}: damaged (its digest differs from the manifest's)")


_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}


def pack(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> list[bytes | memoryview]:
    """Return the content of a safetensors file in pieces, without copying the data together.

    Raises TypeError, naming the entry, for a tensor that cannot be stored bit for bit.
    """
    header: dict[str, Any] = {}
    pieces: list[bytes | memoryview] = []
    end = 0
    # Widest elements first keeps every tensor aligned within the file.
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        dtype = _DTYPES.get(str(value.dtype).removeprefix("torch."))
        if isinstance(value, torch.Tensor):
            if dtype is None or value.layout is not torch.strided:
                raise TypeError(f"{name}: cannot store a tensor of {value.dtype}, {value.layout}")
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        elif dtype is None or value.dtype.isbuiltin != 1:  # foreign byte order or type
            raise TypeError(f"{name}: cannot store an array of {value.dtype}")
        else:
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        header[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [end, end + flat.nbytes],
        }
        end += flat.nbytes
        pieces.append(flat.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"too many tensors: a header of {len(text)} bytes")
    return [struct.pack("<Q", len(text)) + text, *pieces]


def unpack(data: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file; CheckpointError, naming `path`, if it is none."""
    if len(data) < 8 or struct.unpack("<Q", data[:8])[0] > HEADER_LIMIT:
        raise CheckpointError(f"{path}: not a safetensors file, or its header is too large")
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # the parser has several ways to refuse; none may pass as our bug
        raise CheckpointError(f"{path}: {error}") from error


def flatten(state: Mapping[str, Any]) -> tuple[bytes, dict[str, torch.Tensor | np.ndarray]]:
    """Split a state tree into JSON text and its tensors by dotted name; `unflatten` inverts it.

    The tree is made of dicts with str keys and of lists; its leaves are tensors, numpy arrays,
    None, bool, int, float and str. Anything else raises TypeError with the dotted key.
    """
    tensors: dict[str, torch.Tensor | np.ndarray] = {}

    def encode(value: Any, key: str) -> Any:
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int:
            # Other readers of JSON round large integers, and Python refuses very long ones.
            return value if abs(value) < 2**53 else {"$int": hex(value)}
        if type(value) is float:
            return value if np.isfinite(value) else {"$float": repr(value)}
        if type(value) is list:
            return [encode(item, f"{key}.{i}") for i, item in enumerate(value)]
        if isinstance(value, Mapping):
            for name in value:
                if type(name) is not str:
                    raise TypeError(f"{key.removeprefix('.')}: the key {name!r} is not a str")
            return {
                f"${name}" if name.startswith("$") else name: encode(item, f"{key}.{name}")
                for name, item in value.items()
            }
        if isinstance(value, torch.Tensor) or type(value) is np.ndarray:
            name = key = key.removeprefix(".")
            while name in tensors:  # {"a.b": x, "a": {"b": y}}
                name += "'"
            tensors[name] = value
            return {"$tensor" if isinstance(value, torch.Tensor) else "$array": name}
        raise TypeError(f"{key.removeprefix('.')}: cannot store a {type(value).__name__}")

    text = json.dumps(encode(state, ""), allow_nan=False).encode()
    if len(text) > JSON_LIMIT:
        raise ValueError(f"{len(text)} bytes of JSON state: large data belongs into tensors")
    return text, tensors


def unflatten(text: bytes, tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Rebuild the tree that `flatten` split; CheckpointError, naming `path`, if that fails."""
    left = set(tensors)

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            [(tag, item)] = value.items()
            if tag == "$int":
                return int(item, 16)
            if tag == "$float":
                return float(item)
            if tag in ("$tensor", "$array"):
                left.remove(item)
                return tensors[item] if tag == "$tensor" else tensors[item].numpy()
        return {key.removeprefix("$"): decode(item) for key, item in value.items()}

    try:
        tree = decode(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a stored state ({error!r})") from error
    if left or not isinstance(tree, dict):
        raise CheckpointError(f"{path}: does not match its tensors")
    return tree
