"""Sweeps as a user begins them, with trainings that are only pretended, and two that are not."""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretended
import pytest

from rlrun import config
from rlrun.run.lock import RunLock
from rlrun.run.signals import stop_on_signals
from rlrun.sweeps.folder import Sweep
from rlrun.sweeps.grid import Grid
from tests.conftest import Outcome

Command = Callable[..., Outcome]
Calls = list[tuple[dict[str, Any], list[str]]]


@pytest.fixture
def command(command: Command) -> Command:
    """Sweeps run one job after the other in this process, where trainings can be pretended."""

    def run(*words: str) -> Outcome:
        is_sweep = {"-m", "--multirun"} & set(words)
        return command(*words, *(["hydra/launcher=basic"] if is_sweep else []))

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return pretended.trainings(monkeypatch)


def the_sweep() -> Sweep:
    (index,) = Path("outputs/sweeps").glob("*/sweep.json")
    return Sweep(index.parent)


def test_every_combination_is_trained_in_its_own_folder(command: Command, trained: Calls) -> None:
    done = command("-m", "algo.replay_ratio=0,4", "seed=range(3)")
    assert done.code == 0, done.err
    assert "6 jobs, 6 to run, 600,000 steps" in done.out
    assert [(node["algo"]["replay_ratio"], node["seed"]) for node, _ in trained] == [
        (ratio, seed) for ratio in (0, 4) for seed in range(3)
    ]
    sweep = the_sweep()
    assert {state.status for state in sweep.states().values()} == {"finished"}
    words = ["algo.replay_ratio=0,4", "seed=range(3)", "hydra/launcher=basic"]
    assert sweep.command == ["-m", *words]
    assert [job.words for job in sweep.jobs] == [words for _, words in trained]


def test_the_same_command_runs_only_what_is_missing(command: Command, trained: Calls) -> None:
    command("-m", "seed=0,1,2")
    shutil.rmtree(the_sweep().run_folder(the_sweep().jobs[1]))
    again = command("--multirun", "seed=0,1,2")
    assert again.code == 0
    assert "3 jobs, 2 finished before, 1 to run, 100,000 steps" in again.out
    assert "3 of 3 jobs finished (2 before)" in again.out
    assert [node["seed"] for node, _ in trained] == [0, 1, 2, 1]
    nothing = command("-m", "seed=0,1,2")
    assert nothing.code == 0
    assert "3 jobs, 3 finished before\n" in nothing.out
    assert len(trained) == 4


def test_one_more_value_runs_the_new_jobs_alone(command: Command, trained: Calls) -> None:
    command("-m", "seed=0,1", "sweep.name=grid")
    more = command("-m", "seed=0,1,2", "sweep.name=grid")
    assert more.code == 0
    assert [node["seed"] for node, _ in trained] == [0, 1, 2]
    assert [job.seed for job in the_sweep().jobs] == [0, 1, 2]
    unnamed = command("-m", "seed=0,1,2,3")  # the runs are where they are, whatever the sweep
    assert "4 jobs, 3 finished before, 1 to run" in unnamed.out


def test_more_steps_are_other_runs(command: Command, trained: Calls) -> None:
    command("-m", "seed=0,1", "sweep.name=grid", "total_timesteps=1000")
    command("-m", "seed=0,1", "sweep.name=grid", "total_timesteps=2000")
    assert [node["total_timesteps"] for node, _ in trained] == [1000, 1000, 2000, 2000]


def test_what_is_to_be_begun_anew_does_not_count_as_done(
    command: Command, trained: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("-m", "seed=0,1,2", "sweep.name=grid")
    kept = the_sweep().run_folder(the_sweep().jobs[0])
    with RunLock(kept):
        refused = command("-m", "seed=0,1,2", "sweep.name=grid", "run.overwrite=true")
    assert refused.code == 2
    assert (kept / "result.json").exists()
    with monkeypatch.context() as patch:  # as if the driver had been stopped before the first
        patch.setattr(Grid, "_waited_for", lambda *_: True)
        stopped = command("-m", "seed=0,1,2", "sweep.name=grid", "run.overwrite=true")
    assert stopped.code == 1
    assert {state.status for state in the_sweep().states().values()} == {"waiting"}
    assert command("sweep", "retry", "grid").code == 0
    assert [node["seed"] for node, _ in trained] == [0, 1, 2, 0, 1, 2]
    assert not any(node["run"]["overwrite"] for node, _ in trained)


def test_a_signal_ends_a_retry_of_several_commands(command: Command, trained: Calls) -> None:
    for seed in (0, 1):
        command("-m", f"seed={seed}", "env.kwargs.code=143", "sweep.name=grid")
    assert command("sweep", "retry", "grid").code == 143
    assert [node["seed"] for node, _ in trained] == [0, 1, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "seed=range(0)"], "seed=range(0): there is no job in it"),
        (["-m", "seed=interval(0,3)"], "a range is for a search: hydra/sweeper=optuna"),
        (["-m", "seed=0,0"], "is the same run as `seed=0`\n"),
        (["-m", "algo=acer,acktr", "algo.kfac_update=1,10"], "algo=acer algo.kfac_update=1 "),
        (["sweep.estimate=true"], "this estimates a sweep; add -m"),
    ],
)
def test_what_is_no_grid_is_refused(
    command: Command, trained: Calls, words: list[str], message: str
) -> None:
    refused = command(*words)
    assert refused.code == 2
    assert message in refused.err
    assert trained == []


def test_a_glob_takes_all_options_of_a_group(command: Command, trained: Calls) -> None:
    assert command("-m", "lr_schedule=glob(*middle*)").code == 0
    assert len(trained) == 2


def test_one_failing_job_never_stops_the_others(command: Command, trained: Calls) -> None:
    words = ["+env.kwargs.error=bug,user,null", "+env.kwargs.code=0,3"]
    done = command("-m", *[word.lstrip("+") for word in words])
    assert done.code == 1
    assert len(trained) == 6
    states = the_sweep().states()
    assert [states[n].status for n in range(6)] == ["failed"] * 4 + ["finished", "failed"]
    assert [states[n].reason for n in (0, 2, 5)] == [
        "RuntimeError: a bug",
        "a setting",
        "it broke down",
    ]
    for line in (
        "1 of 6 jobs finished, 5 failed",
        "failed env.kwargs.error=bug env.kwargs.code=0 seed=0: RuntimeError: a bug",
        "failed env.kwargs.error=null env.kwargs.code=3 seed=0: it broke down",
        "`rlrun sweep retry ",
    ):
        assert line in done.out


def test_the_exit_code_is_of_the_jobs_of_this_command(command: Command, trained: Calls) -> None:
    assert command("-m", "seed=0", "env.kwargs.code=3", "sweep.name=grid").code == 1
    extended = command("-m", "seed=1", "sweep.name=grid")
    assert extended.code == 0
    assert "1 of 2 jobs finished, 1 failed" in extended.out


def test_overwriting_runs_everything_again(command: Command, trained: Calls) -> None:
    command("-m", "seed=0,1")
    again = command("-m", "seed=0,1", "run.overwrite=true")
    assert "2 jobs, 2 to run" in again.out
    assert len(trained) == 4
    assert len(list(Path("outputs/sweeps").iterdir())) == 1


def test_nothing_to_sweep_is_one_job(command: Command, trained: Calls) -> None:
    assert command("-m").code == 0
    assert len(trained) == 1


def test_a_sweep_is_carried_once_at_a_time(command: Command, trained: Calls) -> None:
    command("-m", "seed=0", "sweep.name=grid")
    with RunLock(Path("outputs/sweeps/grid")):
        refused = command("-m", "seed=1", "sweep.name=grid")
    assert refused.code == 2
    assert "outputs/sweeps/grid is in use by another process" in refused.err
    assert len(trained) == 1
    assert len(the_sweep().jobs) == 1


def test_a_signal_stops_the_sweep_and_is_its_exit_code(command: Command, trained: Calls) -> None:
    done = command("-m", "seed=0,1", "env.kwargs.code=143")
    assert done.code == 143
    assert len(trained) == 1
    assert "0 of 2 jobs finished, 1 stopped, 1 waiting" in done.out


def test_a_signal_between_two_jobs_reaches_the_next_one() -> None:
    with stop_on_signals():
        with stop_on_signals() as inner:
            assert not inner
        signal.raise_signal(signal.SIGTERM)
        with stop_on_signals() as inner:
            assert inner.exit_code == 143
    with stop_on_signals() as later:
        assert not later


def test_a_damaged_index_is_told_in_one_message(command: Command, trained: Calls) -> None:
    command("-m", "seed=0", "sweep.name=grid")
    Path("outputs/sweeps/grid/sweep.json").write_text("{")
    refused = command("-m", "seed=0", "sweep.name=grid")
    assert refused.code == 2
    assert refused.err.startswith("rlrun: outputs/sweeps/grid/sweep.json is damaged")


EXPERIMENTS = {
    "replay_ratio": ("acer", {"algo.replay_ratio": [0, 1, 4, 8]}),
    "kfac_update": ("acktr", {"algo.kfac_update": [1, 10, 100]}),
    "kfac_async": (
        "acktr",
        {"algo.async_eigen_decomp": [False, True], "algo.kfac_update": [1, 10]},
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("env", ["CartPole-v1", "PongNoFrameskip-v4", "FrozenLake-v1"])
def test_the_sweeps_of_the_papers(command: Command, trained: Calls, name: str, env: str) -> None:
    algo, swept = EXPERIMENTS[name]
    seeds = [0, 1, 2, 3, 4] if (name, env) == ("kfac_update", "CartPole-v1") else [3]
    words = [] if len(seeds) == 5 else ["seed=3"]
    done = command("-m", f"experiment=sweep/{name}", f"env={env}", *words)
    assert done.code == 0, done.err
    combinations = itertools.product(*swept.values(), seeds)
    assert [tuple(config.dotted(n)[key] for key in (*swept, "seed")) for n, _ in trained] == [
        *combinations
    ]
    plain = config.check(config.compose([f"algo={algo}", f"env={env}"]))
    for node, _ in trained:
        for key in ("seed", *swept):  # all else is as in a single run, the tuned settings included
            *path, last = key.split(".")
            (node[path[0]] if path else node)[last] = config.dotted(plain)[key]
        assert node == plain


def test_the_command_line_wins_over_the_sweep_of_an_experiment(
    command: Command, trained: Calls
) -> None:
    words = ["seed=range(2)", "algo.replay_ratio=2", "env=CartPole-v1,Acrobot-v1"]
    assert command("-m", "experiment=sweep/replay_ratio", *words).code == 0
    found = [(n["algo"]["replay_ratio"], n["seed"], n["total_timesteps"]) for n, _ in trained]
    assert found == [(2, seed, steps) for seed in (0, 1) for steps in (100_000, 500_000)]


def test_a_sweep_without_multirun_says_what_is_missing(command: Command, trained: Calls) -> None:
    refused = command("experiment=sweep/kfac_update", "seed=3")
    assert refused.code == 2
    assert refused.err == (
        "rlrun: experiment=sweep/kfac_update seed=3: this is a sweep (over algo.kfac_update, "
        "seed); add -m, or take another experiment for a single run\n"
    )
    assert trained == []


def test_two_jobs_at_once_have_wandb_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two processes that train at the same time, offline."""
    import subprocess

    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "run")
    from offline_wandb import ended

    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of this process, if it has one
    code = "import sys; from rlrun.cli import main; sys.exit(main())"
    words = ["logger=wandb", "total_timesteps=400", "eval.episodes=0", "log_interval=1"]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words, f"seed={seed}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for seed in (0, 1)
    ]
    for job in jobs:
        said, _ = job.communicate(timeout=120)
        assert job.returncode == 0, said
        assert b"WandbLogger failed" not in said, said
    found = []
    for seed in (0, 1):
        (folder,) = tmp_path.glob(f"outputs/*/*/seed-{seed}")
        run = ended(folder)
        group = f"{folder.parent.name} on CartPole-v1"
        assert (run.group, run.name) == (group, f"{group}, seed {seed}")
        assert run.config["seed"] == seed
        assert len(run.history) == 5
        found.append(run.run_id)
    assert len(set(found)) == 2
