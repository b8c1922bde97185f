"""Learning is the final test: tasks whose best score is known, by the commands of a user."""

import json
from pathlib import Path

import pytest
from results import EXPERIMENTS


def train(command, *words):
    """The result.json of a training."""
    result = command(*words, "logger=files")
    assert result.code == 0, result.err
    (path,) = Path("outputs").glob("*/*/seed-*/result.json")
    return json.loads(path.read_text())


def test_cartpole_gets_better_within_seconds(command):
    result = train(command, "total_timesteps=20000", "eval.episodes=10")
    assert result["train_return_last100"] > 80  # random play: 22


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_cartpole_is_solved_by_the_default_command(command, seed):
    result = train(command, f"seed={seed}")
    assert result["step"] == 100_000
    assert result["eval"]["return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_identity(command, seed):
    words = ["env=tests.tasks:Identity-v0", "env.n_envs=1", "algo.n_steps=1"]
    words += ["algo.replay_ratio=1", "total_timesteps=15000"]
    assert train(command, *words, f"seed={seed}")["eval"]["return_mean"] > 90


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_catch_from_pictures(command, seed):
    """The routine check of the way of a picture, since Pong shows nothing for hours."""
    folder = Path(__file__).parents[1] / "conf"
    words = ["env=tests.tasks:Catch-v0", "experiment=catch", f"--config-dir={folder}"]
    result = train(command, *words, f"seed={seed}")
    caught = (result["eval"]["return_mean"] + 1) / 2  # +1 caught, -1 missed
    assert caught >= 0.9
    assert result["step"] <= 100_000


def test_acktr_solves_cartpole_within_25_000_steps(command):
    result = train(command, "algo=acktr", "total_timesteps=25000", "eval.episodes=20")
    assert result["eval"]["return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("steps", [25_000, 100_000])
@pytest.mark.parametrize("seed", range(5))
def test_acktr_solves_cartpole_and_does_not_fall_back(command, seed, steps):
    result = train(command, "algo=acktr", f"seed={seed}", f"total_timesteps={steps}")
    assert result["eval"]["return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_acktr_swings_up_the_pendulum(command, seed):
    result = train(command, "algo=acktr", "env=Pendulum-v1", f"seed={seed}")
    assert result["eval"]["return_mean"] >= -300


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a2c_solves_cartpole(command, seed):
    assert train(command, "algo=a2c", f"seed={seed}")["eval"]["return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_acktr_catches_from_pictures(command, seed):
    folder = Path(__file__).parents[1] / "conf"
    words = ["algo=acktr", "env=tests.tasks:Catch-v0", "experiment=catch_acktr"]
    words += [f"--config-dir={folder}", "algo.damping_rule=factored", f"seed={seed}"]
    assert (train(command, *words)["eval"]["return_mean"] + 1) / 2 >= 0.9


def published(command, name, *words):
    """Train an experiment of scripts/results.py; its evaluation less what it should reach."""
    experiment = EXPERIMENTS[name]
    result = train(command, *experiment.overrides.split(), *words)
    return result["eval"]["return_mean"] - experiment.threshold


def test_acktr_finds_the_best_of_interacting_bits_within_seconds(command):
    assert published(command, "acktr-bits-n=3", "total_timesteps=60000", "eval.episodes=10") >= 0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["bits-n=3", "locks-sizes=[4,4]"])
@pytest.mark.parametrize("algo", ["acer", "acer-by-sampling", "acktr"])
def test_interacting_factors(command, algo, task):
    name, _, how = algo.partition("-")
    assert published(command, f"{name}-{task}" + (f"-{how}" if how else "")) >= 0


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["acer", "acktr", "a2c"])
def test_a_memory_makes_up_for_missing_velocities(command, algo):
    assert published(command, f"{algo}-no-velocity-lstm") >= 0


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["acer", "acktr", "a2c"])
def test_a_cue_is_remembered(command, algo):
    assert published(command, f"{algo}-recall") >= 0


@pytest.mark.slow
def test_acer_swings_up_the_pendulum(command):
    assert published(command, "acer-Pendulum-v1") >= 0
