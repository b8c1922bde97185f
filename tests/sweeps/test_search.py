"""`hydra/sweeper=optuna`, with runs that are played (see `played`) and, slowly, with real ones."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import processes
import pytest
from optuna.trial import TrialState
from played import HOLD, steps, value

from rlrun import stored
from rlrun.schema import UserError
from rlrun.sweeps import objective, plan, trials
from rlrun.sweeps.folder import CANCEL, CONFIG, Sweep
from rlrun.sweeps.settings import Settings

Search = Callable[..., Any]
DRIVER = Path(processes.__file__)
FOLDER = Path("outputs/sweeps/s")
RATE = "algo.learning_rate=tag(log,interval(1e-4,1e-2))"
WORDS = ["sweep.name=s", "total_timesteps=4000", "eval.every_steps=1000", "logger=files"]


def words(launcher: str = "Played", n_jobs: int = 2) -> list[str]:
    target = f"hydra.launcher._target_=hydra_plugins.rlrun.{launcher}"
    room = f"hydra.launcher.n_jobs={n_jobs}"
    return ["-m", "hydra/sweeper=optuna", target, room, *WORDS]


@pytest.fixture
def search(command: Callable[..., Any]) -> Search:
    """Runs `rlrun -m hydra/sweeper=optuna WORDS` in this process."""
    processes.register()
    return lambda *more, **how: command(*words(**how), *more)


class Killed(BaseException):
    """As if the process had ended there."""


def study() -> optuna.Study:
    return trials.open_study(FOLDER, trials.place_of(FOLDER))


def told() -> list[optuna.trial.FrozenTrial]:
    return study().get_trials()


def all_steps() -> list[tuple[str, int]]:
    sweep = Sweep(FOLDER)
    return [(job.run, step) for job in sweep.jobs for step in steps(sweep.run_folder(job))]


def test_a_search_ends_is_not_repeated_and_goes_on(search: Search) -> None:
    first = search(RATE, "algo.n_steps=choice(5,20)", "hydra.sweeper.n_trials=6")
    assert first.code == 0
    assert first.err == ""
    assert "6 trials: 6 complete" in first.out
    assert "Trial" not in first.out  # Optuna's own words
    best = max(told(), key=lambda trial: trial.value)
    assert best.value == pytest.approx(1e4 * best.params["algo.learning_rate"])
    assert f"trial {best.number}" in first.out.partition("best trials")[2].splitlines()[1]
    train = next(line for line in first.out.splitlines() if "rlrun -m" in line)
    assert f"algo.learning_rate={best.params['algo.learning_rate']}" in train
    assert "'seed=range(100,105)'" in train
    assert "sweep.name" not in train
    importance = first.out.partition("importance")[2].splitlines()
    assert {line.split()[1] for line in importance[1:3]} == {"algo.learning_rate", "algo.n_steps"}

    before = all_steps()
    again = search(RATE, "algo.n_steps=choice(5,20)", "hydra.sweeper.n_trials=6")
    assert "6 trials, 0 to run" in again.out
    assert all_steps() == before
    more = search(RATE, "algo.n_steps=choice(5,20)", "hydra.sweeper.n_trials=8")
    assert "8 trials, 2 to run" in more.out
    assert [trial.number for trial in told()] == list(range(8))
    assert len({trial.params["algo.learning_rate"] for trial in told()}) == 8
    assert max(Counter(all_steps()).values()) == 1


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_a_sampler_that_is_begun_anew_does_not_repeat_itself(search: Search, sampler: str) -> None:
    for count in (1, 3):
        search(
            RATE,
            "algo.gamma=interval(0.9,0.99)",
            f"hydra.sweeper.sampler={sampler}",
            f"hydra.sweeper.n_trials={count}",
        )
    assert len({trial.params["algo.gamma"] for trial in told()}) == 3


def test_pruned_trials_stop_early(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAY_SECONDS", "0.3")
    done = search(
        "algo.learning_rate=range(1e-3,9e-3,1e-3)",
        "hydra.sweeper.pruner=asha",
        "hydra.sweeper.n_trials=6",
        n_jobs=3,
    )
    assert done.code == 0
    pruned = [trial for trial in told() if trial.state is TrialState.PRUNED]
    assert pruned
    assert f"{len(pruned)} pruned" in done.out
    sweep = Sweep(FOLDER)
    for trial in pruned:
        job = sweep.jobs[trial.user_attrs["jobs"][0]]
        state = sweep.state(job)
        assert state.status == "pruned"
        assert state.reason == trial.user_attrs["reason"] == f"pruned at step {trial.last_step:,}"
        assert 0 < len(steps(sweep.run_folder(job))) < 4


def test_a_failed_trial_does_not_end_the_search(search: Search) -> None:
    done = search(
        "algo.ent_coef=choice(0.0,0.5)", "hydra.sweeper.n_trials=5", "hydra.sweeper.sampler=random"
    )
    states = Counter(trial.state for trial in told())
    assert states[TrialState.FAIL] + states[TrialState.COMPLETE] == 5
    assert states[TrialState.FAIL]
    assert states[TrialState.COMPLETE]
    assert done.code == 1
    assert "failed: planted" in done.out


def test_a_config_that_is_refused_is_a_failed_trial(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = plan.planned

    def planned(combos: list[list[str]], compose: Any) -> Any:
        if {"algo.n_steps=20", "env.n_envs=8"} <= set(combos[0]):
            raise UserError("these two do not go together")
        return checked(combos, compose)

    monkeypatch.setattr(plan, "planned", planned)
    done = search(
        "algo.n_steps=5,20", "env.n_envs=8,4", "hydra.sweeper.n_trials=8",
        "hydra.sweeper.sampler=random",
    )  # fmt: skip
    for trial in told():
        refused = trial.params == {"algo.n_steps": "20", "env.n_envs": "8"}
        assert (trial.state is TrialState.FAIL) == refused
    assert "failed: these two do not go together" in done.out


def test_a_trial_has_the_objective_of_all_its_seeds(search: Search) -> None:
    search("algo.learning_rate=1e-3,2e-3", "hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=4")
    sweep = Sweep(FOLDER)
    for trial in told():
        jobs = [sweep.jobs[number] for number in trial.user_attrs["jobs"]]
        assert [job.seed for job in jobs] == [0, 1, 2, 3]
        assert len({job.group for job in jobs}) == 1
        # Seeds add 0, 1, 4, 9: the middle half of them has the mean 2.5, all of them 3.5.
        assert trial.value == pytest.approx(1e4 * float(trial.params["algo.learning_rate"]) + 2.5)
    assert objective.over_seeds([0, 1, 4, 9], Settings(over_seeds="mean")) == 3.5
    assert objective.over_seeds([0, 1, 5], Settings()) == 1.5  # 1, and a quarter of the others


def test_the_area_under_the_curve_as_objective(search: Search) -> None:
    search(
        "algo.learning_rate=1e-3,2e-3", "hydra.sweeper.n_trials=1", "hydra.sweeper.objective=auc"
    )
    (trial,) = told()
    best = 1e4 * float(trial.params["algo.learning_rate"])
    assert trial.value == pytest.approx(best * (1 + 2 + 3 + 4) / 16)
    assert trial.intermediate_values[1000] == pytest.approx(best / 4)


def test_a_line_half_written_is_no_evaluation(tmp_path: Path) -> None:
    rows = [{"step": 1020, "return_mean": 1.0}, {"step": 2000, "return_mean": 3.0}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "evaluations.jsonl").write_text(text + '{"step": 3000, "return_mean": 12')
    assert objective.curve(tmp_path) == {1020: 1.0, 2000: 3.0}
    assert objective.at_rungs(tmp_path, 1000, Settings(objective="auc")) == {1000: 1.0, 2000: 2.0}
    assert objective.curve(tmp_path / "none") == {}


def test_what_was_finished_but_not_told_is_told_without_running_again(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trials.Trials, "tell", tell)
        with pytest.raises(Killed):
            search(RATE, "hydra.sweeper.n_trials=1")
    (trial,) = told()
    assert trial.state is TrialState.RUNNING
    before = all_steps()
    assert len(before) == 4
    search(RATE, "hydra.sweeper.n_trials=1")
    (after,) = told()
    assert after.state is TrialState.COMPLETE
    assert after.params == trial.params
    assert all_steps() == before


def test_parameters_suggested_before_a_kill_are_kept(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suggest(trial: optuna.Trial, key: str, found: Any) -> Any:
        if key == "algo.gamma":
            raise Killed
        return whole(trial, key, found)

    whole = trials._suggest
    with monkeypatch.context() as patch:
        patch.setattr(trials, "_suggest", suggest)
        with pytest.raises(Killed):
            search(RATE, "algo.gamma=interval(0.9,0.99)", "hydra.sweeper.n_trials=1")
    (half,) = told()
    assert list(half.params) == ["algo.learning_rate"]
    search(RATE, "algo.gamma=interval(0.9,0.99)", "hydra.sweeper.n_trials=1")
    (trial,) = told()
    assert trial.state is TrialState.COMPLETE
    assert trial.params["algo.learning_rate"] == half.params["algo.learning_rate"]


@pytest.mark.parametrize("how", ["signal", "cancel"])
def test_a_search_that_is_stopped_goes_on(
    search: Search, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("PLAY_SECONDS", "0.3")
    poll = processes.Workers.poll

    def interrupted(self: Any, seconds: float) -> Any:
        if not sent and all_steps():
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            else:  # as `rlrun sweep cancel` does, for all drivers
                (FOLDER / CANCEL).touch()
            sent.append(None)
        return poll(self, min(seconds, 0.05))

    sent: list[None] = []
    monkeypatch.setattr(processes.Workers, "poll", interrupted)
    assert search(RATE, "hydra.sweeper.n_trials=3").code == 143
    running = {trial.number: trial.params for trial in told()}
    assert TrialState.RUNNING in {trial.state for trial in told()}
    assert 0 < len(all_steps()) < 8
    monkeypatch.setenv("PLAY_SECONDS", "0")
    assert search(RATE, "hydra.sweeper.n_trials=3").code == 0
    assert [trial.state for trial in told()] == [TrialState.COMPLETE] * 3
    assert {number: told()[number].params for number in running} == running
    assert max(Counter(all_steps()).values()) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["algo.gamma=1,2"], "algo.gamma: 2 is not allowed"),
        ([RATE, "sweep.estimate=true"], "a grid can be estimated"),
        ([RATE, "experiment=sweep/replay_ratio"], "this experiment is a grid"),
        (["algo.n_steps=interval(1,20)"], "int(interval(LOW,HIGH))"),
        ([RATE, "seed=1,2"], "hydra.sweeper.seeds=N"),
        ([RATE, "run.overwrite=true"], "run.overwrite=true"),
        ([RATE, "eval.episodes=0"], "eval.episodes=0"),
        ([RATE, "eval.every_steps=null", "hydra.sweeper.pruner=asha"], "eval.every_steps=N"),
        ([RATE, "eval.every_steps=null", "hydra.sweeper.objective=auc"], "eval.every_steps=N"),
        ([RATE, "hydra.sweeper.sampler=grid"], "hydra.sweeper.sampler: 'grid' is not allowed"),
        ([RATE, "hydra.sweeper.asha.factor=1"], "hydra.sweeper.asha.factor: 1 is not allowed"),
        ([RATE, "hydra.sweeper.storage=mysql://"], "hydra.sweeper.storage: the study in mysql://"),
    ],
)
def test_what_cannot_be_searched_is_refused(search: Search, more: list[str], message: str) -> None:
    done = search(*more)
    assert done.code == 2
    assert message in done.err
    assert not Sweep(FOLDER).jobs
    assert not Path("outputs/CartPole-v1").exists()


def test_a_launcher_of_others_is_refused(command: Callable[..., Any]) -> None:
    done = command("-m", "hydra/sweeper=optuna", "hydra/launcher=basic", RATE, *WORDS)
    assert done.code == 2
    assert "hydra/launcher=local" in done.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("hydra.launcher.print_only=true", "hydra/launcher=slurm that waits"),
        ("hydra.launcher.wait=false", "hydra/launcher=slurm that waits"),
        ("hydra.launcher.parallel=null", "hydra.launcher.parallel=N"),
    ],
)
def test_a_launcher_that_gives_no_room_is_refused(
    command: Callable[..., Any], more: str, message: str
) -> None:
    done = command("-m", "hydra/sweeper=optuna", "hydra/launcher=slurm", more, RATE, *WORDS)
    assert done.code == 2
    assert message in done.err


def test_another_search_in_its_place_is_refused(search: Search) -> None:
    search("algo.learning_rate=1e-3,2e-3", "hydra.sweeper.n_trials=1")
    done = search(
        "algo.learning_rate=1e-3,2e-3", "hydra.sweeper.n_trials=1", "hydra.sweeper.seeds=2"
    )
    assert done.code == 2
    assert "seeds is 2, and was 1" in done.err
    assert "sweep.name=NAME" in done.err


def test_another_study_in_its_place_is_refused(search: Search) -> None:
    search(RATE, "hydra.sweeper.n_trials=1")
    done = search(RATE, "hydra.sweeper.n_trials=1", "hydra.sweeper.study=other")
    assert done.code == 2
    assert "has its trials elsewhere: study is s." in done.err


def test_a_grid_in_the_place_of_a_search_is_refused(search: Search, command: Any) -> None:
    search(RATE, "hydra.sweeper.n_trials=1")
    done = command("-m", "seed=1,2", "sweep.name=s")
    assert done.code == 2
    assert "s is a search" in done.err


def test_a_search_in_the_place_of_a_grid_is_refused(search: Search) -> None:
    Sweep(FOLDER).save()
    done = search(RATE)
    assert done.code == 2
    assert "is a grid" in done.err


def test_optuna_is_asked_for_when_it_is_missing(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("space", "trials", "driver"):
        monkeypatch.delitem(sys.modules, f"rlrun.sweeps.{name}", raising=False)
        monkeypatch.delattr(f"rlrun.sweeps.{name}", raising=False)
    done = search(RATE)
    assert done.code == 2
    assert "pip install 'rlrun[search]'" in done.err


# Drivers in processes of their own.


def driver(*more: str, seconds: float, launcher: str = "Played") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), *words(launcher), *more],
        env={
            **os.environ,
            "PLAY_SECONDS": str(seconds),
            "PYTHONPATH": os.pathsep.join([str(DRIVER.parents[2]), str(DRIVER.parent)]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("jobs_too", [False, True], ids=["driver", "driver and jobs"])
def test_a_killed_driver_loses_nothing(
    jobs_too: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs may outlive it: they are waited for then."""
    monkeypatch.chdir(tmp_path)
    more = [RATE, "hydra.sweeper.n_trials=3"]
    hold = tmp_path / HOLD
    hold.touch()
    killed = driver(*more, seconds=0)
    until(lambda: len(all_steps()) == 4)  # half of each of two runs
    (os.killpg if jobs_too else os.kill)(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = told()
    after = driver(*more, seconds=0)
    if not jobs_too:  # then there is room for the third trial, beside the two that go on
        until(lambda: len(all_steps()) == 6)
    hold.unlink()
    out, _ = after.communicate(timeout=60)
    assert after.returncode == 0, out
    assert "3 trials: 3 complete" in out
    check(before, 3)


def check(before: list[optuna.trial.FrozenTrial], count: int) -> None:
    """All trials are told, with the parameters they had, and no step was trained twice."""
    found = told()
    assert [trial.number for trial in found] == list(range(count))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    for old in before:
        assert found[old.number].params.items() >= old.params.items()
        if old.state.is_finished():
            assert found[old.number].datetime_complete == old.datetime_complete
    sweep = Sweep(FOLDER)
    assert len(sweep.jobs) == count == len({job.run for job in sweep.jobs})
    assert max(Counter(all_steps()).values()) == 1
    assert len(all_steps()) == 4 * count
    for trial in found:
        (number,) = trial.user_attrs["jobs"]
        config = stored.read(sweep.job_folder(sweep.jobs[number]) / CONFIG)
        assert trial.value == pytest.approx(value(config))


def test_several_drivers_share_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = [RATE, "hydra.sweeper.n_trials=6"]
    both = [driver(*more, seconds=0.3) for _ in range(2)]
    outs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    check([], 6)
    lines = [sum(line.startswith("[") for line in out.splitlines()) for out in outs]
    assert sum(lines) == 6
    assert min(lines) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_driver_killed_at_any_moment_loses_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = random.Random(seed)
    before: list[optuna.trial.FrozenTrial] = []
    more = [RATE, "algo.gamma=interval(0.9,0.99)", "hydra.sweeper.n_trials=6"]
    for _ in range(10):
        killed = driver(*more, seconds=0.05)
        time.sleep(draw.uniform(1.5, 4.5))  # Python and PyTorch take the first two
        (os.killpg if draw.random() < 0.5 else os.kill)(killed.pid, signal.SIGKILL)
        killed.communicate()
        before = told() if trials.place_of(FOLDER) else []
    out, _ = driver(*more, seconds=0).communicate(timeout=60)
    assert "6 trials: 6 complete" in out, out
    check(before, 6)


def evaluated() -> int:
    return sum(len(objective.curve(run)) for run in Path("outputs").glob("*/*/seed-*"))


@pytest.mark.slow
def test_a_driver_of_real_runs_killed_three_times_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run is trained twice beyond its last checkpoint, and the curves are whole."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    more = [
        RATE, "hydra.sweeper.n_trials=6", "experiment=none", "eval.episodes=2",
        "checkpoint.every_steps=1000", "total_timesteps=12000",
    ]  # fmt: skip
    for _ in range(3):
        seen = evaluated()
        killed = driver(*more, seconds=0, launcher="Processes")
        until(lambda seen=seen: evaluated() >= seen + 3)
        time.sleep(draw.uniform(0, 2))
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
    out, _ = driver(*more, seconds=0, launcher="Processes").communicate(timeout=200)
    assert "6 trials: 6 complete" in out, out
    sweep, parts = Sweep(FOLDER), 0
    assert [trial.user_attrs["jobs"] for trial in told()] == [[n] for n in range(6)]
    for job in sweep.jobs:
        run = sweep.run_folder(job)
        manifest = stored.read_json(run / "manifest.json")["parts"]
        parts += len(manifest)
        assert [part["step"] for part in manifest] == sorted({part["step"] for part in manifest})
        rungs = list(objective.at_rungs(run, 1000, Settings()))
        assert rungs == list(range(1000, 12001, 1000))
    assert parts > 6  # some were taken up again
