"""Checkpoints of a run: committed by one rename, verified on reading, without pickle.

    <run>/replay/000000000-000000250.safetensors    entries of the replay memory, written once
    <run>/checkpoints/step-000123456/               manifest.json, state.json, tensors.safetensors

Order of writing: segments, then the files of a temporary folder with the manifest last, then the
rename that commits; only then older checkpoints go, and then the segments nobody refers to. There
is no "latest" link: the newest folder that `verify` accepts is the latest, for writer and reader.
"""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from rlrun.run.manifest import (
    LIMITS,
    MANIFEST,
    SEGMENT_NAME,
    STATE,
    STEP_NAME,
    TENSORS,
    Manifest,
    Segment,
    age,
    covers,
    segment_name,
    verify,
)
from rlrun.run.store import (
    DISK,
    MIB,
    TENSORS_LIMIT,
    CheckpointError,
    Disk,
    flatten,
    make_folder,
    pack,
    put,
    read,
    remove,
    unflatten,
    unpack,
)

logger = logging.getLogger("rlrun")

SEGMENT_BYTES = 64 * MIB
"""Longer histories are split, so that neither saving nor loading holds a second copy of them."""


class NoIntactCheckpoint(CheckpointError):
    """A run has checkpoints but all of them are damaged: it must not silently start anew."""


class SegmentLog(Protocol):
    """An append-only history of which the entries `first` to `end - 1` are live."""

    @property
    def first(self) -> int:
        """Number of the oldest live entry."""

    @property
    def end(self) -> int:
        """Number of the next entry."""

    def export(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        """Return the entries start to stop - 1; each tensor has one row per entry."""

    def restore(self, start: int, stop: int, tensors: dict[str, torch.Tensor]) -> None:
        """Take back entries in ascending order, as `export` gave them."""


class Checkpointer:
    """Saves and loads the checkpoints of one run; the caller holds the run's lock while saving.

    Keeps the `keep` newest and the one last marked as the best. A run with checkpoints goes on
    from the one that was loaded: the next `save` removes newer ones, damaged ones and what
    crashes left behind.
    """

    def __init__(self, folder: Path, keep: int, *, disk: Disk = DISK) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must stay")
        self._keep = keep
        self._disk = disk
        self._checkpoints = folder / "checkpoints"
        self._replay = folder / "replay"
        self._current: tuple[Path, Manifest] | None = None
        self._clean = False

    def paths(self) -> list[Path]:
        """Return the folders of all checkpoints, oldest first, intact or not."""
        if not self._checkpoints.is_dir():
            return []
        found = [p for p in self._checkpoints.iterdir() if STEP_NAME.fullmatch(p.name)]
        return sorted(found, key=age)

    def latest(self) -> Path | None:
        """Return the newest intact checkpoint, None if the run has none at all.

        Warns of damaged ones; raises NoIntactCheckpoint if there are no others.
        """
        path = self._newest(only_best=False)
        if path is None and self.paths():
            raise NoIntactCheckpoint(f"{self._checkpoints}: no intact checkpoint is left")
        return path

    def best(self) -> Path | None:
        """Return the intact checkpoint last marked as the best, None if there is none."""
        return self._newest(only_best=True)

    def _newest(self, only_best: bool) -> Path | None:
        for path in reversed(self.paths()):
            try:
                if only_best and not verify(path, digests=False).best:
                    continue
                verify(path)
                return path
            except CheckpointError as error:
                if not path.exists():  # a running training has just replaced it: look again
                    return self._newest(only_best)
                logger.warning("Skipping a damaged checkpoint: %s", error)
        return None

    def load(self, path: Path, log: SegmentLog | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (state, meta) of one of the run's checkpoints and give its history to `log`.

        With log=None a history is left unread, and the run cannot go on from there. Raises
        CheckpointError; what `log` holds is then undefined.
        """
        if path.parent.resolve() != self._checkpoints.resolve():
            raise CheckpointError(f"{path}: not in {self._checkpoints}")
        manifest = verify(path, digests=False)
        packed = read(path / TENSORS, manifest.files[TENSORS], LIMITS[TENSORS])
        tensors = unpack(packed, path / TENSORS)
        text = read(path / STATE, manifest.files[STATE], LIMITS[STATE])
        state = unflatten(text, tensors, path / STATE)
        if log is not None:
            if manifest.window is None:
                raise CheckpointError(f"{path}: was saved without a history")
            self._restore(manifest, log)
        if (log is None) == (manifest.window is None):
            self._current = self._checkpoints / path.name, manifest
            self._clean = False
        return state, manifest.meta

    def _restore(self, manifest: Manifest, log: SegmentLog) -> None:
        assert manifest.window is not None
        first, end = manifest.window
        for segment in manifest.segments:
            tensors = self._read_segment(segment)
            start, stop = max(first, segment.start), min(end, segment.stop)
            if start < stop:
                rows = slice(start - segment.start, stop - segment.start)
                log.restore(start, stop, {name: t[rows] for name, t in tensors.items()})
            del tensors  # before the next ones are read

    def _read_segment(self, segment: Segment) -> dict[str, torch.Tensor]:
        path = self._replay / segment.name
        tensors = unpack(read(path, segment.stamp, TENSORS_LIMIT), path)
        _check_rows(tensors, segment.stop - segment.start, path)
        return tensors

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        log: SegmentLog | None,
        *,
        best: bool = False,
        meta: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint and return its folder; it is on the disk when this returns.

        A second save at the same step replaces the first and keeps its mark as the best. Raises
        OSError if the disk refuses (earlier checkpoints stay, saving may be tried again),
        TypeError or ValueError for a state that cannot be stored, CheckpointError if the run has
        checkpoints and none was loaded.
        """
        text, tensors = flatten(state)
        if self._current is None and self.paths():
            raise CheckpointError(
                f"{self._checkpoints} has checkpoints: load one to go on, or remove them"
            )
        if self._current is not None and step <= (last := self._current[1]).step:
            if step < last.step:
                raise ValueError(f"step {step} is before the last checkpoint's, {last.step}")
            best = best or last.best
        try:
            for folder in (self._checkpoints, self._replay):
                if folder.is_symlink():
                    raise CheckpointError(f"{folder}: a symbolic link")
                make_folder(folder, self._disk)
            if not self._clean:
                self._tidy()
            window = None if log is None else (log.first, log.end)
            segments = () if log is None else self._append(log)
            path = self._checkpoints / f"step-{step:09d}"
            temporary = self._checkpoints / f".tmp-{path.name}"
            self._disk.mkdir(temporary)
            files = {
                STATE: put(temporary / STATE, [text], self._disk),
                TENSORS: put(temporary / TENSORS, pack(tensors), self._disk),
            }
            manifest = Manifest(step, best, dict(meta), files, window, segments)
            put(temporary / MANIFEST, [manifest.text()], self._disk)
            self._disk.sync(temporary)
            self._commit(temporary, path)
        except BaseException:
            self._clean = False
            with contextlib.suppress(OSError):
                self._tidy()
            raise
        self._current = path, manifest
        try:
            self._tidy()
        except OSError as error:  # the checkpoint is safe; the next save tries again
            self._clean = False
            logger.warning("Could not remove old checkpoints: %s", error)
        return path

    def _append(self, log: SegmentLog) -> tuple[Segment, ...]:
        """Write the live entries that no segment holds yet; return the segments that matter."""
        first, end = log.first, log.end
        segments = [s for s in self._current[1].segments if s.stop > first] if self._current else []
        start = segments[-1].stop if segments else first
        rows = 1
        written = start < end
        if written:
            entry = sum(t.nbytes for t in log.export(start, start + 1).values())
            rows = max(1, SEGMENT_BYTES // max(1, entry))
        while start < end:
            stop = min(start + rows, end)
            segments.append(self._write_segment(log, start, stop))
            start = stop
        if written:
            self._disk.sync(self._replay)
        if not covers((first, end), tuple(segments)):
            raise ValueError(f"the history's window {first}..{end} does not follow the last one")
        return tuple(segments)

    def _write_segment(self, log: SegmentLog, start: int, stop: int) -> Segment:
        tensors = log.export(start, stop)
        path = self._replay / segment_name(start, stop)
        _check_rows(tensors, stop - start, path)
        return Segment(start, stop, put(path, pack(tensors), self._disk))

    def _commit(self, temporary: Path, path: Path) -> None:
        """Give the finished folder its name; one of the same step stays readable until then."""
        if path.exists():
            self._disk.rename(path, path.with_name(f"{path.name}.old"))
        self._disk.rename(temporary, path)
        self._disk.sync(self._checkpoints)

    def _tidy(self) -> None:
        """Remove all that the run no longer needs; a crash at any point leaves only leftovers."""
        self._empty_trash()
        kept = self._kept()
        for path in self.paths():
            if path not in kept:
                self._disk.rename(path, path.with_name(f".trash-{path.name}"))
        self._empty_trash()
        needed = {segment.name for manifest in kept.values() for segment in manifest.segments}
        for path in sorted(self._replay.iterdir()):
            if SEGMENT_NAME.fullmatch(path.name) and path.name not in needed:
                self._disk.unlink(path)
        self._clean = True

    def _kept(self) -> dict[Path, Manifest]:
        """Return the checkpoints that stay: the current, the `keep` newest and the best one."""
        if self._current is None:
            return {}
        current, _ = self._current
        intact: dict[Path, Manifest] = {}
        for path in self.paths():
            if age(path) > age(current):
                logger.warning("Removing %s: the run went on from %s", path, current.name)
                continue
            try:
                intact[path] = verify(path, digests=False)
            except CheckpointError as error:
                logger.warning("Removing a damaged checkpoint: %s", error)
        for path in list(intact):
            if path.suffix == ".old" and path.with_suffix("") in intact:
                del intact[path]
        newest = list(intact)[-self._keep :]
        best = [path for path, manifest in intact.items() if manifest.best][-1:]
        return {path: intact[path] for path in newest + best} | dict([self._current])

    def _empty_trash(self) -> None:
        """Remove temporary and doomed folders, after their new names are durable."""
        children = sorted(self._checkpoints.iterdir())
        trash = [child for child in children if child.name.startswith((".tmp-", ".trash-"))]
        if trash:
            self._disk.sync(self._checkpoints)
        for child in trash:
            remove(child, self._disk)


def _check_rows(tensors: Mapping[str, torch.Tensor], rows: int, path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or len(tensor) != rows:
            raise CheckpointError(f"{path}: {name} has not one row for each of {rows} entries")
