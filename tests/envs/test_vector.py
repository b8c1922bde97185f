"""Restoring environments by their journals, and what a step says."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlrun.envs import ReplayMismatch, is_deterministic, make_vec
from rlrun.envs.vector import BadEnvironment
from rlrun.schema import UserError

IDS = ["CartPole-v1", "Pendulum-v1", "LunarLander-v3", "PongNoFrameskip-v4", "ALE/Breakout-v5"]


class Actions:
    """Random actions of a batch, the same for the same seed."""

    def __init__(self, envs, seed=0):
        self.envs, self.rng = envs, np.random.default_rng(seed)

    def __call__(self):
        space = self.envs.action_space
        if isinstance(space, spaces.Box):
            return self.rng.uniform(space.low, space.high, (self.envs.n_envs, *space.shape)).astype(
                np.float32
            )
        return self.rng.integers(0, space.n, self.envs.n_envs)


def same_step(a, b):
    arrays = ("obs", "reward", "terminated", "truncated", "reset")
    return (
        all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        and a.episodes == b.episodes
        and a.final_obs.keys() == b.final_obs.keys()
        and all(np.array_equal(a.final_obs[env], b.final_obs[env]) for env in a.final_obs)
    )


def frozen(step):
    return step._replace(obs=step.obs.copy())


@pytest.mark.parametrize("env_id", IDS)
def test_a_replayed_batch_goes_on_the_same(env_id):
    steps = 950 if env_id.startswith("Pong") else 260
    envs = make_vec(env_id, 3, seed=1)
    actions = Actions(envs)
    envs.reset()
    saved, told = {}, []
    save_at = {0, 1, 7, steps - 60, *np.random.default_rng(2).integers(0, steps, 3).tolist()}
    for t in range(steps):
        if t in save_at:
            saved[t] = envs.state_dict()
        told.append((action := actions(), frozen(envs.step(action))))
    assert any(step.terminated.any() or step.truncated.any() for _, step in told)
    for t, state in saved.items():
        again = make_vec(env_id, 3, seed=1)
        obs = again.load_state_dict(state)
        if t:
            assert np.array_equal(obs, told[t - 1][1].obs)
        for action, step in told[t : t + 60]:
            assert same_step(again.step(action), step)
        again.close()
    envs.close()


@pytest.mark.parametrize("env_id", ["IceHockeyNoFrameskip-v4", "ALE/Breakout-v5"])
def test_a_replay_passes_through_the_games_since_the_last_seeding(env_id, monkeypatch):
    """Ice Hockey keeps something of the game before, sticky actions keep their generator."""
    monkeypatch.setattr("rlrun.envs.atari.AtariEnv.reseed_after", 200)
    frames = {} if env_id.startswith("ALE") else {"max_num_frames_per_episode": 480}
    envs = make_vec(env_id, 3, seed=4, kwargs=frames)
    actions = Actions(envs)
    envs.reset()
    saved, told = {}, []
    for t in range(530):
        if t in (130, 210, 370, 470):
            saved[t] = envs.state_dict()
        told.append((action := actions(), frozen(envs.step(action))))
    envs.close()
    assert all((state["episode"] > state["seeded"]).any() for state in saved.values())
    assert (saved[470]["seeded"] > 0).all()
    for t, state in saved.items():
        again = make_vec(env_id, 3, seed=4, kwargs=frames)
        assert np.array_equal(again.load_state_dict(state), told[t - 1][1].obs)
        for action, step in told[t : t + 60]:
            assert same_step(again.step(action), step)
        again.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "PongNoFrameskip-v4"])
def test_the_seed_decides(env_id):
    def first(seed):
        envs = make_vec(env_id, 2, seed)
        actions = Actions(envs)
        obs = [envs.reset().copy()]
        obs += [envs.step(actions()).obs.copy() for _ in range(30)]
        envs.close()
        return np.stack(obs)

    assert np.array_equal(first(5), first(5))
    assert not np.array_equal(first(5), first(6))
    assert not np.array_equal(first(5)[:, 0], first(5)[:, 1])


def test_the_journal_is_trimmed(monkeypatch):
    monkeypatch.setattr("rlrun.envs.vector._TRIM", 50)
    envs = make_vec("CartPole-v1", 2, seed=0)
    envs.reset()
    longest = 0
    for _ in range(600):
        envs.step(np.array([0, 1]))
        longest = max(longest, len(envs._journal))
    assert longest < 100
    again = make_vec("CartPole-v1", 2, seed=0)
    assert np.array_equal(again.load_state_dict(envs.state_dict()), envs._obs)


def test_truncation_hands_the_last_observation_aside():
    envs = make_vec("CartPole-v1", 2, seed=0, kwargs={"max_episode_steps": 5})
    envs.reset()
    for _ in range(4):
        assert not envs.step(np.array([0, 1])).final_obs
    step = envs.step(np.array([1, 0]))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert step.reset.all()
    assert sorted(step.final_obs) == [0, 1]
    assert not np.array_equal(step.final_obs[0], step.obs[0])
    before = step.final_obs[0].copy()
    assert not envs.step(np.array([0, 1])).final_obs
    assert np.array_equal(step.final_obs[0], before)  # it outlives the next step
    assert [(e.env, e.ret, e.length) for e in step.episodes] == [(0, 5.0, 5), (1, 5.0, 5)]


class Fall(gymnasium.Env[Any, Any]):
    """Falls in its last step before the limit."""

    observation_space = spaces.Box(0, 9, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps, np.float32), 1.0, self.steps == 3, False, {}


gymnasium.register("rlrun-tests/Fall-v0", entry_point=Fall, max_episode_steps=3)


def test_an_episode_that_ends_at_its_limit_is_terminated_only():
    envs = make_vec("rlrun-tests/Fall-v0", 1, seed=0)
    envs.reset()
    for _ in range(3):
        step = envs.step(np.array([0]))
    assert (step.terminated[0], step.truncated[0]) == (True, False)
    assert step.reset[0]
    assert {env: final.tolist() for env, final in step.final_obs.items()} == {0: [3.0]}
    assert [(e.ret, e.length) for e in step.episodes] == [(3.0, 3)]


def test_the_returns_of_episodes_under_way_come_back():
    envs = make_vec("rlrun-tests/Fall-v0", 2, seed=0)
    envs.reset()
    for _ in range(5):
        envs.step(np.array([0, 1]))
    again = make_vec("rlrun-tests/Fall-v0", 2, seed=0)
    again.load_state_dict(envs.state_dict())
    assert [e.ret for e in again.step(np.array([0, 1])).episodes] == [3.0, 3.0]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "says"),
    [
        ("CartPole-v1", {"nonsense": 1}, r"env.kwargs=.*nonsense.* does not fit env=CartPole-v1"),
        ("PongNoFrameskip-v4", {"frameskip": 2}, r"env.kwargs.frameskip: unknown for Atari"),
        ("Ant-v2", None, r"env=Ant-v2 needs a package"),
    ],
)
def test_what_an_environment_cannot_be_made_from_is_said(env_id, kwargs, says):
    with pytest.raises(UserError, match=says):
        make_vec(env_id, 1, seed=0, kwargs=kwargs)


@pytest.mark.parametrize("fault", ["reward", "observation"])
def test_values_that_are_not_finite_are_named(fault):
    envs = make_vec("tests.tasks:Faulty-v0", 2, seed=0, kwargs={"fault": fault})
    envs.reset()
    envs.step(np.array([0, 1]))
    envs.step(np.array([0, 1]))
    with pytest.raises(BadEnvironment, match=r"environment 0 .* step 3 of episode 0; .* with \d+"):
        envs.step(np.array([0, 1]))


def test_probe():
    assert is_deterministic("CartPole-v1")
    assert is_deterministic("tests.tasks:Faulty-v0")
    assert not is_deterministic("tests.tasks:Faulty-v0", {"fault": "noise"})
    assert not is_deterministic("tests.tasks:Faulty-v0", {"fault": "memory"})


def test_an_environment_that_cannot_be_replayed_is_found():
    kwargs = {"fault": "noise"}
    envs = make_vec("tests.tasks:Faulty-v0", 2, seed=0, kwargs=kwargs)
    envs.reset()
    envs.step(np.array([0, 1]))
    again = make_vec("tests.tasks:Faulty-v0", 2, seed=0, kwargs=kwargs)
    with pytest.raises(ReplayMismatch):
        again.load_state_dict(envs.state_dict())
    again.reset()
    assert again.state_dict()["episode"].tolist() == [1, 1]
