"""Learning is the final test: tasks whose best score is known, by the commands of a user."""

import json
from pathlib import Path

import pytest


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
