"""The folder of a sweep: its index, and how its jobs stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pretended import finish, job

from rlrun.run.lock import RunLock
from rlrun.schema import UserError
from rlrun.sweeps import folder
from rlrun.sweeps.folder import Job, State, Sweep
from rlrun.sweeps.process import is_alive, started


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Of one job, which has not begun."""
    monkeypatch.chdir(tmp_path)
    made = Sweep(Path("outputs/sweeps/grid"))
    made.command = ["-m", "seed=0"]
    made.add([job(0, "seed=0")], [{"seed": 0}])
    return made


@pytest.fixture
def only(sweep: Sweep) -> Job:
    return sweep.jobs[0]


def test_a_job_waits_until_it_is_begun(sweep: Sweep, only: Job) -> None:
    assert sweep.state(only) == State("waiting")


def test_a_job_runs_while_its_run_is_held(sweep: Sweep, only: Job) -> None:
    run = sweep.run_folder(only)
    with RunLock(run):
        assert sweep.state(only).status == "running"
        rows = [{"step": 200}, {"step": 400, "time/steps_per_second": 80.0}]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run / "metrics.jsonl").write_text(text + '{"step": 6')
        assert sweep.state(only) == State("running", step=400, speed=80.0)
    assert sweep.state(only).status == "waiting"


def test_a_job_runs_while_its_process_loads(sweep: Sweep, only: Job) -> None:
    sweep.report(only, "running")
    assert sweep.state(only).status == "running"


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("there", ["here", "elsewhere"])
def test_a_job_is_lost_when_its_process_is_gone(sweep: Sweep, only: Job, there: str) -> None:
    sweep.report(only, "running")
    path = sweep.job_folder(only) / folder.STATUS
    record = json.loads(path.read_text())
    if there == "here":
        record["pid"] = ended_process()
    else:
        record |= {"host": "another", "time": record["time"] - 30}
        path.write_text(json.dumps(record))
        assert sweep.state(only).status == "running"  # it may be loading
        record["time"] -= 60
    path.write_text(json.dumps(record))
    state = sweep.state(only)
    assert (state.status, state.reason) == ("lost", "its process is gone without a word")


@pytest.mark.parametrize("status", ["failed", "stopped", "pruned"])
def test_a_job_is_as_it_was_left(sweep: Sweep, only: Job, status: folder.Status) -> None:
    sweep.report(only, "running")
    sweep.report(only, status, "for a reason")
    finish(sweep.run_folder(only), step=300, status="stopped")
    state = sweep.state(only)
    assert (state.status, state.reason, state.step) == (status, "for a reason", 300)
    assert state.seconds is not None
    assert 0.0 <= state.seconds < 60.0


def test_the_result_of_the_run_is_above_what_its_job_said(sweep: Sweep, only: Job) -> None:
    sweep.report(only, "failed", "by a process before")
    finish(sweep.run_folder(only))
    assert sweep.state(only).status == "finished"


def test_a_job_whose_result_is_gone_waits(sweep: Sweep, only: Job) -> None:
    sweep.report(only, "running")
    sweep.report(only, "finished")
    assert sweep.state(only).status == "waiting"


def test_a_run_of_fewer_steps_is_not_finished(sweep: Sweep, only: Job) -> None:
    finish(sweep.run_folder(only), total_timesteps=999)
    assert sweep.state(only).status == "waiting"
    finish(sweep.run_folder(only), total_timesteps=2000)
    assert sweep.state(only).status == "finished"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"step": null}', '{"status": 3, "step": "x", "pid": "y"}']
)
def test_damaged_files_of_a_job_are_as_good_as_none(sweep: Sweep, only: Job, text: str) -> None:
    run = sweep.run_folder(only)
    run.mkdir(parents=True)
    for path in (sweep.job_folder(only) / folder.STATUS, run / "result.json"):
        path.write_text(text)
    (run / "metrics.jsonl").write_text(text)
    assert sweep.state(only) == State("waiting")


def test_a_damaged_record_of_a_running_job(sweep: Sweep, only: Job) -> None:
    (sweep.job_folder(only) / folder.STATUS).write_text('{"status": "running", "pid": -1}')
    assert sweep.state(only).status == "lost"


def test_any_shell_reads_the_same_index(
    sweep: Sweep, only: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path.cwd()
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    finish(sweep.run_folder(only))
    monkeypatch.chdir(elsewhere)
    found = folder.find("../outputs/sweeps/grid")
    assert (found.jobs, found.home, found.command) == (sweep.jobs, home, ["-m", "seed=0"])
    assert found.state(found.jobs[0]).status == "finished"


def test_a_sweep_is_extended_by_another_command(sweep: Sweep) -> None:
    other = Sweep(sweep.folder)
    other.command = ["-m", "seed=0,1"]
    added = other.add([job(0, "seed=1", seed=1), job(1, "seed=0")], [{"seed": 1}, {"seed": 0}])
    assert [one.number for one in added] == [1, 0]
    found = Sweep(sweep.folder)
    assert [(one.number, one.seed) for one in found.jobs] == [(0, 0), (1, 1)]
    assert found.commands == [["-m", "seed=0"], ["-m", "seed=0,1"]]
    assert (found.job_folder(added[0]) / folder.CONFIG).read_text() == "seed: 1\n"


def test_a_command_is_kept_once_in_its_last_form(sweep: Sweep) -> None:
    sweep.command = ["-m", "hydra/launcher=other", "seed=0", "run.overwrite=true"]
    sweep.save()
    assert Sweep(sweep.folder).commands == [sweep.command]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"commands": [], "home": ".", "host": "h", "launcher": {}, "jobs": []}',
        '{"commands": [[]], "home": ".", "host": "h", "launcher": {}, "jobs": [{"number": 0}]}',
        '{"commands": [[]], "home": 3, "host": "h", "launcher": {}, "jobs": []}',
    ],
)
def test_a_damaged_index_is_told(sweep: Sweep, text: str) -> None:
    (sweep.folder / folder.INDEX).write_text(text)
    with pytest.raises(UserError, match=r"sweep\.json is damaged .*Move outputs/sweeps/grid away"):
        Sweep(sweep.folder)


def test_jobs_out_of_order_are_damage(sweep: Sweep) -> None:
    path = sweep.folder / folder.INDEX
    path.write_text(path.read_text().replace('"number": 0', '"number": 1'))
    with pytest.raises(UserError, match="not numbered"):
        Sweep(sweep.folder)


def test_the_same_words_in_another_order_are_the_same_sweep() -> None:
    name = folder.name_of(["seed=0,1", "algo=acer"])
    assert folder.name_of(["algo=acer", "seed=0,1"]) == name
    same = ["algo=acer", "run.overwrite=true", "seed=0,1", "sweep.estimate=true"]
    assert folder.name_of([*same, "hydra/launcher=basic", "hydra.verbose=true"]) == name
    assert folder.name_of(["algo=acer", "seed=1,0"]) != name


def test_an_unknown_sweep(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"gird: no such sweep; did you mean grid\?"):
        folder.find("gird")
    with pytest.raises(UserError, match="zzz: no such sweep; there are: grid"):
        folder.find("zzz")
    monkeypatch.chdir(sweep.folder)
    with pytest.raises(UserError, match="there are none in outputs/sweeps"):
        folder.find("zzz")


def test_a_lock_is_not_held_by_whoever_asks(tmp_path: Path) -> None:
    assert not folder.is_held(tmp_path)
    with RunLock(tmp_path):
        assert folder.is_held(tmp_path)
    assert not folder.is_held(tmp_path)


def test_processes_that_live() -> None:
    me = os.getpid()
    assert is_alive(me, started(me))
    assert not is_alive(me, "another that had its number")
    dead = ended_process()
    assert not is_alive(dead, started(dead))
    assert not any(is_alive(pid, None) for pid in (0, -1, 2**70, "1", None))
