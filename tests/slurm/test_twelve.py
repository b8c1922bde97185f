"""The whole promise at once: twelve jobs, of which each kind of mishap meets one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.conftest import User, wait_until
from tests.slurm.test_slurm import ON_SLURM, progress, same_as_here, sweep_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

WORDS = (
    *("env=task:Task-v0", "algo.replay_ratio=4,1", "seed=range(6)", "total_timesteps=6000"),
    *("eval.episodes=5", "logger=files", "sweep.name=one"),
)
KILLED, REQUEUED, TIMED_OUT, PLANTED = 0, 1, 2, 7


def test_twelve_jobs(user: User, tmp_path: Path) -> None:
    (user.folder / "fault").write_text(str(PLANTED))
    pace = " ".join(map(str, range(12)))  # half a minute for each
    (user.folder / "slow").write_text(f"{pace} {TIMED_OUT} {TIMED_OUT}")
    driver = user.start(*ON_SLURM, *WORDS, "hydra.launcher.signal_seconds=20")
    wait_until(lambda: all(progress(user, n) for n in (KILLED, REQUEUED, TIMED_OUT)))
    ids = user.ids()
    user.ask("scontrol", "update", f"jobid={ids[TIMED_OUT]}", "timelimit=1")
    user.ask("scancel", "--signal=KILL", "--batch", ids[KILLED])
    user.restart_slurmctld()
    user.ask("scontrol", "requeue", ids[REQUEUED])
    log = sweep_of(user).folder / "jobs" / f"{TIMED_OUT:04d}" / "output.log"
    wait_until(lambda: "Stopped at step" in log.read_text(), 120)
    (user.folder / "slow").write_text(pace)
    print(user.ask("squeue", "--array"))
    out, _ = driver.communicate(timeout=900)
    print(out)
    assert driver.returncode == 1, out
    sweep = sweep_of(user)
    states = {number: state.status for number, state in sweep.states().items()}
    assert states == {n: "failed" if n == PLANTED else "finished" for n in range(12)}, out
    assert "a planted error" in out

    logs = {job.number: sweep.job_folder(job) / "output.log" for job in sweep.jobs}
    starts = {n: path.read_text().count("ACER on") for n, path in logs.items()}
    print("starts:", starts)
    assert min(starts[n] for n in (KILLED, REQUEUED, TIMED_OUT)) >= 2

    (user.folder / "fault").unlink()
    code, out = user.rlrun(*ON_SLURM, *WORDS)
    print(out)
    assert code == 0, out
    assert "12 jobs, 11 finished before, 1 to run" in out
    assert "submitted to Slurm" in out
    same_as_here(user, tmp_path / "here", WORDS, sweep.jobs)
