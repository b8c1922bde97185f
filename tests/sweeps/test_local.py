"""Sweeps in processes of this machine: what ends a job or the driver, and what jobs share."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kill_soak import compare
from omegaconf import open_dict

from rlrun import config as configs
from rlrun.run.lock import RunLock
from rlrun.schema import UserError
from rlrun.sweeps import work
from rlrun.sweeps.folder import Sweep, is_held
from rlrun.sweeps.grid import Grid
from rlrun.sweeps.local import shares

ROOT = Path(__file__).parents[2]
SCRIPT = """import sys
from rlrun.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
PLANTED = """
import os
import signal
import sys
from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Planted(CartPoleEnv):
    def __init__(self, act=None):
        super().__init__()
        self.act, self.steps = act, 0

    def step(self, action):
        self.steps += 1
        if self.steps == 150:
            if self.act == "raise":
                raise RuntimeError("planted")
            if self.act == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.act == "leave":
                sys.exit(0)
            if self.act == "cores":
                Path(f"cores-{os.getpid()}").write_text(str(sorted(os.sched_getaffinity(0))))
        return super().step(action)


gymnasium.register("Planted-v0", Planted)
"""
SHORT = ["total_timesteps=320", "env.n_envs=1", "eval.episodes=0", "logger=files"]
LONG = ["total_timesteps=100000000", "eval.episodes=0", "logger=files", "log_interval=1"]


def only_sweep(folder: Path) -> Sweep:
    (index,) = folder.glob("outputs/sweeps/*/sweep.json")
    sweep = Sweep(index.parent)
    assert sweep.jobs
    return sweep


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def begin(folder: Path, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    """A driver in a session of its own, in a folder with a module that is named like Python's."""
    script = folder / "bin" / "rlrun"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPT)
    (folder / "random.py").write_text("raise RuntimeError('this is not Python's')")
    given = {"stdout": subprocess.PIPE, "start_new_session": True, "env": ENVIRONMENT, **options}
    return subprocess.Popen([sys.executable, str(script), "-m", *words], cwd=folder, **given)


def going(folder: Path, count: int) -> list[Path]:
    """The runs that have logged something, once there are so many."""

    def found() -> list[Path]:
        logs = folder.glob("outputs/CartPole-v1/*/seed-*/metrics.jsonl")
        return [log.parent for log in logs if log.stat().st_size]

    until(lambda: len(found()) == count)
    return found()


def test_jobs_that_fail_or_die_leave_the_others_alone(command: Any, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    words = ["env=planted:Planted-v0", "hydra.launcher.n_jobs=2", *SHORT]
    result = command("-m", "env.kwargs.act=raise,kill,leave,null", "seed=0,1", *words)
    assert result.code == 1
    sweep = only_sweep(tmp_path)
    told = {tuple(job.words[:2]): sweep.state(job) for job in sweep.jobs}
    for act, status, reason in [
        ("raise", "failed", "RuntimeError: planted"),
        ("kill", "failed", "killed by SIGKILL"),
        ("leave", "failed", "ended without a word, exit code 0"),
        ("null", "finished", ""),
    ]:
        for seed in (0, 1):
            state = told[f"env.kwargs.act={act}", f"seed={seed}"]
            assert (state.status, state.reason) == (status, reason)
        assert result.out.count(reason) >= 4  # as it ended, and in the table
    assert "Traceback" in (sweep.job_folder(sweep.jobs[0]) / "output.log").read_text()
    assert "2 of 8 jobs finished, 6 failed" in result.out


def test_a_value_more_runs_the_new_jobs_only(command: Any, tmp_path: Path) -> None:
    assert command("-m", "seed=0,1", *SHORT).code == 0
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(results) == 2
    result = command("-m", "seed=0,1,2", *SHORT)
    assert result.code == 0
    assert "3 jobs, 2 finished before, 1 to run" in result.out
    assert "3 of 3 jobs finished (2 before)" in result.out
    assert all(path.stat().st_mtime_ns == then for path, then in results.items())
    assert len(list(tmp_path.rglob("result.json"))) == 3


def test_each_job_at_a_time_has_its_own_equal_share_of_the_cores() -> None:
    assert shares([0, 1, 2, 3], 2) == [[0, 1], [2, 3]]
    assert shares([4, 5, 6, 7, 9], 2) == [[4, 5], [6, 7]]
    assert shares([3, 8], 1) == [[3, 8]]
    assert shares([3, 8], 5) == [[3], [8], [3], [8], [3]]
    assert shares([], 2) == [[], []]


def test_jobs_keep_to_their_cores(command: Any, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    words = ["env=planted:Planted-v0", "env.kwargs.act=cores", "hydra.launcher.n_jobs=2", *SHORT]
    before = os.sched_getaffinity(0)
    assert command("-m", "seed=0,1", *words).code == 0
    seen = sorted(path.read_text() for path in tmp_path.glob("cores-*"))
    assert seen == [str(cores) for cores in shares(sorted(before), 2)]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("n_jobs", ["0", "two", "1.5", "true"])
def test_a_wrong_number_of_jobs_is_refused(command: Any, n_jobs: str, tmp_path: Path) -> None:
    result = command("-m", f"hydra.launcher.n_jobs={n_jobs}", "seed=1,2")
    assert result.code == 2
    assert "hydra.launcher.n_jobs" in result.err
    assert "whole number" in result.err
    assert not list(tmp_path.iterdir())


SERVER = """
import os, sys
import rlrun.sweeps.server
import torch
if os.fork() == 0:
    status = open("/proc/self/status").read().split()
    print(status[status.index("Threads:") + 1], torch.cuda.is_initialized(), flush=True)
    before = set(sys.modules)
    from rlrun import cli
    for algo in ("acer", "acktr"):
        sys.argv = ["rlrun", f"algo={algo}", "total_timesteps=320", "eval.episodes=1"]
        assert cli.main() == 0
    print("new:", *(set(sys.modules) - before), flush=True)
    os._exit(0)
os.wait()
"""


def test_what_jobs_are_forked_from_is_ready_and_at_rest(tmp_path: Path) -> None:
    """One thread, no GPU, and hardly anything left to import but what Hydra composes with."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "1 False"
    new = next(line for line in lines if line.startswith("new:")).split()[1:]
    ours = ("hydra", "rlrun", "antlr4", "omegaconf", "importlib")
    assert not [name for name in new if name.partition(".")[0] not in ours]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_what_runs_and_begins_nothing_more(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C reaches the driver's group; a cluster may send SIGTERM to each and every process."""
    driver = begin(tmp_path, "seed=range(3)", "hydra.launcher.n_jobs=2", *LONG)
    runs = going(tmp_path, 2)
    jobs = [int((run / "run.lock").read_text()) for run in runs]
    assert [os.getsid(job) for job in jobs] == jobs
    if number == signal.SIGTERM:
        server = int(Path(f"/proc/{jobs[0]}/stat").read_text().rpartition(")")[2].split()[1])
        for process in (*jobs, server):
            os.kill(process, number)
    os.killpg(driver.pid, number)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == code
    sweep = only_sweep(tmp_path)
    states = [sweep.state(job) for job in sweep.jobs]
    assert sorted(state.status for state in states) == ["stopped", "stopped", "waiting"]
    assert b"2 stopped, 1 waiting" in out
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert result["status"] == "stopped"
        assert (run / f"checkpoints/step-{result['step']:09d}").is_dir()


def test_after_a_killed_driver_the_same_command_ends_as_if_undisturbed(
    command: Any, tmp_path: Path
) -> None:
    words = ["seed=4", "total_timesteps=6000", *LONG[1:]]
    first = begin(tmp_path / "killed", *words)
    (run,) = going(tmp_path / "killed", 1)
    first.kill()
    first.communicate()
    again = begin(tmp_path / "killed", *words)  # while the job of the first is still saving itself
    (tmp_path / "straight").mkdir()
    os.chdir(tmp_path / "straight")
    assert command("-m", *words).code == 0
    assert b"1 of 1 job finished" in again.communicate(timeout=60)[0]
    assert again.returncode == 0
    assert compare(tmp_path / "straight" / run.relative_to(tmp_path / "killed"), run) == []
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["grade"] == "exact"
    assert [part["step"] > 0 for part in manifest["parts"]] == [False, True]


def test_a_run_that_is_still_being_saved_is_waited_for(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    work.wait_for(tmp_path, 0.0)
    assert is_held(tmp_path)
    timer = threading.Timer(0.3, lock.release)
    timer.start()
    work.wait_for(tmp_path, 60.0)
    assert not is_held(tmp_path)
    timer.join()


def test_one_job_at_a_time_shows_its_screen_on_a_terminal(tmp_path: Path) -> None:
    """And prints to its file anywhere else, which the tests above have read."""
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm", "CI": ""}
    driver = begin(tmp_path, "seed=7", *SHORT, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 1 << 16)
        except OSError:  # nobody has the terminal any more
            break
    os.close(ours)
    assert driver.wait() == 0
    assert b"ACER on CartPole-v1" in seen
    assert b"\x1b[" in seen
    assert not (
        only_sweep(tmp_path).job_folder(only_sweep(tmp_path).jobs[0]) / "output.log"
    ).exists()


COMPOSED = [
    [],
    ["seed=3", "algo.gamma=0.9"],
    ["algo=acktr", "algo.kfac_update=2"],
    ["algo.gamma=0.9", "algo=a2c", "env=Acrobot-v1"],
    ["env=ALE/Pong-v5", "env.n_envs=2"],
    ["experiment=none", "policy=lstm"],
    ["+env.kwargs.max_episode_steps=25", "run.dir=${env.id}-${seed}"],
    ["env.kwargs={a: [1, 2]}", "policy.shared=[8,8]", "+env.kwargs.b={c: 1}"],
    ["~env.kwargs", "logger=files", "checkpoint.every_minutes=null"],
    ["lr_schedule=double_linear_con", "hydra.job.name=other"],
    ["env.kwargs.seed=${seed}", "seed=5"],
]
REFUSED = [["algo.gama=1"], ["algo=acr"], ["+seed=1"], ["~algo.nothing"], ["policy=3"], ["a@b=c"]]


def test_jobs_are_composed_as_hydra_alone_would(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare_all(planner: Any, arguments: list[str]) -> None:
        def alone(words: list[str]) -> dict[str, Any]:
            whole = planner.loader.load_sweep_config(planner.master, words)
            with open_dict(whole):
                del whole["hydra"]
            return configs.plain(whole)

        for words in COMPOSED * 2:
            assert planner._composed(words) == alone(words)
        for words in REFUSED:
            with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever it is
                alone(words)
            with pytest.raises(type(expected.value)) as found:
                planner._composed(words)
            assert str(found.value) == str(expected.value)
            with pytest.raises(UserError):
                planner.compose(words)
        compared.append(len(planner._bases))

    monkeypatch.setattr(Grid, "sweep", compare_all)
    assert command("-m", "seed=1,2").code == 0
    assert len(compared) == 1
    assert compared[0] < len(COMPOSED)
