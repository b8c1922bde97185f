"""Evaluations: who plays how many episodes, with which actions, and what is made of them."""

import json

import numpy as np
import pytest
import torch

from rlrun.envs import Episode
from rlrun.envs.vector import Step
from rlrun.policies.actor import Acted
from rlrun.run.evaluate import Evaluation, evaluate_policy
from rlrun.run.signals import StopRequest


class ScriptedEnvs:
    """Episodes of environment `e` take `lengths[e]` steps; the k-th returns 100 e + k."""

    def __init__(self, lengths, on_step=lambda t: None):
        self.n_envs, self.lengths, self.on_step = len(lengths), lengths, on_step
        self.t, self.closed, self.taken = None, 0, []

    def _obs(self):
        return np.array([[env, self.t] for env in range(self.n_envs)], np.float32)

    def reset(self):
        assert self.t is None
        self.t = 0
        return self._obs()

    def step(self, actions):
        assert not self.closed
        self.taken.append(actions.tolist())
        self.t += 1
        self.on_step(self.t)
        over = np.array([self.t % length == 0 for length in self.lengths])
        episodes = [
            Episode(env, 100.0 * env + self.t // self.lengths[env] - 1, self.lengths[env])
            for env in np.flatnonzero(over).tolist()
        ]
        reward = np.zeros(self.n_envs, np.float32)
        return Step(self._obs(), reward, over, np.zeros_like(over), over, {}, episodes)

    def close(self):
        self.closed += 1


class Policy:
    """Greedy actions are made of the observation; drawn ones of the generator, from 1000 on.

    The recurrent state counts the steps of the episode.
    """

    state_size = 1

    def __init__(self):
        self.generators, self.resets, self.states = [], [], []

    def act(self, observations, reset, state, rng):
        self.resets.append(reset.tolist())
        self.states.append(state.flatten().tolist())
        state = state * ~reset.unsqueeze(-1) + 1
        actions = (observations[:, 0] + 10 * observations[:, 1]).long()
        if rng is not None:
            self.generators.append(rng)
            actions += torch.randint(1000, 9999, (len(observations),), generator=rng)
        return Acted(actions, torch.empty(len(observations), 2), state)


def generator():
    return torch.Generator().manual_seed(5)


def evaluate(envs, episodes, deterministic=True, policy=None, rng=None, stop=None):
    stop = StopRequest() if stop is None else stop  # which is falsy, too
    policy, rng = policy or Policy(), rng or generator()
    return evaluate_policy(policy, envs, episodes, deterministic, rng, stop)


@pytest.mark.parametrize("lengths", [(1, 2, 3), (3, 2, 1), (1, 9, 1), (4, 4, 4)])
@pytest.mark.parametrize("episodes", [1, 2, 3, 7])
def test_every_environment_plays_a_share_fixed_beforehand(lengths, episodes):
    """However many more a quick environment has played by then, episode k is one of k mod n."""
    envs = ScriptedEnvs(lengths)
    evaluation = evaluate(envs, episodes)
    order = [(k % 3, k // 3) for k in range(episodes)]
    assert evaluation.returns == [100.0 * env + number for env, number in order]
    assert evaluation.lengths == [lengths[env] for env, _ in order]
    # And no longer than that.
    assert envs.t == max(lengths[env] * (number + 1) for env, number in order)
    assert envs.closed == 1


def test_greedy_actions_follow_the_observations_and_draw_nothing():
    envs, policy, rng = ScriptedEnvs((3, 3)), Policy(), generator()
    assert evaluate(envs, 2, True, policy, rng).deterministic is True
    assert envs.taken == [[0, 1], [10, 11], [20, 21]]
    assert policy.generators == []
    assert torch.equal(rng.get_state(), generator().get_state())


def test_drawn_actions_come_from_the_given_generator():
    envs, policy, rng = ScriptedEnvs((3, 3)), Policy(), generator()
    assert evaluate(envs, 2, False, policy, rng).deterministic is False
    assert len(policy.generators) == 3
    assert all(given is rng for given in policy.generators)
    same = generator()
    draws = [torch.randint(1000, 9999, (2,), generator=same) for _ in range(3)]
    assert envs.taken == [[a + 10 * t, b + 10 * t + 1] for t, (a, b) in enumerate(draws)]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_policy_is_told_of_resets_and_gets_its_state_back(deterministic):
    envs, policy = ScriptedEnvs((2, 3)), Policy()
    evaluate(envs, 4, deterministic, policy)
    over = [[t % length == 0 for length in (2, 3)] for t in range(6)]
    assert policy.resets == over
    # It is for the policy to begin anew: it gets the state of the episode that has ended.
    expected = [[(t - 1) % length + 1 if t else 0 for length in (2, 3)] for t in range(6)]
    assert policy.states == expected


@pytest.mark.parametrize("after", [0, 2])
def test_a_stop_ends_it_at_once_and_without_a_result(after):
    stop = StopRequest()

    def request(t):
        stop.signal = 2 if t >= after else None

    request(0)
    envs = ScriptedEnvs((1, 5), request)
    assert evaluate(envs, 4, stop=stop) is None
    assert (envs.t, envs.closed) == (after, 1)


def test_a_stop_after_the_last_step_does_not_lose_the_result():
    stop = StopRequest()

    def request(t):
        stop.signal = 2 if t == 5 else None

    assert evaluate(ScriptedEnvs((1, 5), request), 2, stop=stop).returns == [0.0, 100.0]


def test_environments_are_closed_when_they_fail():
    def fail(t):
        raise RuntimeError("injected")

    envs = ScriptedEnvs((1, 1), fail)
    with pytest.raises(RuntimeError, match="injected"):
        evaluate(envs, 2)
    assert envs.closed == 1


def test_environments_are_closed_when_the_policy_fails():
    class Broken(Policy):
        def act(self, observations, reset, state, rng):
            raise RuntimeError("injected")

    envs = ScriptedEnvs((1, 1))
    with pytest.raises(RuntimeError, match="injected"):
        evaluate(envs, 2, policy=Broken())
    assert envs.closed == 1


def test_the_summary_of_an_evaluation():
    evaluation = Evaluation([1.0, 2.0, 6.0, 11.0], [10, 20, 30, 60], deterministic=True)
    assert evaluation.mean == 5.0
    assert evaluation.std == np.sqrt(15.5)  # of these episodes, not an estimate for all
    expected = {
        "return_mean": 5.0,
        "return_std": np.sqrt(15.5),
        "episodes": 4,
        "deterministic": True,
        "returns": [1.0, 2.0, 6.0, 11.0],
        "length_mean": 30.0,
    }
    assert json.loads(json.dumps(evaluation.to_json())) == expected


def test_a_single_episode_has_no_spread():
    assert Evaluation([3.0], [4], deterministic=False).std == 0.0


def test_it_is_broken_off_for_a_checkpoint_that_is_wanted_at_once():
    stop = StopRequest()

    def request(t):
        stop.save = t >= 2

    envs = ScriptedEnvs((1, 5), request)
    assert evaluate(envs, 4, stop=stop) is None
    assert (envs.t, envs.closed) == (2, 1)
