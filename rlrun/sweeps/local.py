"""Jobs as processes of this machine, several at once if asked for.

They are forked from a server that has imported PyTorch once. It is the standard library's: the
workers of joblib and concurrent.futures take many jobs one after the other, whose threads, random
numbers and memory would leak from one into the next, and one that is killed breaks their pool.

A job has a line to the driver. When it is cut, because the job is to stop or the driver was
killed, the job sends itself SIGTERM: it saves itself and ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from rlrun import stored
from rlrun.run.console import is_terminal
from rlrun.schema import UserError
from rlrun.sweeps.folder import CONFIG, OUTPUT, Job, Sweep
from rlrun.sweeps.pool import OwnLauncher
from rlrun.sweeps.work import STOPPED, trusted, work

SAFE_PATH = "PYTHONSAFEPATH", "rlrun"
"""With this in its environment, a `random.py` in the current folder is not Python's for the server
either, as it is not for `rlrun`. The server takes it out again."""

_LATER = 0.5  # seconds

_context = multiprocessing.get_context("forkserver")


class Local(OwnLauncher):
    """Carries jobs in processes of their own, on this machine.

    Args:
        n_jobs: jobs at once; None for one per core.
    """

    def __init__(self, n_jobs: int | None = 1) -> None:
        self.n_jobs = n_jobs

    def setup(self, **given: Any) -> None:
        """Called by Hydra; refuses what is no number of jobs."""
        if self.n_jobs is not None and (type(self.n_jobs) is not int or self.n_jobs < 1):
            raise UserError(
                f"hydra.launcher.n_jobs: {self.n_jobs} is not allowed; allowed: a whole number "
                "from 1, or null for one job per core"
            )

    def pool(self, sweep: Sweep) -> Processes:
        """A pool for the jobs of the sweep; starts nothing yet."""
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        n_jobs = self.n_jobs or len(cores) or os.cpu_count() or 1
        return Processes(sweep, shares(cores, n_jobs))


def shares(cores: Sequence[int], n_jobs: int) -> list[list[int]]:
    """The cores of each of the jobs that run at once, as many for each as for the others.

    How many threads a job has may decide the last bits of its result, so where it runs must not
    decide how many it has. Fewer cores than jobs are shared.
    """
    each = max(1, len(cores) // n_jobs)
    numbers = [[slot * each + i for i in range(each)] for slot in range(n_jobs)]
    return [[cores[i % len(cores)] for i in mine if cores] for mine in numbers]


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess
    line: Connection


class Processes:
    """Carries jobs of one sweep, as many at once as there are shares of the cores.

    A job alone on a terminal shows its screen there. Otherwise what it prints goes to the file
    `output.log` of the job.

    Args:
        sweep: that they belong to.
        shares: cores for each of the jobs that run at once; empty ones for all cores.
    """

    def __init__(self, sweep: Sweep, shares: Sequence[Sequence[int]]) -> None:
        self._sweep = sweep
        self._shares = shares
        self._shown = len(shares) == 1 and is_terminal()
        self._waiting: deque[Job] = deque()
        self._dropped: list[Job] = []
        self._running: dict[int, _Running] = {}  # by the number of the share

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take these jobs in hand; they run as soon as there is room."""
        for job in jobs:
            self._sweep.report(job, "waiting")  # whatever became of it before
        self._waiting.extend(jobs)
        self._fill()

    def poll(self, seconds: float) -> list[Job]:
        """Those that have ended since the last call, waiting for one at most so many seconds."""
        self._fill()  # and not below: a stop may be asked for before the next call
        ended, self._dropped = self._dropped, []
        slots = {running.process.sentinel: slot for slot, running in self._running.items()}
        for sentinel in wait(list(slots), 0 if ended else seconds):
            ended.append(self._end(slots[sentinel]))  # type: ignore[index]
        return ended

    def stop(self, jobs: Iterable[Job]) -> None:
        """Let these save themselves and end; those that have not begun never begin."""
        numbers = {job.number for job in jobs}
        self._dropped += [job for job in self._waiting if job.number in numbers]
        self._waiting = deque(job for job in self._waiting if job.number not in numbers)
        for running in self._running.values():
            if running.job.number in numbers:
                running.line.close()

    def close(self) -> None:
        """Let what still runs save itself, and wait for it."""
        self._waiting.clear()
        self.stop([running.job for running in self._running.values()])
        for slot in list(self._running):
            self._end(slot)

    def _fill(self) -> None:
        for slot, cores in enumerate(self._shares):
            if slot not in self._running and self._waiting:
                self._running[slot] = self._begin(self._waiting.popleft(), cores)

    def _begin(self, job: Job, cores: Sequence[int]) -> _Running:
        _serve()
        folder = self._sweep.job_folder(job).absolute()
        trust = trusted(stored.read(folder / CONFIG))
        output = None if self._shown else folder / OUTPUT
        theirs, line = _context.Pipe(duplex=False)
        sweep = self._sweep.folder.absolute()
        arguments = (sweep, self._sweep.home, job.number, trust, cores, output, theirs)
        process = _context.Process(target=_job, args=arguments, name=f"job-{job.number}")
        process.start()
        theirs.close()
        return _Running(job, process, line)

    def _end(self, slot: int) -> Job:
        """Wait for the job there, and write down how it ended if it could not do so itself."""
        running = self._running.pop(slot)
        running.process.join()
        code = running.process.exitcode
        assert code is not None
        running.process.close()
        running.line.close()
        job = running.job
        if self._sweep.state(job).status in ("waiting", "lost"):
            if code in (*STOPPED, -signal.SIGINT, -signal.SIGTERM):
                self._sweep.report(job, "stopped", "by a signal")
            elif code < 0:
                self._sweep.report(job, "failed", f"killed by {signal.Signals(-code).name}")
            else:
                self._sweep.report(job, "failed", f"ended without a word, exit code {code}")
        return job


def _serve() -> None:
    """Start the server if it does not run."""
    _context.set_forkserver_preload(["rlrun.sweeps.server"])
    name, value = SAFE_PATH
    if (users := os.environ.get(name)) is None:
        os.environ[name] = value
    try:
        forkserver.ensure_running()
    finally:
        if users is None:
            del os.environ[name]


def _job(
    sweep: Path,
    home: Path,
    number: int,
    trust: list[str],
    cores: Sequence[int],
    output: Path | None,
    line: Connection,
) -> None:
    """A job, in its process."""
    os.setsid()  # so that Ctrl-C reaches the driver alone
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the server ignores it
    if output is not None:
        _print_to(output)
    if cores:
        os.sched_setaffinity(0, cores)
    os.chdir(home)
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    signal.set_wakeup_fd(hears, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(line, heard), daemon=True).start()
    sys.exit(work(sweep, number, trust))


def _print_to(path: Path) -> None:
    """Append all that this process prints to a file, line by line."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _watch(line: Connection, heard: int) -> None:
    """Stop this process when the line is cut, unless a signal has asked it to stop already.

    A second SIGTERM would end it at once, and a cluster sends one to the driver and to all jobs:
    theirs may come a little later than what the driver does upon its own.
    """
    if heard not in wait([line, heard]) and not wait([heard], _LATER):
        os.kill(os.getpid(), signal.SIGTERM)
