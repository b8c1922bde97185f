"""Models of stable-baselines 2 as models of ours: played, saved, trained on."""

import gymnasium
import numpy as np
import pytest
from test_sb2 import small
from whole import fingerprint, weights

from rlrun import A2C, ACER, ACKTR, make_vec_env


@pytest.fixture
def file(tmp_path):
    return small(tmp_path)


class Noise(gymnasium.Env):
    """Shows what it likes."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 1.0, False, False, {}


def environment(model):
    spaces = {"observation_space": model.observation_space, "action_space": model.action_space}
    return make_vec_env(Noise, 3, env_kwargs=spaces)


@pytest.mark.parametrize("with_environment", [False, True])
def test_it_is_loaded_saved_and_loaded(file, tmp_path, with_environment):
    model = ACKTR.load(file)
    assert model.get_env() is None
    assert model.num_timesteps == 0
    if with_environment:
        model = ACKTR.load(file, environment(model))
    observation = np.zeros(model.observation_space.shape, np.float32)
    told = model.action_probability(observation)
    model.save(tmp_path / "ours")
    again = ACKTR.load(tmp_path / "ours")
    assert weights(again) == weights(model)
    np.testing.assert_array_equal(again.action_probability(observation), told)


def test_it_learns_on(file):
    model = ACKTR.load(file)
    with pytest.raises(ValueError, match="set_env"):
        model.learn(10)
    model.set_env(environment(model))
    before = weights(model)
    model.learn(120)
    assert model.num_timesteps == 120
    assert weights(model) != before
    other = ACKTR.load(file)
    assert fingerprint(ACKTR.load(file, environment(other)).learn(120)) == fingerprint(model)


def test_other_algorithms(file):
    for kind in (ACER, A2C):
        with pytest.raises(ValueError, match=r"ACKTR\.load"):
            kind.load(file)
