"""Sweeps on a real Slurm: whatever happens to their jobs, they end as they do elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from kill_soak import compare

from rlrun import stored
from rlrun.sweeps import slurm
from rlrun.sweeps.folder import Job, Sweep
from tests.slurm.conftest import User, wait_until

pytestmark = pytest.mark.slurm

ON_SLURM = ("-m", "hydra/launcher=slurm")
SHORT = (
    *("env=task:Task-v0", "eval.episodes=2", "logger=files", "sweep.name=one"),
    *("log_interval=1", "env.n_envs=2"),
)


def sweep_of(user: User) -> Sweep:
    return Sweep(user.folder / "outputs" / "sweeps" / "one")


def progress(user: User, number: int) -> int:
    """Bytes of metrics of a job, 0 before it has any."""
    sweep = sweep_of(user)
    if number >= len(sweep.jobs):
        return 0
    path = sweep.run_folder(sweep.jobs[number]) / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def same_as_here(user: User, where: Path, words: tuple[str, ...], jobs: list[Job]) -> None:
    """The same sweep without Slurm has the same metrics, episodes, weights and states."""
    where.mkdir()
    code, out = User(where, Path(user.env["SLURM_CONF"])).rlrun("-m", *words)
    assert code == 0, out
    assert jobs
    for job in jobs:
        assert compare(where / job.run, user.folder / job.run) == [], job


def was_begun_again(user: User, number: int) -> bool:
    starts = stored.read_json(sweep_of(user).folder / "jobs" / f"{number:04d}" / "starts.json")
    return bool(starts) and starts != {"step": 0, "starts": 1}


def test_jobs_survive_what_happens_to_them(user: User, tmp_path: Path) -> None:
    words = (*SHORT, "total_timesteps=4000", "seed=range(4)")
    (user.folder / "fault").write_text("3")
    (user.folder / "slow").write_text("0 1 2")
    driver = user.start(*ON_SLURM, *words)
    wait_until(lambda: all(progress(user, number) for number in range(3)))
    ids = user.ids()
    user.ask("scancel", "--signal=USR2", "--batch", ids[0])
    user.ask("scontrol", "requeue", ids[1])
    user.ask("scancel", "--signal=KILL", "--batch", ids[2])
    user.restart_slurmctld()
    wait_until(lambda: all(was_begun_again(user, number) for number in range(3)))
    (user.folder / "slow").unlink()
    out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 1, out
    sweep = sweep_of(user)
    states = sweep.states()
    assert [states[number].status for number in range(4)] == [*["finished"] * 3, "failed"], out
    assert "a planted error" in states[3].reason
    assert "[1/4] failed    seed=3   RuntimeError: a planted error" in out
    assert "was killed (Slurm: FAILED) and is submitted again" in out
    logs = [(sweep.job_folder(job) / "output.log").read_text() for job in sweep.jobs]
    assert [text.count("Going on at step") for text in logs[:3]] == [1, 1, 0]
    assert "Stopped at step" in logs[0]
    assert "Saving at step" in logs[1]

    (user.folder / "fault").unlink()
    code, out = user.rlrun(*ON_SLURM, *words)
    assert code == 0, out
    assert "4 jobs, 3 finished before, 1 to run" in out
    disturbed = (*words[:-1], "seed=range(3)")
    same_as_here(user, tmp_path / "here", disturbed, sweep.jobs[:3])


def test_submit_leave_come_back_cancel_and_go_on(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*ON_SLURM, *SHORT, "total_timesteps=4000", "seed=range(2)")
    (user.folder / "slow").write_text("0 1")
    code, out = user.rlrun(*words, "hydra.launcher.wait=false", "hydra.launcher.parallel=1")
    assert code == 0, out
    assert "rlrun sweep status one" in out
    wait_until(lambda: progress(user, 0))
    sweep = sweep_of(user)
    assert [sweep.states()[number].status for number in range(2)] == ["running", "waiting"]

    driver = user.start(*words)
    assert driver.stdout is not None
    head = [driver.stdout.readline() for _ in range(2)]
    assert "2 jobs are in the queue of Slurm already" in head[1], head
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "2 jobs go on in Slurm" in out
    assert "rlrun sweep cancel one" in out
    assert len(user.ids()) == 2

    monkeypatch.setenv("SLURM_CONF", user.env["SLURM_CONF"])
    assert slurm.cancel(sweep) == 2
    wait_until(lambda: sweep.states()[0].status != "running")
    assert {state.status for state in sweep.states().values()} == {"stopped"}
    (user.folder / "slow").unlink()
    code, out = user.rlrun(*words)
    assert code == 0, out
    assert "2 of 2 jobs finished" in out
    assert "Going on at step" in (sweep.job_folder(sweep.jobs[0]) / "output.log").read_text()


def test_what_slurm_refuses_is_told(user: User) -> None:
    code, out = user.rlrun(*ON_SLURM, *SHORT, "hydra.launcher.partition=moon")
    assert code == 2
    assert "Slurm does not take the jobs: " in out
    assert "artition" in out


def test_a_failing_setup_is_told(user: User) -> None:
    code, out = user.rlrun(*ON_SLURM, *SHORT, "hydra.launcher.setup=['exit 7']")
    assert code == 1
    assert "ended with exit code 7; see its output.log" in out


def test_cancel_of_nothing(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", user.env["SLURM_CONF"])
    assert slurm.cancel(sweep_of(user)) == 0
