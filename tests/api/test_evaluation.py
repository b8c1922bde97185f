"""Evaluations: which episodes are played, what is seen at their beginnings, what comes out."""

import gc
import inspect
import sys
from types import ModuleType

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import RecordEpisodeStatistics, TransformReward
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordAll

from rlrun.api.evaluation import evaluate_policy
from rlrun.envs.batch import Environments
from rlrun.envs.vector import Played, VectorEnv

MODES = list(AutoresetMode)


class Count(gymnasium.Env):
    """Episode k takes `lengths[k]` steps; a step of it rewards `worth + k` plus the action.

    The observation is the number of the episode and the step in it.
    """

    metadata = {"render_modes": ["rgb_array", "human"]}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1000, (2,), np.float32)
    action_space = spaces.Discrete(100)

    def __init__(self, lengths, worth=0.0, by_time=False, render_mode=None):
        self.lengths, self.worth, self.by_time, self.render_mode = (
            lengths,
            worth,
            by_time,
            render_mode,
        )
        self.episode, self.step_, self.over, self.closed, self.drawn = -1, 0, True, False, 0

    def _obs(self):
        return np.array([self.episode, self.step_], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_, self.over = self.episode + 1, 0, False
        return self._obs(), {}

    def step(self, action):
        assert not self.over
        assert not self.closed
        self.step_ += 1
        self.over = self.step_ == self.lengths[self.episode]
        reward = self.worth + self.episode + float(action)
        return self._obs(), reward, self.over and not self.by_time, self.over and self.by_time, {}

    def render(self):
        self.drawn += 1
        return np.zeros((2, 2, 3), np.uint8)

    def close(self):
        self.closed = True


class Model:
    """Acts by the step it sees; the state counts the steps since `mask` was set."""

    def __init__(self):
        self.seen, self.masks, self.states, self.deterministic = [], [], [], set()

    def predict(self, observation, state=None, mask=None, deterministic=False):
        n = len(observation)
        assert mask.shape == (n,)
        assert mask.dtype == np.bool_
        state = np.zeros(n, int) if state is None else state
        state = np.where(mask, 0, state)
        self.seen.append(np.array(observation))
        self.masks.append(mask.tolist())
        self.states.append(state.tolist())
        self.deterministic.add(deterministic)
        return observation[:, 1].astype(np.int64), state + 1


def batch(mode, *lengths, wrap=lambda env: env, **kwargs):
    makers = [
        lambda own=own, env=env: wrap(Count(own, worth=100.0 * env, **kwargs))
        for env, own in enumerate(lengths)
    ]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def expected(env, episode, length):
    """Return of an episode: worth and episode at each step, and the actions 0, 1, 2, ..."""
    return length * (100.0 * env + episode) + length * (length - 1) / 2


LENGTHS = ([1, 4, 1, 2, 3, 5, 9, 9], [3, 3, 3, 9], [7, 1, 2, 9, 9, 9])


@pytest.mark.parametrize("by_time", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("episodes", [1, 2, 3, 8])
def test_each_environment_plays_its_share_of_whole_episodes(mode, episodes, by_time):
    envs, model = batch(mode, *LENGTHS, by_time=by_time), Model()
    pauses = mode is AutoresetMode.NEXT_STEP
    returns, lengths = evaluate_policy(model, envs, episodes, return_episode_rewards=True)
    played = [(k % 3, k // 3) for k in range(episodes)]
    assert lengths == [LENGTHS[env][episode] for env, episode in played]
    assert returns == [expected(e, k, LENGTHS[e][k]) for e, k in played]
    longest = max(sum(lengths[env::3]) + (len(lengths[env::3]) - 1) * pauses for env in range(3))
    assert len(model.seen) == longest  # and no step more
    assert all(type(length) is int for length in lengths)
    assert all(type(ret) is float for ret in returns)
    envs.close()


class Plain(gymnasium.vector.VectorEnv):
    """Does not say how it resets, which is in a step for it, and pays then, too."""

    def __init__(self, lengths):
        self.num_envs, self.lengths, self.t = len(lengths), np.array(lengths), None
        self.metadata = {}

    def _obs(self):
        return np.stack([np.zeros(self.num_envs), self.t], 1)

    def reset(self, *, seed=None, options=None):
        self.t = np.zeros(self.num_envs, int)
        return self._obs(), {}

    def step(self, actions):
        self.t = np.where(self.t == self.lengths, 0, self.t + 1)
        over = self.t == self.lengths
        return self._obs(), np.ones(self.num_envs), over, np.zeros_like(over), {}


def test_a_batch_that_does_not_say_how_it_resets_takes_a_step_for_it():
    model = Model()
    assert evaluate_policy(model, Plain([2, 3]), 4, return_episode_rewards=True) == (
        [2.0, 3.0, 2.0, 3.0],
        [2, 3, 2, 3],
    )
    assert model.states == [[t % 3, t % 4] for t in range(7)]


def test_batches_of_one_class_may_share_their_metadata():
    first, second = (batch(mode, *LENGTHS) for mode in (AutoresetMode.NEXT_STEP, "SameStep"))
    first.metadata = second.metadata  # as before Gymnasium 1.4
    _, lengths = evaluate_policy(Model(), first, 6, return_episode_rewards=True)
    assert lengths == [1, 3, 7, 4, 3, 1]


@pytest.mark.parametrize("mode", MODES)
def test_a_memory_begins_with_the_episode_in_every_mode(mode):
    model = Model()
    envs = batch(mode, *LENGTHS)
    evaluate_policy(model, envs, 9)
    first = [obs[:, 1] == 0 for obs in model.seen]
    assert model.masks == [row.tolist() for row in first]
    # Where an observation is acted on, the memory is as old as the episode.
    assert model.states == [obs[:, 1].tolist() for obs in model.seen]
    assert sum(map(sum, model.masks)) > 6


def test_a_single_environment_is_one_episode_after_the_other_and_stays_open():
    env = Count([2, 3, 1, 9])
    model = Model()
    assert evaluate_policy(model, env, 3, return_episode_rewards=True) == (
        [expected(0, k, n) for k, n in enumerate([2, 3, 1])],
        [2, 3, 1],
    )
    assert model.masks == [[True], [False], [True], [False], [False], [True]]
    gc.collect()
    assert not env.closed
    assert env.episode == 3  # reset after the last one, not stepped on
    assert env.step_ == 0


def test_mean_and_standard_deviation():
    mean, std = evaluate_policy(Model(), Count([1, 2, 4, 9]), 3)
    returns = [0.0, 3.0, 14.0]
    assert mean == pytest.approx(np.mean(returns))
    assert std == pytest.approx(np.std(returns))


def test_an_environment_of_gymnasium():
    class Left:
        def predict(self, observation, state, mask, deterministic):
            return np.zeros(len(observation), np.int64), None

    def lengths(env):
        env.reset(seed=3)
        returns, lengths = evaluate_policy(Left(), env, 4, return_episode_rewards=True)
        assert returns == lengths
        return lengths

    one = gymnasium.make("CartPole-v1")
    first = lengths(one)
    assert first == lengths(one)  # the seed decides
    assert all(7 < length < 12 for length in first)
    assert max(lengths(gymnasium.make_vec("CartPole-v1", 2))) < 12
    long = gymnasium.make("MountainCar-v0", max_episode_steps=20)
    assert evaluate_policy(Left(), long, 2) == (-20.0, 0.0)


def test_environments_in_processes():
    envs = AsyncVectorEnv([lambda: Count([2, 3, 9]), lambda: Count([4, 1, 9], worth=100.0)])
    try:
        _, lengths = evaluate_policy(Model(), envs, 4, return_episode_rewards=True)
        assert lengths == [2, 4, 3, 1]
    finally:
        envs.close()


def dict_space_env():
    return gymnasium.wrappers.TransformObservation(
        Count([2, 3, 9]),
        lambda obs: {"where": obs, "rest": (obs[:1], 1)},
        spaces.Dict(
            where=Count.observation_space,
            rest=spaces.Tuple([spaces.Box(-1, 1000, (1,), np.float32), spaces.Discrete(2)]),
        ),
    )


def test_observations_of_dict_and_tuple_spaces():
    class Reads(Model):
        def predict(self, observation, *args):
            assert observation["rest"][0].shape == (1, 1)
            return super().predict(observation["where"], *args)

    _, lengths = evaluate_policy(Reads(), dict_space_env(), 2, return_episode_rewards=True)
    assert lengths == [2, 3]


@pytest.mark.parametrize("deterministic", [True, False])
def test_how_actions_are_chosen_is_handed_on(deterministic):
    model = Model()
    evaluate_policy(model, Count([2, 2]), 1, deterministic=deterministic)
    assert model.deterministic == {deterministic}


class Lives(VectorEnv):
    """A step pays 50. Every 2nd step a life is lost, every `game`-th step a game."""

    def __init__(self, games):
        self.games, self.t = np.array(games), np.zeros(len(games), int)
        super().__init__(len(games), Count.observation_space, Count.action_space, 1, seed=0)

    def _look(self):
        return np.stack([np.zeros(self.n_envs), self.t], 1).astype(np.float32)

    def _reset(self, mask, seeds):
        self.t[mask] = 0
        return self._look()

    def _play(self, actions):
        self.t += 1
        over = self.t == self.games
        life = over | (self.t % 2 == 0)
        return Played(self._look(), np.full(self.n_envs, 50.0), life, np.zeros_like(life), over)

    def render(self):
        raise NotImplementedError

    def close(self):
        pass


@pytest.mark.parametrize("wrap", [lambda envs: envs, VectorWrapper])
def test_a_lost_life_is_not_the_end_of_a_game(wrap):
    model, envs = Model(), wrap(Environments(Lives([5, 3])))
    assert evaluate_policy(model, envs, 4, return_episode_rewards=True) == (
        [250.0, 150.0, 250.0, 150.0],
        [5, 3, 5, 3],
    )
    assert model.states == [[t % 5, t % 3] for t in range(10)]  # nor of what is remembered


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("recorded", ["each", "all"])
def test_recorded_returns_are_taken_for_what_the_environment_paid(mode, recorded):
    def clipped(env):
        env = RecordEpisodeStatistics(env) if recorded == "each" else env
        return TransformReward(env, np.sign) if recorded == "each" else env

    envs = batch(mode, *LENGTHS, wrap=clipped)
    if recorded == "all":
        envs = RecordAll(envs)
    returns, lengths = evaluate_policy(Model(), envs, 6, return_episode_rewards=True)
    played = [(k % 3, k // 3) for k in range(6)]
    assert lengths == [LENGTHS[env][episode] for env, episode in played]
    assert returns == pytest.approx([expected(e, k, LENGTHS[e][k]) for e, k in played])


def test_a_recorded_single_environment():
    env = TransformReward(RecordEpisodeStatistics(Count([2, 3, 9], worth=7.0)), lambda r: 0.0)
    returns, lengths = evaluate_policy(Model(), env, 2, return_episode_rewards=True)
    assert returns == pytest.approx([2 * 7 + 1, 3 * 8 + 3])
    assert lengths == [2, 3]


def test_the_callback_sees_every_step():
    told = []

    def callback(locals_, globals_):
        told.append((float(locals_["rewards"][0]), sum(map(len, locals_["episode_rewards"]))))
        assert locals_["model"] is model
        return False  # which stops nothing here

    model = Model()
    evaluate_policy(model, Count([2, 1, 9], worth=1.0), 2, callback=callback)
    assert told == [(1.0, 0), (2.0, 1), (2.0, 2)]


def test_a_threshold_has_to_be_passed():
    assert evaluate_policy(Model(), Count([2, 9]), 1, reward_threshold=0.5)[0] == 1.0
    with pytest.raises(ValueError, match=r"is 1\.00, not above .* 1\.00"):
        evaluate_policy(Model(), Count([2, 9]), 1, reward_threshold=1.0)


def test_drawing():
    env = Count([3, 9], render_mode="rgb_array")
    evaluate_policy(Model(), env, 1, render=True)
    assert env.drawn == 3
    env = Count([3, 9], render_mode="human")  # which draws in its own steps
    evaluate_policy(Model(), env, 1, render=True)
    assert env.drawn == 0
    with pytest.raises(ValueError, match="render_mode"):
        evaluate_policy(Model(), Count([3]), 1, render=True)


@pytest.mark.parametrize("render", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_environments_made_from_an_id_are_closed(monkeypatch, render, fails):
    made, calls = [], []

    def make_vec_env(env_id, n_envs=1, seed=None, env_kwargs=None):
        calls.append((env_id, n_envs, seed, env_kwargs))
        lengths = [[2, 2, 2, 9]] * n_envs
        kwargs = env_kwargs or {}
        made.append(batch(AutoresetMode.SAME_STEP, *lengths, **kwargs))
        return made[-1]

    module = ModuleType("rlrun.api.envs")
    module.make_vec_env = make_vec_env
    monkeypatch.setitem(sys.modules, "rlrun.api.envs", module)

    class Breaks(Model):
        def predict(self, *args):
            if fails:
                raise ZeroDivisionError
            return super().predict(*args)

    for _ in range(2):
        try:
            evaluate_policy(Breaks(), "Some-v0", 3, render=render)
        except ZeroDivisionError:
            assert fails
    assert [envs.envs[0].closed for envs in made] == [True, True]
    assert calls[0] == calls[1]  # the same episodes each time
    assert calls[0][:2] == ("Some-v0", 1 if render else 3)
    assert calls[0][2] is not None
    assert calls[0][3] == ({"render_mode": "human"} if render else None)


@pytest.mark.parametrize("episodes", [0, -1])
def test_no_episodes(episodes):
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_policy(Model(), Count([2]), episodes)


def test_something_else_than_an_environment():
    with pytest.raises(TypeError, match="not list"):
        evaluate_policy(Model(), [Count([2])])


def test_arguments_stand_where_users_of_stable_baselines_expect_them():
    assert list(inspect.signature(evaluate_policy).parameters) == [
        "model",
        "env",
        "n_eval_episodes",
        "deterministic",
        "render",
        "callback",
        "reward_threshold",
        "return_episode_rewards",
    ]
