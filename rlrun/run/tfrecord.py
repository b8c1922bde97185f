"""Records of an event file, with their checksums by NumPy: TensorBoard takes them byte by byte."""

import functools
import struct

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_BLOCK = 512  # bytes that are looked up at once


def record(data: bytes) -> bytes:
    """One record of a file: length, its checksum, the data, and theirs."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    """Checksum as it is stored, so that it may be part of data with a checksum."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720 for at least 4 bytes: 0xE3069283 for `b"123456789"`.

    It is linear: the exclusive or of what each byte gives at its place. Zeros in front give
    nothing; the ones that the register begins with are those of the first 4 bytes.
    """
    padding = -len(data) % _BLOCK
    padded = np.frombuffer(bytearray(padding) + data, np.uint8)
    padded[padding : padding + 4] ^= 0xFF
    register = np.zeros(1, "<u4")
    table = _table()
    for places in padded.reshape(-1, _BLOCK) + 256 * np.arange(_BLOCK):
        places[:4] ^= register.view(np.uint8)
        register[0] = np.bitwise_xor.reduce(table.take(places))
    return int(register[0]) ^ 0xFFFFFFFF


@functools.cache
def _table() -> NDArray[np.uint32]:
    """What each byte gives at each place in a block, `[_BLOCK * 256]`."""
    last: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = np.where(last & 1, last >> 1 ^ np.uint32(_POLYNOMIAL), last >> 1)
    rows = [last]
    for _ in range(_BLOCK - 1):
        rows.append(rows[-1] >> 8 ^ last[rows[-1] & 0xFF])
    return np.concatenate(rows[::-1])
