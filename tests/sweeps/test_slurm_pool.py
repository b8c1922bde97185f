"""What a driver makes of what Slurm says, and a job of its own starts; no Slurm is needed."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from rlrun import stored
from rlrun.schema import UserError
from rlrun.sweeps import slurm, slurm_job, slurm_queue
from rlrun.sweeps.folder import STATUS, Job, Sweep
from rlrun.sweeps.slurm import TRIES, SlurmPool
from rlrun.sweeps.slurm_queue import Outcome, Queued, SlurmError
from rlrun.sweeps.slurm_script import Settings

CONFIG = {"run": {"trust": []}, "env": {"id": "CartPole-v1"}}


class FakeSlurm:
    """A queue, and how the jobs that left it ended."""

    def __init__(self) -> None:
        self.queue: dict[int, Queued] = {}
        self.ends: dict[str, Outcome] = {}
        self.scripts: list[str] = []
        self.cancelled: list[str] = []
        self.away = self.busy = False

    def queued(self, sweep: Sweep) -> dict[int, Queued]:
        if self.away:
            raise SlurmError("no controller")
        return dict(self.queue)

    def submit(self, text: str) -> str:
        if self.away or self.busy:
            raise SlurmError("no controller")
        self.scripts.append(text)
        array = str(10 * len(self.scripts))
        (words,) = (line for line in text.splitlines() if line.startswith("#SBATCH --array="))
        for part in words.partition("=")[2].split(","):
            first, _, last = part.partition("-")
            for index in range(int(first), int(last or first) + 1):
                self.queue[index] = Queued(f"{array}_{index}", "PENDING")
        return array

    def outcome(self, job: str) -> Outcome:
        return self.ends.get(job, Outcome(""))

    def cancel(self, jobs: list[str]) -> None:
        self.cancelled += jobs

    def end(self, number: int, state: str, code: int = 0) -> None:
        self.ends[self.queue.pop(number).id] = Outcome(state, code)


def killed(sweep: Sweep, number: int) -> None:
    """Leave of a job what its process left that was killed in the middle."""
    record = {"status": "running", "host": socket.gethostname(), "pid": 0}
    (sweep.job_folder(sweep.jobs[number]) / STATUS).write_text(json.dumps(record))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm()
    for name in ("queued", "submit", "outcome", "cancel"):
        monkeypatch.setattr(slurm_queue, name, getattr(fake, name))
    monkeypatch.setattr(slurm, "_OFTEN", 0.0)
    return fake


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path / "sweep")
    sweep.home = tmp_path
    jobs = [Job(n, [f"seed={n}"], f"run{n}", "g", n, 100) for n in range(3)]
    for job in jobs:
        (sweep.job_folder(job)).mkdir(parents=True)
        (sweep.job_folder(job) / "config.yaml").write_text(stored.dump(CONFIG))
    sweep.jobs = jobs
    sweep.save()
    return sweep


@pytest.fixture
def pool(fake: FakeSlurm, sweep: Sweep) -> SlurmPool:
    pool = SlurmPool(sweep, Settings())
    pool.submit(sweep.jobs)
    return pool


def finish(sweep: Sweep, number: int) -> None:
    folder = sweep.run_folder(sweep.jobs[number])
    folder.mkdir(exist_ok=True)
    result = {"status": "finished", "step": 100, "total_timesteps": 100}
    (folder / "result.json").write_text(json.dumps(result))


def saved(sweep: Sweep, number: int, step: int) -> None:
    folder = sweep.run_folder(sweep.jobs[number])
    (folder / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)


def test_what_has_finished_or_failed_has_ended(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep
) -> None:
    assert pool.poll(0) == []
    finish(sweep, 0)
    assert pool.poll(0) == []  # it is in the queue still
    fake.end(0, "COMPLETED")
    sweep.report(sweep.jobs[2], "failed", "a reason")
    fake.end(2, "FAILED", 1)
    assert pool.poll(0) == [sweep.jobs[0], sweep.jobs[2]]
    assert pool.poll(0) == []


def test_what_was_killed_is_submitted_again_so_often(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep
) -> None:
    for _ in range(TRIES):
        killed(sweep, 1)
        fake.end(1, "FAILED")
        assert pool.poll(0) == []
        assert 1 in fake.queue
    assert len(fake.scripts) == 1 + TRIES
    assert "#SBATCH --array=1\n" in fake.scripts[-1]
    killed(sweep, 1)
    fake.end(1, "NODE_FAIL")
    assert pool.poll(0) == [sweep.jobs[1]]
    state = sweep.state(sweep.jobs[1])
    assert (state.status, state.reason) == ("lost", f"killed {TRIES + 1} times (Slurm: NODE_FAIL)")


def test_time_limits_are_no_reason_to_give_up_while_it_comes_further(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep
) -> None:
    for step in range(1, 3 * TRIES):
        saved(sweep, 1, step)
        killed(sweep, 1)
        fake.end(1, "TIMEOUT")
        assert pool.poll(0) == []
    for _ in range(TRIES):
        fake.end(1, "TIMEOUT")
        assert pool.poll(0) == []
    fake.end(1, "TIMEOUT")
    assert pool.poll(0) == [sweep.jobs[1]]


@pytest.mark.parametrize(
    ("before", "end", "status", "reason"),
    [
        ("waiting", Outcome("FAILED", 127), "failed", "exit code 127; see its output.log"),
        ("running", Outcome("OUT_OF_MEMORY"), "failed", "raise hydra.launcher.memory"),
        ("waiting", Outcome("CANCELLED"), "stopped", "cancelled"),
    ],
)
def test_what_would_not_get_better_is_not_submitted_again(
    before: str, end: Outcome, status: str, reason: str, fake: FakeSlurm, sweep: Sweep
) -> None:
    pool = SlurmPool(sweep, Settings())
    pool.submit(sweep.jobs)
    if before == "running":
        killed(sweep, 0)
    fake.end(0, *end)
    assert pool.poll(0) == [sweep.jobs[0]]
    state = sweep.state(sweep.jobs[0])
    assert state.status == status
    assert state.reason.endswith(reason)
    assert len(fake.scripts) == 1


def test_slurm_may_be_away(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(sweep, 0)
    fake.end(0, "COMPLETED")
    fake.away = True
    assert [pool.poll(0), pool.poll(0)] == [[], []]
    assert capsys.readouterr().out.count("Slurm does not answer; the jobs go on") == 1
    with pytest.raises(UserError, match="does not take the jobs: no controller"):
        pool.submit(sweep.jobs)
    fake.away = False
    assert pool.poll(0) == [sweep.jobs[0]]


def test_what_could_not_be_submitted_again_at_once_is_so_later_and_only_once(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep
) -> None:
    killed(sweep, 1)
    fake.end(1, "NODE_FAIL")
    fake.busy = True
    assert [pool.poll(0), pool.poll(0)] == [[], []]
    fake.busy = False
    assert [pool.poll(0), pool.poll(0), pool.poll(0)] == [[], [], []]
    assert len(fake.scripts) == 2
    fake.end(1, "NODE_FAIL")
    assert pool.poll(0) == []
    assert len(fake.scripts) == 3


def test_jobs_in_the_queue_are_not_submitted_a_second_time(fake: FakeSlurm, sweep: Sweep) -> None:
    SlurmPool(sweep, Settings()).submit(sweep.jobs[:2])
    SlurmPool(sweep, Settings()).submit(sweep.jobs)
    assert ["#SBATCH --array=0-1\n" in text for text in fake.scripts] == [True, False]
    assert "#SBATCH --array=2\n" in fake.scripts[1]


def test_cancelled_jobs_end_and_may_be_submitted_while_the_old_ones_still_save_themselves(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep
) -> None:
    del fake.queue[2]
    assert slurm.cancel(sweep) == 2
    assert fake.cancelled == ["10_0", "10_1"]
    assert sweep.state(sweep.jobs[0]).status == "stopped"
    SlurmPool(sweep, Settings()).submit(sweep.jobs[:1])
    assert "#SBATCH --array=0\n" in fake.scripts[-1]
    fake.end(1, "CANCELLED")
    assert sweep.jobs[1] in pool.poll(0)


def test_what_slurm_alone_knows_of_how_jobs_stand(
    pool: SlurmPool, fake: FakeSlurm, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in sweep.jobs[:2]:
        killed(sweep, job.number)
    fake.queue[1] = Queued("10_1", "RUNNING")
    del fake.queue[2]
    assert [state.status for state in sweep.states().values()] == ["lost", "lost", "waiting"]
    assert [state.status for state in slurm.states(sweep).values()] == [
        *("waiting", "running", "lost")
    ]
    pool.leave(sweep.jobs[:2])
    assert "2 jobs go on in Slurm. The same command looks" in capsys.readouterr().out
    assert sweep.state(sweep.jobs[0]).status == "waiting"
    fake.away = True
    assert slurm.states(sweep) == sweep.states()


def test_starts_without_progress_are_counted(sweep: Sweep) -> None:
    job = sweep.jobs[0]
    assert [slurm_job.count_start(sweep, job) for _ in range(3)] == [1, 2, 3]
    saved(sweep, 0, 40)
    assert slurm_job.saved_step(sweep.run_folder(job)) == 40
    assert [slurm_job.count_start(sweep, job) for _ in range(2)] == [1, 2]


def test_a_job_that_stands_still_fails(
    fake: FakeSlurm, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(slurm_job, "work", lambda *words: 140)
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm_job, "ask", lambda *words: asked.append(words) or "")
    words = [str(sweep.folder), "0", "rlrun"]
    for _ in range(slurm_job.IDLE_STARTS + 1):
        assert slurm_job.main(words) == 0
        assert asked.pop() == ("scontrol", "requeue", "10_1")
        assert sweep.state(sweep.jobs[1]).status == "waiting"
    assert slurm_job.main(words) == 1
    assert asked == []
    state = sweep.state(sweep.jobs[1])
    assert state.status == "failed"
    assert "begun 4 times without getting past step 0: give it more time" in state.reason
    SlurmPool(sweep, Settings()).submit([sweep.jobs[1]])  # after the mend
    assert slurm_job.main(words) == 0
