"""The run's own record: `metrics.jsonl`, `evaluations.jsonl` and `episodes.csv`.

These files are the truth of a run. A checkpoint stores their `offset`, and a resumed run rewinds
them to it, so that every update stands there exactly once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from rlrun.schema import UserError

logger = logging.getLogger(__name__)

_BUFFER_SECONDS = 1.0
_BUFFER_BYTES = 64 * 1024


class _LineFile:
    """A text file that only grows, line by line, until it is rewound to a checkpoint.

    A full or failing disk does not stop a run: the lines wait in memory for the next attempt.
    Only a checkpoint insists (`offset` raises), since it would promise lines that do not exist.
    """

    def __init__(self, path: Path, header: str = "") -> None:
        self.path = path
        self._header = header.encode()
        self._pending = bytearray()
        self._failing = False
        self._next_flush = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._written = os.fstat(self._file).st_size
        if self._written == 0:
            self._pending += self._header

    def _append(self, line: str) -> None:
        self._pending += line.encode()
        now = time.monotonic()
        if now >= self._next_flush or (len(self._pending) > _BUFFER_BYTES and not self._failing):
            self._next_flush = now + _BUFFER_SECONDS
            self.flush()

    def flush(self) -> None:
        """Hand all lines to the operating system; on failure, tell it once and keep them."""
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                logger.warning("%s cannot be written now, will retry: %s", self.path, error)
            self._failing = True

    def _write(self) -> None:
        # Writing at a known place makes a retry after a short write overwrite the torn line.
        while self._pending:
            count = os.pwrite(self._file, self._pending, self._written)
            del self._pending[:count]
            self._written += count
        self._failing = False

    @property
    def offset(self) -> int:
        """Length of the file in bytes, once all of it is on the disk (raises OSError if not)."""
        self._write()
        os.fsync(self._file)
        return self._written

    def rewind(self, offset: int) -> None:
        """Cut the file to its first `offset` bytes; 0 starts anew, with the header.

        Raises UserError, and changes nothing, if the file does not hold whole lines up to there.
        """
        self._pending.clear()
        size = os.fstat(self._file).st_size
        kept = offset if offset > len(self._header) else 0
        if kept > size:
            raise UserError(
                f"{self.path} has {size} bytes, but the checkpoint was saved when it had {offset}: "
                "the file was cut or replaced, put it back or resume from an older checkpoint"
            )
        if kept and os.pread(self._file, 1, kept - 1) != b"\n":
            raise UserError(
                f"{self.path} has no end of a line at byte {offset}, where the checkpoint was "
                "saved: the file was edited, put it back or resume from an older checkpoint"
            )
        os.ftruncate(self._file, kept)
        self._written = kept
        if kept == 0:
            self._pending += self._header

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        os.close(self._file)


class MetricsLog(_LineFile):
    """One JSON object per logged update, `{"step": 640, "loss/q": 0.25, ...}`.

    Numbers read back bit for bit. JSON knows no NaN and no infinity: they are written as null.
    """

    def __init__(self, folder: Path, name: str = "metrics.jsonl") -> None:
        super().__init__(folder / name)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line; `step` counts environment steps over all environments."""
        row: dict[str, float | None] = {"step": step}
        for name, value in metrics.items():
            number = value if type(value) is int else float(value)
            row[name] = number if math.isfinite(number) else None
        self._append(json.dumps(row, allow_nan=False) + "\n")


class EpisodeLog(_LineFile):
    """`episodes.csv`: one line for each finished episode, `step,env,return,length,time`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "episodes.csv", "step,env,return,length,time\n")

    def write(self, step: int, env: int, ret: float, length: int, seconds: float) -> None:
        """Append one episode.

        step: environment steps of the run, over all environments, when the episode ended;
        env: index of its environment; ret: raw return; length: its steps;
        seconds: time of the run so far.
        """
        self._append(f"{step},{env},{float(ret)!r},{length},{seconds:.3f}\n")
