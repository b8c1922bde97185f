"""The command line and Python are two ways to the same training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from whole import KINDS, fingerprint, walk, weights

from rlrun import UserError, evaluate_policy, make_vec_env
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.rng import generator, stream_seed

CASES = {
    "acer": ({"n_steps": 5, "buffer_size": 60, "replay_start": 10, "replay_ratio": 2.0}, {}, {}),
    "acktr": ({"n_steps": 5, "cold_iter": 2, "kfac_update": 2}, {}, {}),
    "a2c": ({"n_steps": 5, "gae_lambda": 0.9}, {"hidden": [8]}, {"normalize_observations": True}),
}
KWARGS = {"max_episode_steps": 25}


def words(kind, *others):
    algo, policy, env = CASES[kind]
    settings = [f"algo.{name}={value}" for name, value in algo.items()]
    settings += [f"policy.{name}={value}" for name, value in policy.items()]
    settings += [f"env.{name}={value}" for name, value in env.items()]
    return [
        "env=CartPole-v1", f"algo={kind}", "experiment=none", "logger=files", "threads=1",
        "env.n_envs=3", "env.kwargs={max_episode_steps: 25}", "seed=4", "device=cpu",
        *settings, *others,
    ]  # fmt: skip


def model_of(kind, **others):
    algo, policy, env = CASES[kind]
    envs = make_vec_env("CartPole-v1", 3, env_kwargs=KWARGS)
    settings = {"policy_kwargs": policy, "seed": 4, "n_cpu_tf_sess": 1, "device": "cpu"}
    return KINDS[kind]("MlpPolicy", envs, **settings, **algo, **env, **others)


def trained(command, kind, *others):
    done = command(*words(kind, *others))
    assert done.code == 0, done.out + done.err
    (config,) = Path().glob("outputs/*/*/seed-*/config.yaml")
    return config.parent


def leaves(tree):
    return {key: value for key, value in walk(tree) if "/time/" not in key}


def state_of(folder):
    checkpointer = Checkpointer(folder, 2)
    state, _ = checkpointer.load(checkpointer.latest(), None)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_training(command, kind):
    folder = trained(command, kind, "total_timesteps=300", "eval.episodes=0")
    model = model_of(kind).learn(300)
    state = state_of(folder)
    assert leaves(state["algorithm"]) == leaves(model.algorithm.state_dict())
    assert leaves(state["collector"]) == leaves(model._training.collector.state_dict())
    assert state["training"]["step"] == model.num_timesteps == 300
    assert state["training"]["returns"] == list(model._training.returns)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_loaded_and_gone_on_with(command, kind):
    folder = trained(command, kind, "total_timesteps=150", "eval.episodes=0")
    model = KINDS[kind].load(folder)
    assert (model.num_timesteps, model.seed, model.n_envs) == (150, 4, 3)
    assert fingerprint(model) == fingerprint(model_of(kind).learn(150))
    model.learn(150, reset_num_timesteps=False)
    result = command("resume", str(folder), "total_timesteps=300")
    assert result.code == 0, result.out + result.err
    resumed = KINDS[kind].load(folder)
    assert resumed.num_timesteps == 300
    assert fingerprint(resumed) == fingerprint(model)


def test_checkpoints_by_name(command):
    folder = trained(
        command, "a2c", "total_timesteps=300", "eval.episodes=2", "eval.every_steps=60",
        "checkpoint.every_steps=60", "checkpoint.keep=9",
    )  # fmt: skip
    load = KINDS["a2c"].load
    steps = sorted(int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").iterdir())
    assert len(steps) > 3
    for step in steps:
        model = load(folder, checkpoint=step)
        assert model.num_timesteps == step
        whole = model_of("a2c")
        whole.learn(300, lambda told, _, step=step: told["self"].num_timesteps <= step)
        assert weights(model) == weights(whole)
    assert load(folder).num_timesteps == load(folder, checkpoint="last").num_timesteps == 300
    rows = [json.loads(row) for row in (folder / "evaluations.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["return_mean"], -row["step"]))
    assert load(folder, checkpoint="best").num_timesteps == best["step"]
    for wrong in (1, "first"):
        with pytest.raises(UserError, match="checkpoint"):
            load(folder, checkpoint=wrong)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_plays_as_the_command_does(command, kind, deterministic):
    folder = trained(command, kind, "total_timesteps=150", "eval.episodes=0")
    words = ["evaluate", str(folder), "episodes=6", f"deterministic={deterministic}".lower()]
    result = command(*words)
    assert result.code == 0, result.out + result.err
    told = json.loads((folder / "evaluation.json").read_text())
    model = KINDS[kind].load(folder, checkpoint="best")
    model._rngs["predict"] = generator(4, "evaluate")
    envs = make_vec_env("CartPole-v1", 6, seed=stream_seed(4, "evaluate"), env_kwargs=KWARGS)
    returns, lengths = evaluate_policy(
        model, envs, 6, deterministic=deterministic, return_episode_rewards=True
    )
    assert returns == told["returns"]
    assert np.mean(returns) == pytest.approx(told["return_mean"])
    assert lengths == [int(ret) for ret in returns]
    assert re.search(rf"return {np.mean(returns):.2f}", result.out + result.err)


def test_a_run_in_an_environment_of_another_module(command):
    """Its name is no reason to import a module: the environment has to be given."""
    done = command(
        "env=tests.tasks:Identity-v0", "algo=a2c", "experiment=none", "logger=files",
        "total_timesteps=60", "eval.episodes=0", "threads=1", "run.trust=[tests]",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    (config,) = Path().glob("outputs/*/*/seed-*/config.yaml")
    model = KINDS["a2c"].load(config.parent)
    assert model.get_env() is None
    model.predict(3)
    model.set_env("Identity-v0")
    assert model.learn(20, reset_num_timesteps=False).num_timesteps >= 80


def test_what_is_no_run(command, tmp_path):
    folder = trained(command, "a2c", "total_timesteps=30", "eval.episodes=0")
    with pytest.raises(ValueError, match=r"A2C\.load"):
        KINDS["acer"].load(folder)
    for path in (folder.parent, folder / "config.yaml", folder / "checkpoints"):
        with pytest.raises(UserError):
            KINDS["a2c"].load(path)
