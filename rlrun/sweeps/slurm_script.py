"""The batch script of a sweep on Slurm, as text, and the settings that it is made of."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrun.schema import UserError

PER_ARRAY = 1000
"""Jobs in one array; Slurm takes indices up to 1000 unless the site says otherwise."""

_DAY = 24 * 60
_OURS = (
    *("array", "chdir", "error", "job-name", "no-requeue", "open-mode", "output", "parsable"),
    *("requeue", "signal", "wait", "wrap"),
)


@dataclass(frozen=True)
class Settings:
    """Keys of `hydra.launcher`; conf/hydra/launcher/slurm.yaml explains each."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int | str | None = None
    gres: str | None = None
    cpus: int | None = 1
    memory: str | int | None = None
    parallel: int | None = None
    signal_seconds: int = 60
    setup: Sequence[str] = ()
    comment: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise UserError unless a script can be made of them."""
        for name, least in (("cpus", 1), ("parallel", 1), ("signal_seconds", 1)):
            value = getattr(self, name)
            if value is None and name != "signal_seconds":
                continue
            if type(value) is not int or not least <= value <= 65535:
                _refuse(name, value, "a whole number from 1 to 65535")
        seconds = self.seconds()
        if seconds is not None and self.signal_seconds >= seconds:
            _refuse("signal_seconds", self.signal_seconds, f"less than the time limit ({seconds})")
        if isinstance(self.setup, str) or not all(isinstance(line, str) for line in self.setup):
            _refuse("setup", self.setup, "a list of lines, as in ['module load cuda']")
        for name in self.extra:
            if name in _OURS:
                raise UserError(f"hydra.launcher.extra.{name}: rlrun sets this one itself")
            if name in (known := {**_OPTIONS, "time": "time"}).values():
                key = next(key for key, option in known.items() if option == name)
                raise UserError(f"hydra.launcher.extra.{name}: write hydra.launcher.{key}")
            if not re.fullmatch("[a-z][a-z-]+", str(name)):
                _refuse(f"extra.{name}", self.extra[name], "a long option of sbatch without --")
        for name, value in {**_options(self), **self.extra}.items():
            if isinstance(value, Mapping | list | tuple) or re.search(r"[\x00-\x1f]", str(value)):
                _refuse(name, value, "one line of text or a number")

    def seconds(self) -> int | None:
        """The time limit.

        Raises:
            UserError: it is none.
        """
        if self.time is None:
            return None
        if type(self.time) is int and self.time > _DAY:
            # YAML reads 12:00:00 as 43200.
            _refuse("time", self.time, "at most 1440 minutes, or '[D-]HH:MM:SS', in YAML in quotes")
        if re.fullmatch(r"[1-9]\d*", str(self.time)):
            return 60 * int(self.time)
        found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", str(self.time))
        parts = [int(part or 0) for part in found.groups()] if found else [0]
        if not found or not any(parts):
            _refuse("time", self.time, "minutes, or '[D-]HH:MM:SS'")
        days, hours, minutes, rest = parts
        return ((24 * days + hours) * 60 + minutes) * 60 + rest


_OPTIONS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "gres": "gres",
    "cpus": "cpus-per-task",
    "memory": "mem",
    "comment": "comment",
}


def _options(settings: Settings) -> dict[str, Any]:
    given = {option: getattr(settings, key) for key, option in _OPTIONS.items()}
    return {"time": settings.time} | given


def _refuse(key: str, value: object, allowed: str) -> None:
    raise UserError(f"hydra.launcher.{key}: {value!r} is not possible; {allowed}")


def array_name(folder: Path, part: int) -> str:
    """By which Slurm's queue tells the arrays of this sweep from all others.

    Args:
        folder: of the sweep.
        part: the array of jobs `PER_ARRAY * part` and those after it.
    """
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return f"rlrun-{folder.name}-{place}.{part}"


def arrays(numbers: Collection[int]) -> dict[int, list[int]]:
    """Indices by array, for jobs of these numbers."""
    found: dict[int, list[int]] = {}
    for number in sorted(numbers):
        found.setdefault(number // PER_ARRAY, []).append(number % PER_ARRAY)
    return found


def script(
    settings: Settings,
    folder: Path,
    home: Path,
    part: int,
    indices: Sequence[int],
    trust: Sequence[str] = (),
) -> str:
    """The script of one array.

    Args:
        settings: checked.
        folder: of the sweep.
        home: the current folder of its jobs.
        part: see `arrays`.
        indices: of its jobs.
        trust: packages whose components the configs may name.
    """
    folder = folder.resolve()
    if re.search(r"[\x00-\x1f\\]", f"{folder}{home}"):
        raise UserError(f"{folder}: Slurm takes no such folder; name it without odd characters")
    limit = f"%{settings.parallel}" if settings.parallel else ""
    # Slurm fills in the index: jobs/2003/output.log is that of index 3 in array 2.
    place = str(folder / "jobs").replace("%", "%%")
    options = {
        "job-name": array_name(folder, part),
        "array": _ranges(indices) + limit,
        "output": f"{place}/{part}%3a/output.log",
        "open-mode": "append",
        "chdir": str(home),
        "requeue": True,
        "signal": f"B:USR2@{settings.signal_seconds}",
        **_options(settings),
        **settings.extra,
    }
    lines = ["#!/bin/bash"]
    for name, value in options.items():
        if value is True:
            lines.append(f"#SBATCH --{name}")
        elif value is not None and value is not False:
            lines.append(f"#SBATCH --{name}={shlex.quote(str(value))}")
    words = ["-u", "-m", "rlrun.sweeps.slurm_job", str(folder), str(PER_ARRAY * part), *trust]
    return "\n".join(
        [
            *lines,
            "",
            "# Whoever asks a job to save asks the training, and not the lines before it.",
            "trap '' TERM USR2",
            "export PYTHONSAFEPATH=1",
            *settings.setup,
            f"exec {shlex.join([sys.executable, *words])}",
            "",
        ]
    )


def _ranges(indices: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2,5`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
