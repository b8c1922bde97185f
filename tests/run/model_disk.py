"""Doubles for the tests of checkpoints: a history, a failing disk, and a model of power loss."""

import errno
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rlrun.run.store import Disk


class FakeLog:
    """A ring of `slots` entries; `salt` tells apart the entries of different timelines."""

    def __init__(self, slots: int = 5) -> None:
        self.slots, self.entries, self.end = slots, {}, 0
        self.restored: list[tuple[int, int]] = []

    @property
    def first(self) -> int:
        return max(0, self.end - self.slots)

    def add(self, count: int, salt: int = 0) -> None:
        for number in range(self.end, self.end + count):
            frame = torch.tensor([number % 256, salt, 7], dtype=torch.uint8)
            self.entries[number] = {"frame": frame, "reward": torch.tensor(number / 3)}
        self.end += count

    def export(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        rows = [self.entries[number] for number in range(start, stop)]
        return {name: torch.stack([row[name] for row in rows]) for name in ("frame", "reward")}

    def restore(self, start: int, stop: int, tensors: dict[str, torch.Tensor]) -> None:
        for row, number in enumerate(range(start, stop)):
            self.entries[number] = {name: value[row] for name, value in tensors.items()}
        self.end = stop
        self.restored.append((start, stop))

    def content(self) -> list[tuple[int, list[int], float]]:
        live = range(self.first, self.end)
        rows = ((n, self.entries[n]) for n in live)
        return [(n, row["frame"].tolist(), row["reward"].item()) for n, row in rows]


class FailingDisk(Disk):
    """Raises `code` at operation number `at`, and ever after if `for_good`."""

    def __init__(self, at: int, code: int = errno.ENOSPC, for_good: bool = False) -> None:
        self.at, self.code, self.for_good, self.count = at, code, for_good, 0

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at or (self.for_good and self.count > self.at):
            raise OSError(self.code, "injected")

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        content = b"".join(chunks)
        try:
            self._step()
        except OSError:
            path.write_bytes(content[: len(content) // 2])
            raise
        path.write_bytes(content)

    def mkdir(self, path: Path) -> None:
        self._step()
        super().mkdir(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def rmdir(self, path: Path) -> None:
        self._step()
        super().rmdir(path)

    def sync(self, folder: Path) -> None:
        self._step()


class RecordingDisk(FailingDisk):
    """Does the operations and keeps them in `operations`, paths relative to `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__(at=0)
        self.root = root
        self.operations: list[tuple] = []

    def _record(self, kind: str, path: Path, *more: object) -> None:
        self.operations.append((kind, path.relative_to(self.root).parts, *more))

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        content = b"".join(chunks)
        super().write(path, [content])
        self._record("write", path, content)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._record("mkdir", path)

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent
        super().rename(source, target)
        self._record("rename", source, target.name)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._record("unlink", path)

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._record("rmdir", path)

    def sync(self, folder: Path) -> None:
        super().sync(folder)
        self._record("sync", folder)


@dataclass
class _Folder:
    """Names as programs see them, as the platter has them, and the changes in between."""

    live: dict[str, "_Folder | bytes"] = field(default_factory=dict)
    durable: dict[str, "_Folder | bytes"] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)


Tree = dict[str, "Tree | bytes"]


class PowerLoss:
    """All states in which a disk may be found after the power fails.

    A name that was created, changed or removed is certain only after its folder was synced: any
    subset of the changes since may have reached the disk, in any folder, whatever their order. The
    content of a file is certain once `write` has returned; before, it may be empty or torn.
    """

    def __init__(self, start: Tree) -> None:
        self.root = self._grow(start)
        self.changes: dict[int, tuple[_Folder, list[tuple[str, _Folder | bytes | None]]]] = {}
        self.clock = itertools.count()

    def _grow(self, tree: Tree) -> _Folder:
        names = {k: self._grow(v) if isinstance(v, dict) else v for k, v in tree.items()}
        return _Folder(dict(names), dict(names))

    def _folder(self, parts: tuple[str, ...]) -> _Folder:
        folder = self.root
        for part in parts:
            folder = folder.live[part]
            assert isinstance(folder, _Folder)
        return folder

    def _change(self, folder: _Folder, *names: tuple[str, _Folder | bytes | None]) -> None:
        number = next(self.clock)
        folder.pending.append(number)
        self.changes[number] = folder, list(names)
        _put(folder.live, names)

    def apply(self, kind: str, parts: tuple[str, ...], *more: str | bytes) -> None:
        if kind == "sync":
            folder = self._folder(parts)
            folder.durable = dict(folder.live)
            for number in folder.pending:
                del self.changes[number]
            folder.pending = []
            return
        folder, name = self._folder(parts[:-1]), parts[-1]
        if kind == "rename":
            self._change(folder, (name, None), (str(more[0]), folder.live[name]))
        elif kind == "mkdir":
            self._change(folder, (name, _Folder()))
        elif kind == "write":
            self._change(folder, (name, more[0]))
        else:
            self._change(folder, (name, None))

    def states(self, limit: int = 6) -> Iterator[Tree]:
        """Every subset of the uncertain changes; a sample of them beyond `limit` changes."""
        numbers = sorted(self.changes)
        if len(numbers) <= limit:
            for size in range(len(numbers) + 1):
                for chosen in itertools.combinations(numbers, size):
                    yield self._tree(self.root, set(chosen))
            return
        draw = random.Random(len(numbers))
        yield self._tree(self.root, set())
        for number in numbers:
            yield self._tree(self.root, {number})
            yield self._tree(self.root, set(numbers) - {number})
            yield self._tree(self.root, {n for n in numbers if n <= number})
        for _ in range(2**limit):
            yield self._tree(self.root, {n for n in numbers if draw.random() < 0.5})

    def _tree(self, folder: _Folder, chosen: set[int]) -> Tree:
        names = dict(folder.durable)
        for number in folder.pending:
            if number in chosen:
                _put(names, self.changes[number][1])
        return {
            name: self._tree(child, chosen) if isinstance(child, _Folder) else child
            for name, child in sorted(names.items())
        }


def _put(names: dict, changes: Iterable[tuple[str, "_Folder | bytes | None"]]) -> None:
    for name, target in changes:
        if target is None:
            names.pop(name, None)
        else:
            names[name] = target


def crashes(start: Tree, operations: list[tuple]) -> Iterator[tuple[int, Tree]]:
    """Give (operations done, state of the disk) for a power loss at every instant."""
    disk = PowerLoss(start)
    yield from ((0, tree) for tree in disk.states())
    for done, (kind, parts, *more) in enumerate(operations):
        if kind == "write":
            content = more[0]
            for torn in (b"", content[: len(content) // 2]):
                disk.apply(kind, parts, torn)
                yield from ((done, tree) for tree in disk.states())
        disk.apply(kind, parts, *more)
        yield from ((done + 1, tree) for tree in disk.states())


def tree_of(folder: Path) -> Tree:
    """Read a folder into memory."""
    return {p.name: tree_of(p) if p.is_dir() else p.read_bytes() for p in folder.iterdir()}


def plant(tree: Tree, folder: Path) -> None:
    """Write a tree into a new folder."""
    folder.mkdir()
    for name, child in tree.items():
        if isinstance(child, dict):
            plant(child, folder / name)
        else:
            (folder / name).write_bytes(child)
