"""The folder of a sweep: which jobs it has, and how each of them stands.

    sweep.json               command, current folder, launcher, jobs (number, words, run, group)
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
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlrun import stored
from rlrun.schema import UserError

INDEX, STATUS, CONFIG, OUTPUT = "sweep.json", "status.json", "config.yaml", "output.log"

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


class Sweep:
    """The folder of one sweep, as its driver, its jobs and any shell see it.

    Args:
        folder: of the sweep; need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command: list[str] = []
        """The words of the command line, flags first."""
        self.home = Path.cwd()
        """The folder in which they were typed."""
        self.launcher: dict[str, Any] = {}
        """Config of what carries the jobs."""
        self.jobs: list[Job] = []
        if (folder / INDEX).is_file():
            self._read()

    def _read(self) -> None:
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            self.command, self.launcher = list(index["command"]), dict(index["launcher"])
            self.home = Path(index["home"])
            self.jobs = [Job(**job) for job in index["jobs"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{self.folder / INDEX} is damaged: {error}") from error

    def save(self) -> None:
        """Write the index."""
        index = {
            "command": self.command,
            "home": str(self.home),
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
        record = {"status": status, "reason": reason, "pid": os.getpid(), "time": time.time()}
        _write(self.job_folder(job) / STATUS, json.dumps(record))

    def state(self, job: Job) -> State:
        """How a job stands, by what it left in its folders."""
        run = self.run_folder(job)
        result = stored.read_json(run / "result.json")
        step = result.get("step", 0)
        if stored.is_finished(result, job.total_timesteps):
            return State("finished", step=step)
        record = stored.read_json(self.job_folder(job) / STATUS)
        status, reason = record.get("status", "waiting"), str(record.get("reason") or "")
        if is_held(run):
            return State("running", step=max(step, _last_step(run)))
        if status == "running":
            return State("lost", "its process is gone without a word", max(step, _last_step(run)))
        return State(status, reason, step)

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
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()[:8]


def find(name: str, root: Path = Path("outputs/sweeps")) -> Sweep:
    """The sweep of that name, or in that folder.

    Raises:
        UserError: there is none.
    """
    for folder in (root / name, Path(name)):
        if (folder / INDEX).is_file():
            return Sweep(folder)
    known = sorted(path.parent.name for path in root.glob(f"*/{INDEX}"))
    there = f"there are: {', '.join(known)}" if known else f"there are none in {root}"
    raise UserError(f"{name}: no such sweep; {there}")


def _last_step(run: Path) -> int:
    """Step of the last row of metrics that is whole."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            rows = file.read().splitlines()[-2:]
    except OSError:
        return 0
    for row in reversed(rows):
        try:
            return int(json.loads(row)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def _write(path: Path, text: str) -> None:
    """Whole or not at all; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
