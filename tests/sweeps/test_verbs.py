"""`rlrun sweep VERB SWEEP` from any shell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pretended
import pytest

from rlrun.run.lock import RunLock
from rlrun.sweeps import status
from rlrun.sweeps.folder import Sweep
from tests.conftest import Outcome

Command = Callable[..., Outcome]
BASIC = "hydra/launcher=basic"
CODE = "import sys; from rlrun.cli import main; sys.exit(main())"


@pytest.fixture
def command(command: Command) -> Command:
    """Sweeps run one job after the other in this process, where trainings can be pretended."""

    def run(*words: str) -> Outcome:
        is_sweep = {"-m", "--multirun"} & set(words)
        return command(*words, *([BASIC] if is_sweep else []))

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[str]]]:
    return pretended.trainings(monkeypatch)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "rlrun sweep: one of status, retry, cancel, report"),
        (["statsu"], "rlrun sweep statsu: did you mean `rlrun sweep status`?"),
        (["status"], "there are no sweeps in outputs/sweeps; say which"),
        (["status", "grid"], "grid: no such sweep; there are none in outputs/sweeps"),
        (["status", "a", "b"], "rlrun sweep status takes one sweep, not a b"),
    ],
)
def test_what_is_wrong_is_said(command: Command, words: list[str], told: str) -> None:
    done = command("sweep", *words)
    assert done.code == 2
    assert told in done.err


def test_the_only_sweep_need_not_be_named(command: Command, trained: list[Any]) -> None:
    command("-m", "seed=0", "sweep.name=one")
    assert "1 of 1 job finished" in command("sweep", "status").out
    command("-m", "seed=1", "sweep.name=two")
    refused = command("sweep", "status")
    assert refused.code == 2
    assert "say which sweep: rlrun sweep status one | two" in refused.err
    assert "did you mean two?" in command("sweep", "status", "tow").err
    assert command("sweep", "status", "outputs/sweeps/two").code == 0


def test_a_slip_of_the_verb_itself(command: Command) -> None:
    assert "did you mean `rlrun sweep ...`?" in command("sweeep").err


def test_retry_types_the_commands_again(
    command: Command, trained: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("-m", "env.kwargs.code=0,3", "sweep.name=grid", "run.overwrite=true")
    command("-m", "seed=1", "env.kwargs.code=4", "sweep.name=grid")
    assert len(trained) == 3
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = command("sweep", "retry", str(tmp_path / "outputs/sweeps/grid"))
    assert again.code == 1
    assert f"in {tmp_path}: rlrun -m env.kwargs.code=0,3 sweep.name=grid {BASIC}\n" in again.out
    assert (
        f"in {tmp_path}: rlrun -m seed=1 env.kwargs.code=4 sweep.name=grid {BASIC}\n" in again.out
    )
    ran = [(node["env"]["kwargs"]["code"], node["seed"]) for node, _ in trained[3:]]
    assert ran == [(3, 0), (4, 1)]  # only what had failed, whatever the first command overwrote
    assert len(Sweep(tmp_path / "outputs/sweeps/grid").jobs) == 3


def test_retry_of_a_sweep_whose_folder_is_gone(command: Command, trained: list[Any]) -> None:
    command("-m", "seed=0", "sweep.name=grid")
    index = Path("outputs/sweeps/grid/sweep.json")
    index.write_text(index.read_text().replace(f'"{Path.cwd()}"', '"/none/such"'))
    refused = command("sweep", "retry", "grid")
    assert refused.code == 2
    assert "begun in /none/such, which is not there any more" in refused.err


def test_report(command: Command, trained: list[Any]) -> None:
    command("-m", "algo.replay_ratio=0,4", "seed=0,1", "sweep.name=grid")
    done = command("sweep", "report", "grid")
    assert done.code == 0
    assert "written: outputs/sweeps/grid/report.md" in done.out
    text = Path("outputs/sweeps/grid/report.md").read_text()
    assert "| algo.replay_ratio=4 | 2/2 | 400.5 |" in text


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep of two long jobs, in a process of its own, whose first job trains."""
    words = ["-m", "seed=0,1", "total_timesteps=1e7", "logger=files", "sweep.name=long"]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *words, "log_interval=1", BASIC],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            rows = "outputs/*/*/seed-0/metrics.jsonl"
            wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob(rows)))
            yield process
        finally:
            process.kill()


def test_status_and_cancel_of_a_sweep_that_runs(
    command: Command, driver: subprocess.Popen[str]
) -> None:
    told = command("sweep", "status").out
    assert "0 of 2 jobs finished, 1 running, 1 waiting" in told
    assert f"carried by process {driver.pid} on" in told
    done = command("sweep", "cancel", "long")
    assert done.code == 0
    assert f"process {driver.pid} lets its jobs save themselves" in done.out
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 128 + signal.SIGTERM
    assert "0 of 2 jobs finished, 1 waiting, 1 stopped" in said.replace(
        "1 stopped, 1 waiting", "1 waiting, 1 stopped"
    )
    (run,) = Path("outputs").glob("*/*/seed-0")
    assert list((run / "checkpoints").glob("step-*"))
    assert "nobody carries it" in command("sweep", "cancel", "long").out


def test_a_killed_driver_leaves_a_lost_job(command: Command, driver: subprocess.Popen[str]) -> None:
    driver.kill()
    driver.wait()
    told = command("sweep", "status", "long").out
    assert "1 waiting, 1 lost" in told or "1 lost, 1 waiting" in told
    assert "its process is gone without a word" in told


def test_cancel_ends_jobs_that_have_outlived_their_driver(
    command: Command, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("-m", "seed=0", "env.kwargs.code=3", "sweep.name=grid")
    sweep = Sweep(Path("outputs/sweeps/grid"))
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    sweep.report(sweep.jobs[0], "running")
    with RunLock(sweep.run_folder(sweep.jobs[0])):
        told = command("sweep", "cancel", "grid")
    assert f"process {os.getpid()} saves job 0, and ends" in told.out
    assert (os.getpid(), signal.SIGTERM) in killed


def test_cancel_elsewhere_is_refused(
    command: Command, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("-m", "seed=0", "sweep.name=grid")
    monkeypatch.setattr(status, "is_here", lambda host: False)
    with RunLock(Path("outputs/sweeps/grid")):
        refused = command("sweep", "cancel", "grid")
    assert refused.code == 2
    assert "cancel it there" in refused.err


def test_completion(command: Command, trained: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    command("-m", "seed=0", "sweep.name=grid")
    for line, offered in {
        "rlrun sweep ": "status retry cancel report",
        "rlrun sweep re": "retry report",
        "rlrun sweep status ": "grid",
        "rlrun sweep status x": "",
        "rlrun sweep status grid ": "",
    }.items():
        monkeypatch.setenv("COMP_LINE", line)
        assert command("-sc", "query=bash").out.strip() == offered, line


def test_status_comes_at_once(command: Command, trained: list[Any]) -> None:
    command("-m", "seed=0,1", "sweep.name=grid")
    script = f"""
import sys
sys.argv = ["rlrun", "sweep", "status", "grid"]
try:
    {CODE}
except SystemExit:
    heavy = {{"torch", "hydra", "omegaconf", "gymnasium", "numpy", "rich", "wandb", "matplotlib"}}
    print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "2 of 2 jobs finished" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
