"""One process per run folder."""

import fcntl
import os
import time
import weakref
from pathlib import Path
from types import TracebackType

from rlrun.run.store import make_folder, remove
from rlrun.schema import UserError

NAME = "run.lock"


class RunLock:
    """Lock of a run's folder, as a context manager; the kernel frees it however the process ends.

    The file stays behind and names the process that had it last. Raises UserError if another
    process (or another RunLock of this one) holds it, or if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock without waiting; creates the folder if it is missing."""
        try:
            make_folder(self._folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._folder / NAME, flags, 0o666)
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be written: {error.strerror}. "
                "Choose another place with run.dir=FOLDER."
            ) from error
        try:
            _lock(handle)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise UserError(
                f"{self._folder} is in use by another process (pid {owner}). "
                "Wait for it to end, or stop it, and try again."
            ) from None
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        _held.discard(self)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def clear(folder: Path) -> None:
    """Remove all that is in a run's folder; who calls it has the lock, which stays."""
    for child in folder.iterdir():
        if child.name != NAME:
            remove(child)


def _lock(handle: int) -> None:
    """Lock an open file; raises BlockingIOError if another process has it for good.

    Whoever asks whether a run is in hand has its lock for an instant.
    """
    for pause in (0.01, 0.1, None):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause is None:
                raise
            time.sleep(pause)


_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _forget() -> None:
    # A forked worker that outlives a killed training must not go on holding its lock.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget)
