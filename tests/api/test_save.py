"""Saving and loading: names of files, what may be changed on the way, what is refused."""

import io
import os
import pickle
import zipfile

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from whole import KINDS, every, fingerprint, make, seen, stack, weights

from rlrun import A2C, ACER, ACKTR, UserError, make_vec_env
from rlrun.policies.encoder import EncoderPolicy


@pytest.fixture
def model():
    return make("acer").learn(60)


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model.zip"


def test_names_of_files(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("plain")
    model.save("with.zip")
    model.save(tmp_path / "other.model")
    assert sorted(os.listdir()) == ["other.model", "plain.zip", "with.zip"]
    for name in ("plain", "plain.zip", "with", "with.zip", "other.model", tmp_path / "plain"):
        assert weights(ACER.load(name)) == weights(model)
    os.mkdir("empty")
    for name in ("other", "nothing", "nothing.zip", tmp_path / "no" / "thing"):
        with pytest.raises(FileNotFoundError, match="there is no model"):
            ACER.load(name)
    with pytest.raises(UserError, match="empty"):
        ACER.load("empty")
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "no" / "folder" / "model")


def test_files_that_are_open(model, tmp_path):
    memory = io.BytesIO()
    model.save(memory)
    memory.seek(0)
    assert weights(ACER.load(memory)) == weights(model)
    with (tmp_path / "model").open("wb") as file:
        model.save(file)
    with (tmp_path / "model").open("rb") as file:
        assert weights(ACER.load(file)) == weights(model)
    assert weights(ACER.load(tmp_path / "model")) == weights(model)


@pytest.mark.parametrize("kind", KINDS)
def test_all_comes_back(kind, tmp_path):
    model = make(kind, gamma=0.9, learning_rate=1e-3).learn(60)
    model.save(tmp_path / "model")
    loaded = KINDS[kind].load(tmp_path / "model", every())
    assert fingerprint(loaded) == fingerprint(model)
    assert (loaded.gamma, loaded.learning_rate, loaded.seed) == (0.9, 1e-3, 0)
    assert (loaded.num_timesteps, loaded.n_envs, loaded.verbose) == (60, 3, 0)
    assert loaded.observation_space == model.observation_space
    assert loaded.action_space == model.action_space
    batch = stack(seen())
    np.testing.assert_array_equal(loaded.action_probability(batch), model.action_probability(batch))
    without = KINDS[kind].load(tmp_path / "model")
    assert without.get_env() is None or without.get_env().num_envs == 3
    np.testing.assert_array_equal(
        without.action_probability(batch), model.action_probability(batch)
    )


def test_another_algorithm(saved):
    for kind in (ACKTR, A2C):
        with pytest.raises(ValueError, match=r"ACER\.load"):
            kind.load(saved)


def test_policy_kwargs_have_to_be_those_of_the_file(tmp_path):
    model = make("a2c", policy_kwargs={"net_arch": [8], "act_fun": torch.tanh})
    model.save(tmp_path / "model")
    same = A2C.load(tmp_path / "model", policy_kwargs={"net_arch": [8], "act_fun": "tanh"})
    assert weights(same) == weights(model)
    for other in ({"net_arch": [9]}, {"net_arch": [8], "act_fun": "relu"}, {}):
        with pytest.raises(ValueError, match="policy_kwargs"):
            A2C.load(tmp_path / "model", policy_kwargs=other)


def test_hyperparameters_may_be_others(saved, model):
    loaded = ACER.load(saved, every(), gamma=0.5, learning_rate=1e-4, verbose=1, ent_coef=0)
    assert (loaded.gamma, loaded.algorithm.ent_coef, loaded.verbose) == (0.5, 0.0, 1)
    assert loaded.algorithm.learning_rate == 1e-4
    assert weights(loaded) == weights(model)
    assert len(loaded.algorithm.memory) == len(model.algorithm.memory) == 4
    assert loaded.learn(60, reset_num_timesteps=False).num_timesteps == 120
    again = ACER.load(saved, custom_objects={"gamma": 0.25})
    assert again.gamma == 0.25
    with pytest.raises(UserError, match=r"gama.*gamma"):
        ACER.load(saved, gama=0.5)
    with pytest.raises(UserError, match="gamma"):
        ACER.load(saved, gamma=1.5)


@pytest.mark.parametrize(
    "change",
    [
        {"buffer_size": 100},
        {"n_steps": 4},
        {"n_steps": 10, "buffer_size": 200},
        {"replay_ratio": 0},
        {"normalize_rewards": True},
        {"trust_region": False},
        {"lr_schedule": "constant"},
        {"clip_rewards": True},
        {"n_cpu_tf_sess": 1, "device": "cpu"},
        {"seed": 5},
    ],
    ids=str,
)
def test_changes_that_a_training_goes_on_with(saved, model, change):
    loaded = ACER.load(saved, every(), **change)
    assert weights(loaded) == weights(model)
    assert loaded.num_timesteps == 60
    memory = loaded.algorithm.memory
    if change.keys() & {"buffer_size", "n_steps"}:
        assert len(memory) == 0
    elif "replay_ratio" in change:
        assert memory is None
    else:
        assert len(memory) == 4
    before = weights(loaded)
    loaded.learn(61, reset_num_timesteps=False)
    assert weights(loaded) != before
    file = io.BytesIO()
    loaded.save(file)
    file.seek(0)
    again = ACER.load(file, every())
    assert fingerprint(again) == fingerprint(loaded)
    for name, value in change.items():
        if name in ("buffer_size", "n_steps", "replay_ratio", "normalize_rewards", "seed"):
            assert getattr(again, name) == value


def test_a_setting_that_needs_other_weights(saved):
    with pytest.raises(UserError):
        ACER.load(saved, normalize_observations=True)


def test_another_number_of_environments(saved, model):
    for n_envs in (1, 8):
        loaded = ACER.load(saved, every(n_envs=n_envs))
        assert (loaded.n_envs, loaded.num_timesteps) == (n_envs, 60)
        assert weights(loaded) == weights(model)
        noise = (each._training.collector.rng.get_state() for each in (loaded, model))
        assert torch.equal(*noise), "the actions are not drawn like those at the beginning"
        loaded.learn(5 * n_envs, reset_num_timesteps=False)
        assert loaded.num_timesteps == 60 + 5 * n_envs


def test_environments_of_other_spaces(saved):
    for env in ("CartPole-v1", every("discrete"), every("vector", "box")):
        with pytest.raises(ValueError, match="space is"):
            ACER.load(saved, env)
    with pytest.raises(TypeError):
        ACER.load(saved, 3)


def test_made_anew_from_the_id(tmp_path):
    kwargs = {"max_episode_steps": 9}
    lengths = []
    for env in (
        make_vec_env("CartPole-v1", 2, env_kwargs=kwargs),
        gymnasium.make("CartPole-v1", **kwargs),
    ):
        make("a2c", env).learn(20).save(tmp_path / "model")
        loaded = A2C.load(tmp_path / "model")
        assert loaded.get_env().num_envs == getattr(env, "num_envs", 1)
        assert loaded.get_env() is loaded.get_env()
        loaded.learn(60, lambda told, _: lengths.extend(told["ep_lengths"]))
    assert max(lengths) == 9


def test_an_environment_without_an_id(tmp_path):
    make("a2c", make_vec_env(lambda: gymnasium.make("CartPole-v1"), 2)).save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model")
    assert loaded.get_env() is None
    loaded.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="set_env"):
        loaded.learn(10)
    loaded.set_env("CartPole-v1")
    assert loaded.learn(10).num_timesteps == 10


def test_policies_of_ones_own(tmp_path):
    class Sum(nn.Module):
        def __init__(self, observation_space, width=4):
            super().__init__()
            self.layer = nn.Linear(observation_space.shape[0], width)

        def forward(self, x):
            return self.layer(x).tanh()

    model = make("acktr", policy=Sum, policy_kwargs={"width": 6}).learn(30)
    model.save(tmp_path / "model")
    with pytest.raises(UserError, match="policy="):
        ACKTR.load(tmp_path / "model")
    for given in ({"policy": Sum}, {"custom_objects": {"policy": Sum}}):
        loaded = ACKTR.load(tmp_path / "model", every(), **given)
        assert fingerprint(loaded) == fingerprint(model)
        assert loaded.learn(30).num_timesteps == 30


class Wide(nn.Module):
    """An encoder that a file can name."""

    def __init__(self, observation_space, width=4):
        super().__init__()
        self.layer = nn.Linear(observation_space.shape[0], width)

    def forward(self, x):
        return self.layer(x).relu()


def test_an_encoder_in_the_policy_kwargs(tmp_path):
    name, kwargs = f"{EncoderPolicy.__module__}.EncoderPolicy", {"encoder": Wide}
    model = make("a2c", policy=name, policy_kwargs=kwargs).learn(30)
    model.save(tmp_path / "model")
    with pytest.raises(UserError):
        A2C.load(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", every(), policy=name, policy_kwargs=kwargs)
    assert fingerprint(loaded) == fingerprint(model)


def test_a_schedule_of_ones_own(tmp_path):
    def half(progress):
        return 0.5

    make("a2c", lr_schedule=half).learn(30).save(tmp_path / "model")
    with pytest.raises(UserError, match="lr_schedule"):
        A2C.load(tmp_path / "model")
    for given in ({"lr_schedule": half}, {"custom_objects": {"lr_schedule": half}}):
        assert A2C.load(tmp_path / "model", every(), **given).learn(30).num_timesteps == 30


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "zipfile.ZipFile.write"])
def test_a_disk_that_fails_leaves_the_old_file(saved, model, monkeypatch, broken):
    old = saved.read_bytes()

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, refuse)
        with pytest.raises(OSError, match="No space"):
            model.save(saved)
    assert saved.read_bytes() == old
    assert [path.name for path in saved.parent.iterdir()] == ["model.zip"]
    model.learn(15).save(saved)
    assert weights(ACER.load(saved)) == weights(model)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_pickled(kind, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    model = make(kind).learn(60)
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refuse)
    monkeypatch.setattr(np, "load", refuse)
    model.save(tmp_path / "model")
    KINDS[kind].load(tmp_path / "model", every()).learn(15)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        endings = {name.rpartition(".")[2] for name in archive.namelist()}
    assert endings == {"yaml", "json", "safetensors"}


def test_a_failed_load_of_weights_and_models_leaves_the_environment_alone(saved):
    env = every("vector", "box")
    other = make("a2c", env).learn(30)
    with pytest.raises(ValueError, match="action_space"):
        ACER.load(saved, env)
    straight = make("a2c", every("vector", "box")).learn(30).learn(60)
    assert fingerprint(other.learn(60)) == fingerprint(straight)
