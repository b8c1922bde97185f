"""The folder of a sweep: which jobs it has, and how each of them stands.

    sweep.json               commands, current folder, host, launcher, jobs
    jobs/0003/config.yaml    resolved config of job 3
    jobs/0003/status.json    how it stands, by the process that has it in hand
    jobs/0003/output.log     what it printed

The runs live in their own folders, as without a sweep; whether one is finished its `result.json`
alone says. Nothing here needs PyTorch or Hydra.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rlrun import stored
from rlrun.schema import UserError, nearest
from rlrun.sweeps.process import is_alive, started

INDEX, STATUS, CONFIG, OUTPUT = "sweep.json", "status.json", "config.yaml", "output.log"
SEARCH, CANCEL = "search.json", "cancel"
"""What marks a search, and what was touched to stop its drivers."""

_NOT_NAMED = ("run.overwrite", "sweep.estimate")
"""Words that say what to do with a sweep, and not which one it is."""
_GRACE = 60.0  # seconds that a job of another host may take until it has the lock of its run

Status = Literal["waiting", "running", "finished", "failed", "stopped", "pruned", "lost"]
"""waiting: not begun; stopped: by a signal, goes on when begun again; pruned: stopped for good by a
search; lost: its process is gone without a word."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int
    words: list[str]
    """What it was composed from, as one types it."""
    run: str
    """Folder of the run, relative to the current folder of the sweep."""
    group: str
    """Digest of its config without the seed: jobs of one group differ in their seeds alone."""
    seed: int
    total_timesteps: int


@dataclass(frozen=True)
class State:
    """How a job stands."""

    status: Status
    reason: str = ""
    """Why it failed, or was stopped."""
    step: int = 0
    """Environment steps done, as far as its last report says."""
    speed: float = 0.0
    """Environment steps per second, if known."""
    seconds: float | None = None
    """From its last beginning to its end, once it has ended."""


class Sweep:
    """The folder of one sweep, as its driver, its jobs and any shell see it.

    Args:
        folder: of the sweep; need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command: list[str] = []
        """The words of the last command line, flags first."""
        self.commands: list[list[str]] = []
        """All command lines that brought jobs, this one included once it is saved."""
        self.home = Path.cwd()
        """The folder in which they were typed."""
        self.host = ""
        """Where its driver runs, or ran last."""
        self.launcher: dict[str, Any] = {}
        """Config of what carries the jobs."""
        self.jobs: list[Job] = []
        if (folder / INDEX).is_file():
            self._read()

    def _read(self) -> None:
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            self.commands = [[str(word) for word in words] for words in index["commands"]]
            self.command = self.commands[-1]
            self.home, self.host = Path(index["home"]), str(index["host"])
            self.launcher = dict(index["launcher"])
            self.jobs = [Job(**job) for job in index["jobs"]]
            if [job.number for job in self.jobs] != list(range(len(self.jobs))):
                raise ValueError("its jobs are not numbered from 0 on")
            if not all(isinstance(job.run, str) for job in self.jobs):
                raise ValueError("a run is no folder")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.folder / INDEX} is damaged ({error!r}). Move {self.folder} away and give "
                f"the command of the sweep again: runs that are finished are not run again."
            ) from error

    @property
    def is_on_slurm(self) -> bool:
        """Whether a cluster carries its jobs, with or without a driver here."""
        return str(self.launcher.get("_target_")).endswith(".Slurm")

    def save(self) -> None:
        """Write the index."""
        same = sorted(_naming(self.command))
        self.commands = [words for words in self.commands if sorted(_naming(words)) != same]
        self.commands.append(self.command)
        self.host = socket.gethostname()
        index = {
            "commands": self.commands,
            "home": str(self.home),
            "host": self.host,
            "launcher": self.launcher,
            "jobs": [asdict(job) for job in self.jobs],
        }
        _write(self.folder / INDEX, json.dumps(index, indent=1))

    def add(self, jobs: Iterable[Job], configs: Iterable[Mapping[str, Any]]) -> list[Job]:
        """Take up jobs, and their configs; those of runs that are there already keep their numbers.

        Args:
            jobs: whose numbers are not read.
            configs: of the jobs, checked.

        Returns:
            The same jobs, numbered as they are in the index.
        """
        added = self.numbered(jobs)
        for job, config in zip(added, configs, strict=True):
            self.jobs[job.number : job.number + 1] = [job]
            _write(self.job_folder(job) / CONFIG, stored.dump(config))
        self.save()
        return added

    def numbered(self, jobs: Iterable[Job]) -> list[Job]:
        """The same jobs, numbered as they are in the index or as `add` would number them."""
        known = {job.run: job.number for job in self.jobs}
        return [replace(job, number=known.setdefault(job.run, len(known))) for job in jobs]

    def job_folder(self, job: Job) -> Path:
        """Where the sweep keeps what it knows of a job."""
        return self.folder / "jobs" / f"{job.number:04d}"

    def run_folder(self, job: Job) -> Path:
        """Where the run of a job lives."""
        return self.home / job.run

    def report(self, job: Job, status: Status, reason: str = "") -> None:
        """Write down how a job stands; the last writer wins."""
        now = time.time()
        record = {
            "status": status,
            "reason": reason,
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "host": socket.gethostname(),
            "began": now if status == "running" else self.record(job).get("began"),
            "time": now,
        }
        _write(self.job_folder(job) / STATUS, json.dumps(record))

    def record(self, job: Job) -> dict[str, Any]:
        """What was written down last of a job; empty if nothing was."""
        return stored.read_json(self.job_folder(job) / STATUS)

    def state(self, job: Job) -> State:
        """How a job stands, by what it left in its folders."""
        run = self.run_folder(job)
        result, record = stored.read_json(run / "result.json"), self.record(job)
        step, speed = _number(result.get("step")), _number(result.get("steps_per_second"))
        began, ended = _number(record.get("began")), _number(record.get("time"))
        seconds = ended - began if began and ended else None
        if stored.is_finished(result, job.total_timesteps):
            return State("finished", "", int(step), speed, seconds)
        status: Any = record.get("status")
        reason = str(record.get("reason") or "")
        if is_held(run) or (status == "running" and _may_live(record)):
            now, speed = _last_row(run)
            return State("running", "", max(int(step), now), speed)
        if status == "running":
            now, speed = _last_row(run)
            return State("lost", "its process is gone without a word", max(int(step), now), speed)
        if status not in get_args(Status) or status == "finished":  # and its result is gone
            status = "waiting"
        return State(status, reason, int(step), speed, seconds)

    def states(self) -> dict[int, State]:
        """How each job stands, by its number."""
        return {job.number: self.state(job) for job in self.jobs}


def is_held(folder: Path) -> bool:
    """Whether a process has the lock of a run or of a sweep."""
    try:
        handle = os.open(folder / "run.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def name_of(words: Sequence[str]) -> str:
    """Eight hex digits for a sweep without a name: the same words, in any order, have the same."""
    text = "\n".join(sorted(_naming(words)))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _naming(words: Iterable[str]) -> list[str]:
    """The words that tell one sweep from another: no flags, nothing for Hydra itself."""
    own = (word for word in words if not word.lstrip("+~").startswith(("-", "hydra.", "hydra/")))
    return [word for word in own if word.partition("=")[0] not in _NOT_NAMED]


def names(root: Path = Path("outputs/sweeps")) -> list[str]:
    """The sweeps in a folder."""
    return sorted(path.parent.name for path in root.glob(f"*/{INDEX}"))


def find(name: str, root: Path = Path("outputs/sweeps")) -> Sweep:
    """The sweep of that name, or in that folder.

    Raises:
        UserError: there is none.
    """
    for folder in (root / name, Path(name).resolve()):
        if (folder / INDEX).is_file():
            return Sweep(folder)
    known = names(root)
    near = nearest(name, known)
    there = f"there are: {', '.join(known)}" if known else f"there are none in {root}"
    hint = f"did you mean {' or '.join(near)}?" if near else there
    raise UserError(f"{name}: no such sweep; {hint}")


def _may_live(record: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this may be loading PyTorch still, or ending already."""
    if record.get("host") != socket.gethostname():
        return time.time() - _number(record.get("time")) < _GRACE
    return is_alive(record.get("pid"), record.get("started"))


def _number(value: Any) -> float:
    """The number that a file should hold there, else 0."""
    return value if isinstance(value, int | float) and math.isfinite(value) else 0


def _last_row(run: Path) -> tuple[int, float]:
    """Step and steps per second by the last row of metrics that is whole."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            rows = file.read().splitlines()[-2:]
    except OSError:
        return 0, 0.0
    for row in reversed(rows):
        try:
            found = json.loads(row)
            return int(found["step"]), float(_number(found.get("time/steps_per_second")))
        except (ValueError, KeyError, TypeError):
            continue
    return 0, 0.0


def _write(path: Path, text: str) -> None:
    """Whole or not at all; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
