"""A real Slurm of one node for the tests of this folder, and rlrun as a user of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TESTBED = ROOT / "scripts" / "slurm_testbed"
LAUNCHED = [sys.executable, "-c", "import sys; from rlrun.cli import main; sys.exit(main())"]

# An environment of the user's own, in a file beside which he types his commands. The files
# `slow` and `fault` name jobs on Slurm that take their time (twice as much where a job is named
# twice), or break down.
TASK = """
import os, time
from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


def told(name):
    try:
        return Path(name).read_text().split().count(os.environ.get("SLURM_ARRAY_TASK_ID"))
    except FileNotFoundError:
        return 0


class Task(CartPoleEnv):
    def step(self, action):
        time.sleep(0.004 * told("slow"))
        if told("fault"):
            raise RuntimeError("a planted error")
        return super().step(action)


gymnasium.register("Task-v0", Task, max_episode_steps=200)
"""


def missing() -> str:
    """What a Slurm of our own lacks here; empty if nothing."""
    absent = [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed; `{TESTBED.relative_to(ROOT)} install` does it"
    return "" if os.getuid() == 0 else "not root"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.getreports("skipped") if "tests/slurm/" in r.nodeid]
    if skipped and (why := missing()):
        terminalreporter.write_line(f"Slurm: {len(skipped)} tests were not run: {why}")


class User:
    """Somebody who types commands in a folder of his own."""

    def __init__(self, folder: Path, conf: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(conf), "PYTHONPATH": str(ROOT)}
        self.drivers: list[subprocess.Popen[str]] = []
        (folder / "task.py").write_text(TASK)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin `rlrun WORDS`."""
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        command, where = [*LAUNCHED, *words], self.folder
        driver = subprocess.Popen(
            command, cwd=where, env=self.env, stdout=pipe, stderr=both, text=True
        )
        self.drivers.append(driver)
        return driver

    def rlrun(self, *words: str) -> tuple[int, str]:
        """Exit code and output of `rlrun WORDS`."""
        process = self.start(*words)
        out, _ = process.communicate(timeout=600)
        return process.returncode, out

    def ask(self, *words: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restart_slurmctld(self) -> None:
        folder = Path(self.env["SLURM_CONF"]).parent
        self.ask(str(TESTBED), "restart", str(folder))

    def ids(self) -> dict[int, str]:
        """Jobs in the queue: `17_3` by index."""
        rows = self.ask("squeue", "-h", "--array", "--format=%i").split()
        return {int(row.partition("_")[2]): row for row in rows}


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm_conf() -> Iterator[Path]:
    if why := missing():
        if os.environ.get("RLRUN_SLURM") == "required":
            pytest.fail(f"RLRUN_SLURM=required, but there is no Slurm: {why}")
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="rlrun-slurm-", dir="/var/tmp"))
    try:
        subprocess.run([TESTBED, "start", folder], check=True, timeout=120, capture_output=True)
        yield folder / "slurm.conf"
    finally:
        subprocess.run([TESTBED, "stop", folder], check=True, timeout=120)
        shutil.rmtree(folder)


@pytest.fixture
def user(slurm_conf: Path, tmp_path: Path) -> Iterator[User]:
    someone = User(tmp_path, slurm_conf)
    yield someone
    for driver in someone.drivers:
        driver.kill()
        driver.communicate()
    someone.ask("scancel", "--user=root", "--quiet")
    someone.ask("scancel", "--user=root", "--quiet", "--signal=KILL", "--full")
