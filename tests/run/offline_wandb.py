"""Reads the file of an offline wandb run: records of protobuf in blocks of 32 KiB."""

import json
import struct
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, kind
FULL, LAST = 1, 4


@dataclass
class OfflineRun:
    run_id: str = ""
    project: str = ""
    group: str = ""
    name: str = ""
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    exit_code: int | None = None


def records(data):
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            at += left
            continue
        checksum, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        part = data[at : at + length]
        at += length
        assert checksum == zlib.crc32(bytes([kind]) + part)
        parts += part
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def items(entries):
    return {e.key or "/".join(e.nested_key): json.loads(e.value_json) for e in entries}


def read(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.project = record.run.run_id, record.run.project
            run.group, run.name = record.run.run_group, record.run.display_name
            run.config.update(items(record.run.config.update))
        elif kind == "history":
            run.history.append(items(record.history.item))
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def ended(folder: Path) -> OfflineRun:
    """The one run in a folder, which wandb's own process may still be writing down."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        runs = [read(path) for path in folder.rglob("*.wandb")]
        if len(runs) == 1 and runs[0].exit_code is not None:
            return runs[0]
        time.sleep(0.05)
    raise AssertionError(f"there is no run of wandb's that has ended in {folder}")
