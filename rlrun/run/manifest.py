"""The manifest of a checkpoint, and the one rule by which a checkpoint counts as committed."""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrun.run.store import (
    JSON_LIMIT,
    MIB,
    TENSORS_LIMIT,
    CheckpointError,
    Stamp,
    check,
    flatten,
    read,
    unflatten,
)

SCHEMA = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
LIMITS = {MANIFEST: 4 * MIB, STATE: JSON_LIMIT, TENSORS: TENSORS_LIMIT}
"""Largest size in bytes that is read, by file name; segments are as `TENSORS`."""


@dataclass(frozen=True)
class Segment:
    """One file of the history: the entries `start` to `stop - 1`."""

    start: int
    stop: int
    stamp: Stamp

    @property
    def name(self) -> str:
        """Name of the file in the folder `replay`."""
        return segment_name(self.start, self.stop)


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of; `window` is (first, end) of its history, None without one."""

    step: int
    best: bool
    meta: dict[str, Any]
    files: dict[str, Stamp]
    window: tuple[int, int] | None
    segments: tuple[Segment, ...]

    def text(self) -> bytes:
        """Return the file's content, sealed by a digest of itself."""
        meta, tensors = flatten(self.meta)
        if tensors:
            raise TypeError(f"meta: {next(iter(tensors))} is a tensor")
        text = _seal(
            {
                "schema": SCHEMA,
                "step": self.step,
                "best": self.best,
                "meta": json.loads(meta),
                "files": {name: [s.size, s.sha256] for name, s in self.files.items()},
                "window": self.window,
                "segments": [
                    [s.start, s.stop, s.stamp.size, s.stamp.sha256] for s in self.segments
                ],
            }
        )
        if len(text) > LIMITS[MANIFEST]:
            raise ValueError(f"{len(text)} bytes of manifest: too much meta or too many segments")
        return text

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "Manifest":
        """Read what `text` wrote; CheckpointError naming `path` for anything else."""
        try:
            body = json.loads(data)
            if body["schema"] != SCHEMA:
                raise ValueError(f"format {body['schema']!r}; this rlrun reads {SCHEMA}")
            body.pop("sha256")
            if _seal(body) != data:
                raise ValueError("damaged")
            window = None if body["window"] is None else tuple(map(_count, body["window"]))
            manifest = cls(
                _count(body["step"]),
                body["best"] is True,
                unflatten(json.dumps(body["meta"]).encode(), {}, path),
                {name: Stamp(_count(size), sha) for name, (size, sha) in body["files"].items()},
                window,  # type: ignore[arg-type]  # its length is checked by `covers`
                tuple(
                    Segment(_count(start), _count(stop), Stamp(_count(size), sha))
                    for start, stop, size, sha in body["segments"]
                ),
            )
            if set(manifest.files) != {STATE, TENSORS}:
                raise ValueError(f"names the files {sorted(manifest.files)}")
            if not covers(window, manifest.segments):
                raise ValueError("its segments do not cover its history")
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: not a manifest ({error!r})") from error
        return manifest


def segment_name(start: int, stop: int) -> str:
    """Return the file name of the entries start to stop - 1, in the folder `replay`."""
    return f"{start:09d}-{stop:09d}.safetensors"


def _seal(body: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def covers(window: tuple[int, ...] | None, segments: tuple[Segment, ...]) -> bool:
    """Tell whether the segments join without gap or overlap and hold the window's entries."""
    if window is None:
        return not segments
    first, end = window
    if not segments:
        return first == end
    joined = all(a.stop == b.start for a, b in itertools.pairwise(segments))
    grows = all(s.start < s.stop for s in segments)
    return joined and grows and segments[0].start <= first <= end == segments[-1].stop


STEP_NAME = re.compile(r"step-(\d{9,18})(\.old)?")
SEGMENT_NAME = re.compile(r"\d{9,}-\d{9,}\.safetensors")


def age(path: Path) -> tuple[int, bool]:
    """Order of the checkpoints of a run; `.old` is one that another of the same step replaces."""
    match = STEP_NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path}: not a checkpoint (a folder named step-<number>)")
    return int(match[1]), match[2] is None


def verify(path: Path, *, digests: bool = True) -> Manifest:
    """Return the manifest of a committed, intact checkpoint; CheckpointError for all else.

    Checks the folder's name, that it holds its files and no other, and the sizes and digests of
    its files and segments. Without `digests` it reads no more than the manifest.
    """
    step, _ = age(path)
    replay = path.parent.parent / "replay"
    for folder in (path.parent, path, replay):
        if folder.is_symlink():
            raise CheckpointError(f"{folder}: a symbolic link")
    manifest = Manifest.parse(read(path / MANIFEST, None, LIMITS[MANIFEST]), path / MANIFEST)
    if manifest.step != step:
        raise CheckpointError(f"{path}: holds step {manifest.step}")
    if extra := {child.name for child in path.iterdir()} - set(LIMITS):
        raise CheckpointError(f"{path}: holds a file that is not its own: {min(extra)}")
    for name, stamp in manifest.files.items():
        check(path / name, stamp, LIMITS[name], digest=digests)
    for segment in manifest.segments:
        check(replay / segment.name, segment.stamp, TENSORS_LIMIT, digest=digests)
    return manifest
