"""What a sweep tells: lines while it runs, the table at its end, its state at any time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pretended import finish, job

from rlrun.run.lock import RunLock
from rlrun.sweeps import groups, report, status, table
from rlrun.sweeps.folder import OUTPUT, Sweep


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Two groups of three seeds, of which nothing has begun."""
    monkeypatch.chdir(tmp_path)
    made = Sweep(Path("outputs/sweeps/grid"))
    made.command = ["-m", "algo.replay_ratio=0,4", "seed=range(3)", "log_interval=5"]
    jobs = [
        job(0, f"algo.replay_ratio={ratio}", f"seed={seed}", "log_interval=5", seed=seed, group=g)
        for ratio, g in ((0, "00000000"), (4, "44444444"))
        for seed in range(3)
    ]
    made.add(jobs, [{} for _ in jobs])
    return made


def done(sweep: Sweep, number: int, mean: float | None = None, **result: Any) -> None:
    more = {} if mean is None else {"eval": {"return_mean": mean}}
    finish(sweep.run_folder(sweep.jobs[number]), **more, **result)


def test_a_row_for_each_group_of_seeds(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    for number, mean in enumerate((10.0, 20.0, 60.0)):
        done(sweep, number, mean, steps_per_second=1000.0 * (number + 1))
    done(sweep, 3, 40.0)
    sweep.report(sweep.jobs[4], "failed", "RuntimeError: stuck\nin the second line")
    (sweep.job_folder(sweep.jobs[4]) / OUTPUT).write_text("printed")
    assert table.summary(sweep, {0, 1}) == 1
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert ["jobs", "seeds", "return", "IQM", "95", "%", "of", "the", "mean", "steps/s"] in lines
    # Mean 30, deviation 26.46, t(2) = 4.303; IQM (10/4 + 20 + 60/4) / 1.5 of three.
    assert ["algo.replay_ratio=0", "3/3", "30.0", "25.0", "-35.7", "to", "95.7", "2,000"] in lines
    assert ["algo.replay_ratio=4", "1/3", "40.0", "40.0", "-", "500"] in lines
    assert "last evaluation" in told
    assert "failed algo.replay_ratio=4 seed=1: RuntimeError: stuck\nin the second line" in told
    assert "\n  outputs/sweeps/grid/jobs/0004/output.log\n" in told
    assert "outputs/sweeps/grid: 4 of 6 jobs finished (2 before), 1 waiting, 1 failed" in (
        told.replace("1 failed, 1 waiting", "1 waiting, 1 failed")
    )
    assert "\x1b" not in told


def test_all_finished_is_zero(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        done(sweep, number)
    sweep.report(sweep.jobs[5], "pruned")
    assert table.summary(sweep) == 0
    assert "retry" not in capsys.readouterr().out


def test_without_evaluations_the_training_counts_for_all(sweep: Sweep) -> None:
    done(sweep, 0, 10.0)
    done(sweep, 1, eval=None, train_return_last100=3.0)
    done(sweep, 3, eval=None, train_return_last100=None)
    found = groups.measured(sweep, sweep.states())
    assert not found.from_evaluation
    first, second = found.rows
    assert first.returns is not None
    assert (first.returns.count, first.returns.mean) == (2, 26.5)  # of 50 and 3
    assert (second.finished, second.returns) == (1, None)
    assert "training" in table.meaning(found)


def test_results_that_are_no_numbers_are_passed_over(sweep: Sweep) -> None:
    done(sweep, 0, eval={"return_mean": "high"}, steps_per_second=None)
    done(sweep, 1, eval=[1], train_return_last100=True)
    found = groups.measured(sweep, sweep.states())
    assert found.rows[0].returns is not None
    assert found.rows[0].returns.count == 1


def test_labels_leave_out_what_all_jobs_share(sweep: Sweep) -> None:
    assert groups.labels(sweep.jobs)[4] == "algo.replay_ratio=4 seed=1"
    alone = [job(0, "seed=1", "log_interval=5", seed=1)]
    assert groups.labels(alone) == {0: "seed=1"}
    assert [group.label for group in groups.grouped(alone)] == ["acer on CartPole-v1"]
    assert groups.labels([]) == {}


def test_groups_of_like_words_are_told_by_their_digests() -> None:
    jobs = [job(0, "seed=0", group="00000000"), job(1, "seed=0", group="11111111")]
    assert [group.label for group in groups.grouped(jobs)] == [
        "acer on CartPole-v1 (00000000)",
        "acer on CartPole-v1 (11111111)",
    ]


def test_one_line_for_a_job_that_has_ended(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.report(sweep.jobs[0], "running")
    done(sweep, 0, 12.34)
    sweep.report(sweep.jobs[0], "finished")
    table.tell(sweep, sweep.jobs[0], 1, 12)
    sweep.report(sweep.jobs[3], "failed", "it broke\nin two lines")
    table.tell(sweep, sweep.jobs[3], 2, 12)
    assert capsys.readouterr().out.splitlines() == [
        "[ 1/12] finished  algo.replay_ratio=0 seed=0   return 12.3   in 0:00",
        "[ 2/12] failed    algo.replay_ratio=4 seed=0   it broke",
    ]


def test_the_state_of_a_sweep_that_is_carried(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    done(sweep, 0)
    running = sweep.run_folder(sweep.jobs[1])
    with RunLock(sweep.folder), RunLock(running):
        row = {"step": 400, "time/steps_per_second": 10.0}
        (running / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        status.tell(sweep)
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert ["0", "finished", "algo.replay_ratio=0", "seed=0", "100", "%", "1,000/1,000"] in lines
    row_told = ["1", "running", "algo.replay_ratio=0", "seed=1", "40", "%", "400/1,000", "1:00"]
    assert row_told in lines
    assert "1 of 6 jobs finished, 1 running, 4 waiting; 23 % of all steps" in told
    # One at a time, 10 steps a second: 600 of the one that runs, 4000 of those that wait.
    assert f"carried by process {os.getpid()} on {sweep.host}; about 7:40 left" in told


def test_the_state_of_a_sweep_that_nobody_carries(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    status.tell(sweep)
    assert "nobody carries it; `rlrun sweep retry grid`" in capsys.readouterr().out
    for number in range(6):
        done(sweep, number)
    status.tell(sweep)
    assert "done; `rlrun sweep report grid`" in capsys.readouterr().out


def evaluations(sweep: Sweep, number: int, points: list[tuple[int, float]]) -> None:
    run = sweep.run_folder(sweep.jobs[number])
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("seed: 0\n")
    rows = [{"step": s, "return_mean": r, "return_std": 0.0} for s, r in points]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_report_is_written_into_the_folder_of_the_sweep(sweep: Sweep) -> None:
    assert [path.name for path in report.write(sweep)] == ["report.md"]  # nothing to draw yet
    for number in range(6):
        evaluations(sweep, number, [(100, 1.0 * number), (200, 2.0 * number)])
        done(sweep, number, 10.0 * number)
    sweep.report(sweep.jobs[5], "failed", "once")
    written = report.write(sweep)
    assert [path.name for path in written] == ["report.md", "report.png"]
    text = written[0].read_text()
    assert "| algo.replay_ratio=0 | 3/3 | 10.0 | 10.0 | -14.8 to 34.8 | 500 |" in text
    assert "rlrun -m algo.replay_ratio=0,4 'seed=range(3)' log_interval=5" in text
    assert "![Learning curves](report.png)" in text
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_curves_are_of_episodes_unless_all_runs_are_evaluated_often(sweep: Sweep) -> None:
    evaluations(sweep, 0, [(100, 1.0), (200, 2.0)])
    evaluations(sweep, 1, [(200, 2.0)])
    for number in (0, 1):
        run = sweep.run_folder(sweep.jobs[number])
        rows = "step,env,return,length,time\n50,0,4.0,4,0.1\n60,0,8.0,8,0.2\n"
        (run / "episodes.csv").write_text(rows)
    curves, evaluated = report._curves(sweep)
    assert not evaluated
    ((label, seeds),) = curves["CartPole-v1"].items()
    assert (label, len(seeds)) == ("algo.replay_ratio=0", 2)
    assert seeds[0].tolist() == [[50.0, 4.0], [60.0, 6.0]]
    evaluations(sweep, 1, [(200, 2.0), (300, 4.0)])
    curves, evaluated = report._curves(sweep)
    assert evaluated
    steps, mean, low, high = report.over_seeds(curves["CartPole-v1"]["algo.replay_ratio=0"])
    assert (steps[0], steps[-1]) == (200.0, 200.0)  # where both are known
    assert (mean[0], low[0], high[0]) == (2.0, 2.0, 2.0)
