"""Our environments as a vector environment of Gymnasium, against environments stepped by hand."""

from collections import OrderedDict
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlrun.envs import make_vec
from rlrun.envs.batch import Environments
from rlrun.envs.gym import GymVectorEnv

N = 3


def environments(env_id="CartPole-v1", n=N, seed=0, **kwargs):
    return Environments(make_vec(env_id, n, seed, kwargs))


class Odd(gymnasium.Env):
    """Any observations and boxed actions of one kind; episodes of 3 to 6 steps.

    An episode shows its number of steps wherever it can; its seed says how long it is. Odd ones
    are truncated.
    """

    OBSERVATIONS: ClassVar = {
        "float64": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "uint8": spaces.Box(0, 255, (2, 3), np.uint8),
        "uint16": spaces.Box(0, 2**16 - 1, (2,), np.uint16),
        "int64": spaces.Box(-(2**40), 2**40, (1,), np.int64),
        "bool": spaces.MultiBinary(4),
        "discrete": spaces.Discrete(8, start=-1),
        "scalar": spaces.Box(-9, 9, ()),
        "dict": spaces.Dict(
            OrderedDict(
                z=spaces.Box(-9, 9, (2,), np.float64),
                a=spaces.Discrete(8, start=1),
                n=spaces.Tuple(
                    [spaces.MultiDiscrete([9, 9]), spaces.Box(0, 99, (1, 2), np.uint16)]
                ),
            )
        ),
        "tuple": spaces.Tuple([spaces.Box(-9, 9, (2,)), spaces.MultiBinary(3)]),
    }
    ACTIONS: ClassVar = {
        "box": spaces.Box(
            np.array([[-1, 0], [-5, 3]], np.float32), np.array([[1, 10], [5, 3.5]], np.float32)
        ),
        "doubles": spaces.Box(-np.pi, 1e4, (3,), np.float64),
        "one bound": spaces.Box(
            np.array([0.0, -np.inf]), np.array([np.inf, 7.0]), (2,), np.float64
        ),
        "scalar": spaces.Box(-2, 3, ()),
        "discrete": spaces.Discrete(5, start=-2),
        "multidiscrete": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, -7]]),
        "multibinary": spaces.MultiBinary((2, 2)),
    }

    def __init__(self, observation="float64", action="discrete"):
        self.observation_space = self.OBSERVATIONS[observation]
        self.action_space = self.ACTIONS[action]
        self.given = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = int(self.np_random.integers(3, 7))
        self.steps = 0
        return show(self.observation_space, 0), {}

    def step(self, action):
        assert contains(self.action_space, action), action
        self.given.append(np.array(action))
        self.steps += 1
        over = self.steps == self.length
        odd = bool(self.length % 2)
        reward = float(np.sum(action)) + 0.25 * self.steps
        return show(self.observation_space, self.steps), reward, over and not odd, over and odd, {}


def contains(space, value):
    """Entries of a batch of plain numbers are NumPy's numbers, which a Box takes with a warning."""
    return space.contains(np.asarray(value) if isinstance(space, spaces.Box) else value)


def show(space, steps):
    """The observation after so many steps."""
    if isinstance(space, spaces.Dict):
        return {name: show(entry, steps) for name, entry in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(show(entry, steps) for entry in space.spaces)
    if isinstance(space, spaces.Discrete):
        return np.int64(steps + space.start)
    if isinstance(space, spaces.MultiBinary):
        return np.array([steps >> i & 1 for i in range(space.n)], np.int8)
    return np.full(space.shape, steps, space.dtype)


gymnasium.register("rlrun-tests/Odd-v0", entry_point=Odd, disable_env_checker=True)


def odd(n=N, seed=0, **kwargs):
    return environments("rlrun-tests/Odd-v0", n, seed, **kwargs)


def inside(envs):
    return [env.unwrapped for env in envs.engine._batch.envs]


def entry(observations, i):
    """Observation `i` of a batch."""
    if isinstance(observations, dict):
        return {key: entry(value, i) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(entry(value, i) for value in observations)
    return observations[i]


def equal(one, other):
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return np.array_equal(one, other) and np.asarray(one).dtype == np.asarray(other).dtype


# What Gymnasium expects of a vector environment.


@pytest.mark.parametrize("observation", Odd.OBSERVATIONS)
@pytest.mark.parametrize("action", Odd.ACTIONS)
def test_it_is_a_vector_environment(observation, action):
    envs = odd(observation=observation, action=action)
    assert isinstance(envs, gymnasium.vector.VectorEnv)
    reference = SyncVectorEnv([lambda: Odd(observation, action)] * N)
    assert envs.num_envs == N
    assert envs.observation_space == reference.observation_space
    assert envs.action_space == reference.action_space
    assert envs.single_observation_space == reference.single_observation_space
    assert envs.single_action_space == reference.single_action_space
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert envs.unwrapped is envs
    assert envs.render_mode is None

    envs.action_space.seed(0)
    obs, info = envs.reset(seed=1)
    assert envs.observation_space.contains(obs)
    assert info == {}
    for _ in range(9):
        told = envs.step(envs.action_space.sample())
        assert len(told) == 5
        obs, reward, terminated, truncated, info = told
        assert envs.observation_space.contains(obs)
        assert isinstance(reward, np.ndarray)
        assert reward.dtype.kind == "f"
        assert terminated.dtype == truncated.dtype == np.bool_
        assert reward.shape == terminated.shape == truncated.shape == (N,)
        assert isinstance(info, dict)
        assert not (terminated & truncated).any()
    envs.close()
    envs.close()  # may be said twice
    reference.close()


@pytest.mark.parametrize("observation", Odd.OBSERVATIONS)
def test_every_step_is_that_of_the_environments(observation):
    """By hand: which step each is in, what it then shows, and what was its last one."""
    envs = odd(observation=observation)
    space = envs.single_observation_space
    obs, _ = envs.reset(seed=3)
    rng = np.random.default_rng(0)
    steps, returns = np.zeros(N, int), np.zeros(N)
    assert all(equal(entry(obs, i), show(space, 0)) for i in range(N))
    n_ended = np.zeros(2, int)
    for _ in range(40):
        lengths = [env.length for env in inside(envs)]
        actions = rng.integers(-2, 3, N)
        obs, reward, terminated, truncated, info = envs.step(actions)
        steps += 1
        assert np.array_equal(reward, (actions + 0.25 * steps).astype(np.float32))
        returns += actions + 0.25 * steps
        over = steps == lengths
        assert np.array_equal(terminated | truncated, over)
        assert np.array_equal(truncated, over & (np.array(lengths) % 2 == 1))
        assert ("final_obs" in info) == ("episode" in info) == over.any()
        if over.any():
            assert info.keys() == {"final_obs", "_final_obs", "episode", "_episode"}
            assert info["_final_obs"].tolist() == info["_episode"].tolist() == over.tolist()
            for i in range(N):
                if over[i]:
                    assert equal(info["final_obs"][i], show(space, steps[i]))
                    assert contains(space, info["final_obs"][i])
                else:
                    assert info["final_obs"][i] is None
            assert np.array_equal(info["episode"]["r"], np.where(over, returns, 0))
            assert np.array_equal(info["episode"]["l"], np.where(over, steps, 0))
        n_ended += terminated.sum(), truncated.sum()
        steps[over], returns[over] = 0, 0.0
        assert all(equal(entry(obs, i), show(space, steps[i])) for i in range(N))
    assert n_ended.all()
    envs.close()


def test_what_was_given_out_stays_as_it_is():
    envs = odd(observation="dict")
    obs, _ = envs.reset(seed=0)
    kept = [(obs, show(envs.single_observation_space, 0))]
    steps = np.zeros(N, int)
    arrays = []
    for _ in range(9):
        obs, reward, terminated, truncated, info = envs.step(np.full(N, 2))
        steps = np.where(terminated | truncated, 0, steps + 1)
        kept.append((obs, [show(envs.single_observation_space, k) for k in steps]))
        arrays.append((reward, reward.copy(), terminated, terminated.copy()))
        if "final_obs" in info:
            arrays.append(
                (info["_final_obs"], info["_final_obs"].copy(), truncated, truncated.copy())
            )
    for obs, shown in kept[1:]:
        assert all(equal(entry(obs, i), shown[i]) for i in range(N))
    for one, same, other, again in arrays:
        assert np.array_equal(one, same)
        assert np.array_equal(other, again)


def test_all_that_gymnasium_says_of_its_own_same_step_batch_is_said():
    """The batch of Gymnasium in the same mode, with the same actions, has the same keys."""
    ours = environments("CartPole-v1", max_episode_steps=9)
    theirs = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1", max_episode_steps=9)] * N,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    ours.reset(seed=0)
    theirs.reset(seed=0)
    for _ in range(30):
        actions = np.array([1] * N)  # each falls within 9 steps or is cut there
        told, expected = ours.step(actions), theirs.step(actions)
        for mine, other in zip(told[:4], expected[:4], strict=True):
            assert mine.shape == other.shape
            assert mine.dtype.kind == other.dtype.kind
        for infos in (told[4], expected[4]):
            over = (told if infos is told[4] else expected)[2:4]
            assert ("final_obs" in infos) == bool((over[0] | over[1]).any())
            if "final_obs" in infos:
                assert np.array_equal(infos["_final_obs"], over[0] | over[1])
                assert infos["final_obs"].dtype == object
    ours.close()
    theirs.close()


# Seeds.


def play(envs, steps=25, seed=None):
    """All observations of a play; actions by a generator of their own."""
    rng = np.random.default_rng(0)
    told = [envs.reset(seed=seed)[0]]
    for _ in range(steps):
        told.append(envs.step(rng.integers(0, 2, envs.num_envs))[0])
    return np.array(told)


def test_a_seed_makes_what_follows_reproducible():
    envs = environments()
    first = play(envs, seed=5)
    assert np.array_equal(play(envs, seed=5), first)
    assert np.array_equal(play(environments(seed=99), seed=5), first)
    assert not np.array_equal(play(envs, seed=6), first)
    assert not np.array_equal(first[0, 0], first[0, 1])


def test_without_a_seed_the_next_episodes_follow():
    envs = environments(seed=4)
    one, two = envs.reset()[0], envs.reset()[0]
    assert not np.array_equal(one, two)
    again = environments(seed=4)
    assert np.array_equal(again.reset()[0], one)
    assert np.array_equal(again.reset()[0], two)


def test_a_reset_begins_the_count_of_an_episode_anew():
    envs = odd()
    for seed in (None, 7):
        envs.reset()
        envs.step(np.zeros(N, int))
        envs.reset(seed=seed)
        length = inside(envs)[0].length
        for _ in range(length):
            info = envs.step(np.zeros(N, int))[4]
        assert info["_episode"][0]
        assert info["episode"]["l"][0] == length
        assert info["episode"]["r"][0] == sum(0.25 * t for t in range(1, length + 1))


@pytest.mark.parametrize("seed", [[1, 2, 3], [None, 2, 3]])
def test_a_list_of_seeds_is_refused(seed):
    with pytest.raises(ValueError, match="seed: one number"):
        environments().reset(seed=seed)


# Actions.


@pytest.mark.parametrize("action", Odd.ACTIONS)
def test_actions_reach_the_environments_as_they_were_said(action):
    """They pass through a policy's units and back: boxes to the last bits of their dtype."""
    envs = odd(action=action)
    envs.action_space.seed(1)
    envs.reset(seed=0)
    space = envs.single_action_space
    said = []
    for t in range(60):
        actions = envs.action_space.sample()
        if isinstance(space, spaces.Box) and t < 2:  # the bounds themselves, where there are any
            bound = (space.low, space.high)[t]
            actions[:] = np.where(np.isfinite(bound), bound, 1.5)
        said.append(actions)
        envs.step(actions)
    for i, env in enumerate(inside(envs)):
        for t, given in enumerate(env.given):
            expected = said[t][i]
            assert given.shape == np.shape(expected)
            if isinstance(space, spaces.Box):
                scale = np.where(np.isfinite(space.high - space.low), np.abs(space.low), 0)
                scale = np.maximum(np.maximum(scale, np.abs(expected)), 1)
                scale = np.maximum(scale, np.where(np.isfinite(space.high), np.abs(space.high), 0))
                epsilon = np.finfo(space.dtype).eps
                assert (np.abs(given - expected) <= 4 * epsilon * scale).all()
                assert given.dtype == space.dtype
            else:
                assert np.array_equal(given, expected)
    if isinstance(space, spaces.Box):
        for t, bound in enumerate((space.low, space.high)):
            finite = np.isfinite(bound)
            for env in inside(envs):
                assert np.array_equal(env.given[t][finite], bound[finite])
    envs.close()


def test_lists_are_taken_for_actions():
    envs = odd()
    envs.reset(seed=0)
    envs.step([1, -2, 2])
    assert [int(env.given[0]) for env in inside(envs)] == [1, -2, 2]


# Where the environments come from.


def test_around_a_batch_of_the_users():
    """One that resets in the next step: the environments are reset in the same one all the same."""
    batch = SyncVectorEnv([Odd] * N, autoreset_mode=AutoresetMode.NEXT_STEP)
    given, ours = Environments(GymVectorEnv(batch, 0)), odd()
    rng = np.random.default_rng(0)
    assert np.array_equal(given.reset(seed=3)[0], ours.reset(seed=3)[0])
    ended = 0
    for _ in range(40):
        actions = rng.integers(-2, 3, N)
        one, other = given.step(actions), ours.step(actions)
        assert all(map(np.array_equal, one[:4], other[:4]))
        assert one[4].keys() == other[4].keys()
        ended += "episode" in one[4]
    assert ended
    given.close()
    ours.close()


def test_pictures_of_the_environments():
    envs = environments(render_mode="rgb_array")
    assert envs.render_mode == "rgb_array"
    envs.reset(seed=0)
    pictures = envs.render()
    assert len(pictures) == N
    assert all(picture.ndim == 3 and picture.dtype == np.uint8 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    envs.close()


# Atari: a lost life terminates, but is neither a reset nor the end of a game.


def test_a_lost_life_terminates_and_the_game_goes_on():
    envs = environments("BreakoutNoFrameskip-v4", n=2)
    assert envs.observation_space.shape == (2, 4, 84, 84)
    obs, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(obs)
    returns, lengths = np.zeros(2), np.zeros(2, int)
    lost, whole = np.zeros(2, int), 0
    for _ in range(900):
        obs, reward, terminated, truncated, info = envs.step(np.array([0, 2]))
        returns, lengths = returns + reward, lengths + 1
        over = info.get("_episode", np.zeros(2, bool))
        assert (terminated[over] | truncated[over]).all()
        lost += terminated & ~over
        assert ("final_obs" in info) == over.any()
        if over.any():
            assert np.array_equal(info["_final_obs"], over)
            for i in np.flatnonzero(over):
                assert info["final_obs"][i].shape == (4, 84, 84)
                assert not np.array_equal(info["final_obs"][i], obs[i])
                assert not obs[i, :-1].any()  # the frames before a reset are zeros
                assert info["episode"]["r"][i] == returns[i]
                assert info["episode"]["l"][i] == lengths[i]
                assert lost[i] == 4  # the fifth ends the game
            whole += over.sum()
            returns[over], lengths[over], lost[over] = 0, 0, 0
    assert whole >= 2
    pictures = envs.render()
    assert len(pictures) == 2
    assert pictures[0].shape == (84, 84, 3)
    envs.close()
