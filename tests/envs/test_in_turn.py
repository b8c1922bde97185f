"""Our way to step environments one after the other against Gymnasium's."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlrun.envs.gym import make_batch

IDS = ["CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1"]


@pytest.mark.parametrize("name", IDS)
def test_steps_and_resets_are_those_of_gymnasium(name):
    spec = copy.deepcopy(gymnasium.spec(name))
    spec.max_episode_steps = 30
    ours = make_batch(spec, 3, {})
    theirs = SyncVectorEnv(
        [lambda: gymnasium.make(spec)] * 3, autoreset_mode=AutoresetMode.DISABLED
    )
    batches = ours, theirs
    for batch in batches:
        batch.reset(seed=[0, 1, 2])
    theirs.action_space.seed(0)
    resets = 0
    for _ in range(100):
        actions = theirs.action_space.sample()
        mine, other = (batch.step(actions)[:4] for batch in batches)
        for part, reference in zip(mine, other, strict=True):
            assert part.dtype == reference.dtype
            assert np.array_equal(part, reference)
        over = mine[2] | mine[3]
        if over.any():
            resets += 1
            seeds = [7 * resets + env for env in range(3)]
            ended = mine[2].copy()
            first = [b.reset(seed=seeds, options={"reset_mask": over})[0] for b in batches]
            assert np.array_equal(*first)
            assert np.array_equal(mine[2], ended)  # a reset leaves what was returned
    assert resets > 1


class Odd(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (2,), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, given):
        self.given = given

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.uint8), {}

    def step(self, action):
        return self.given, 0.0, False, False, {}


@pytest.mark.parametrize(
    "given",
    [np.array([-1.5, 300.0]), np.array([-1, 300]), np.uint8(3), np.zeros((1, 2), np.uint8), None],
    ids=["floats", "wide integers", "a number", "another shape", "nothing"],
)
def test_observations_that_do_not_fit_are_refused_and_not_bent(given):
    spec = gymnasium.envs.registration.EnvSpec(
        "Odd-v0", entry_point=lambda: Odd(given), disable_env_checker=True
    )
    batch = make_batch(spec, 2, {})
    batch.reset()
    with pytest.raises((TypeError, ValueError)):
        batch.step(np.zeros(2, np.int64))
