"""Launchers for tests: each job is a process `python WORDS... FOLDER NUMBER TRUST...`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.plugins import Plugins

from rlrun import stored
from rlrun.sweeps import plugins
from rlrun.sweeps.folder import CONFIG, OUTPUT, Job, Sweep
from rlrun.sweeps.pool import OwnLauncher, Pool
from rlrun.sweeps.work import trusted

TRAIN = """
import sys
from pathlib import Path
from rlrun.sweeps.work import work
sys.exit(work(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
"""


class Processes(OwnLauncher):
    words: tuple[str, ...] = ("-c", TRAIN)

    def __init__(self, n_jobs: int = 2, **of_slurm: object) -> None:
        self.n_jobs = n_jobs

    def pool(self, sweep: Sweep) -> Pool:
        return Workers(sweep, self.n_jobs, self.words)


class Played(Processes):
    """Does not train, see `played`."""

    words = (str(Path(__file__).with_name("played.py")),)


class Workers:
    def __init__(self, sweep: Sweep, n_jobs: int, words: Sequence[str]) -> None:
        self.sweep, self.n_jobs, self.words = sweep, n_jobs, words
        self.waiting: list[Job] = []
        self.ended: list[Job] = []
        self.running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        self.waiting += jobs
        self._begin()

    def _begin(self) -> None:
        while self.waiting and len(self.running) < self.n_jobs:
            job = self.waiting.pop(0)
            folder = self.sweep.job_folder(job)
            trust = trusted(stored.read(folder / CONFIG))
            with (folder / OUTPUT).open("ab") as log:
                words = [str(self.sweep.folder), str(job.number), *trust]
                process = subprocess.Popen(
                    [sys.executable, *self.words, *words],
                    cwd=self.sweep.home,
                    stdout=log,
                    stderr=log,
                )
            self.running[job.number] = job, process

    def poll(self, seconds: float) -> list[Job]:
        end = time.monotonic() + seconds
        while True:
            for number, (job, process) in list(self.running.items()):
                if process.poll() is not None:
                    self.ended.append(job)
                    del self.running[number]
            self._begin()
            if self.ended or time.monotonic() >= end:
                ended, self.ended = self.ended, []
                return ended
            time.sleep(0.02)

    def stop(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.number in self.running:
                self.running[job.number][1].send_signal(signal.SIGTERM)
            elif job in self.waiting:
                self.waiting.remove(job)
                self.ended.append(job)

    def close(self) -> None:
        for _, process in self.running.values():
            process.wait()


def register() -> None:
    Plugins.instance()  # looks for plugins on the disk, before there are some in memory
    plugins.register()
    for launcher in (Processes, Played):
        launcher.__module__ = plugins._HOME
        setattr(sys.modules[plugins._HOME], launcher.__name__, launcher)
        Plugins.instance().register(launcher)


if __name__ == "__main__":  # a driver: its words are those of the command line
    from rlrun import cli

    register()
    sys.exit(cli.main())
