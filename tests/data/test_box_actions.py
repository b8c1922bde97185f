"""Actions in boxes on their way from the policy to the environments, and back when resumed."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.data.collector import Collector
from rlrun.envs import make_vec
from rlrun.policies.actor import Acted
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator

LOW = np.array([[-1.0, -2.0, 0.0], [-0.5, -3.0, -np.inf]])
HIGH = np.array([[1.0, 0.5, 0.25], [0.5, np.inf, np.inf]])
MIDDLE = np.array([[0.0, -0.75, 0.125], [0.0, 0.0, 0.0]])
HALF_WIDTH = np.array([[1.0, 1.25, 0.125], [0.5, 1.0, 1.0]])


class Recorder(gymnasium.Env):
    """Observes the action that it was given last, and keeps all of them."""

    def __init__(self, dtype="float32", flat=False):
        low, high = (LOW[0], HIGH[0]) if flat else (LOW, HIGH)
        self.action_space = spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
        shape = self.action_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.given = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.action_space.shape, np.float32), {}

    def step(self, action):
        self.given.append(np.array(action))
        return action.astype(np.float32), float(action.sum()), False, False, {}


gymnasium.register("BoxRecorder-v0", entry_point=Recorder, disable_env_checker=True)


def recorders(envs):
    return [env.unwrapped for env in envs._batch.envs]


def normal_act(scale=2.0):
    """Actions far out of bounds, and the six numbers in their natural order."""

    def act(observations, reset, state, rng):
        size = observations.flatten(1).shape[1]
        actions = scale * torch.randn(len(observations), size, generator=rng)
        return Acted(actions, torch.cat([actions, torch.zeros_like(actions)], -1), state)

    return act


def collected(dtype="float32", flat=False, n_envs=3, steps=4):
    envs = make_vec("BoxRecorder-v0", n_envs, 0, {"dtype": dtype, "flat": flat})
    size = 3 if flat else 6
    collector = Collector(envs, steps, 2 * size, 0, False, torch.Generator().manual_seed(0))
    collector.reset()
    rollout = collector.collect(normal_act())
    given = np.stack([env.given for env in recorders(envs)], axis=1)
    envs.close()
    return rollout, given


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flat", [True, False], ids=["vector", "matrix"])
def test_actions_are_kept_as_drawn_and_sent_clipped(dtype, flat):
    rollout, given = collected(dtype, flat)
    low, high = (LOW[0], HIGH[0]) if flat else (LOW, HIGH)
    middle, half_width = (MIDDLE[0], HALF_WIDTH[0]) if flat else (MIDDLE, HALF_WIDTH)
    assert rollout.actions.dtype == torch.float32
    assert rollout.actions.shape == (4, 3, low.size)
    assert torch.equal(rollout.actions, rollout.behaviour[..., : low.size])
    assert given.dtype == dtype
    assert given.shape == (4, 3, *low.shape)
    meant = middle + half_width * rollout.actions.double().numpy().reshape(given.shape)
    assert np.array_equal(given, np.clip(meant, low, high).astype(dtype))
    assert ((meant < low) & (given == low)).any()
    assert ((meant > high) & (given == high)).any()
    assert ((meant > low) & (meant < high) & (half_width < 1)).any()


def test_numbers_without_a_bound_are_sent_as_drawn():
    rollout, given = collected()
    raw = rollout.actions.numpy().reshape(given.shape)
    assert np.array_equal(given[..., 1, 2], raw[..., 1, 2])
    assert np.abs(raw[..., 1, 2]).max() > 2.0


def test_environments_get_their_own_actions():
    rollout, given = collected(n_envs=5)
    # The environment shows what it was given: row by row that of the same environment.
    shown = rollout.observations[1:].numpy()
    assert np.array_equal(shown, given)
    assert len({row.tobytes() for row in given.reshape(-1, 6)}) == 20


def test_what_the_environment_is_sent_is_not_what_is_journaled():
    """The journal holds what was drawn: it is clipped once more on the way back."""
    envs = make_vec("BoxRecorder-v0", 2, 0, {})
    envs.reset()
    action = 9.0 * torch.ones(2, 6)
    envs.step(action.numpy())
    journal = envs.state_dict()["actions"]
    assert all((journal[str(env)] == 9.0).all() for env in range(2))
    other = make_vec("BoxRecorder-v0", 2, 0, {})
    other.load_state_dict(copy.deepcopy(envs.state_dict()))
    for a, b in zip(recorders(envs), recorders(other), strict=True):
        assert np.array_equal(a.given[-1], b.given[-1])
    for each in (envs, other):
        each.close()


def test_actions_of_the_caller_are_copied_into_the_journal():
    envs = make_vec("BoxRecorder-v0", 2, 0, {})
    envs.reset()
    action = np.ones((2, 6), np.float32)
    envs.step(action)
    action[:] = 7.0
    assert (envs.state_dict()["actions"]["0"] == 1.0).all()
    envs.close()


# Pendulum, by the network that acts in it.


def pendulum(seed=0, n_envs=3, steps=8, limit=30):
    envs = make_vec("Pendulum-v1", n_envs, seed, {"max_episode_steps": limit})
    heads = ActorCritic.heads(envs.action_space)
    policy = MlpPolicy(envs.observation_space, heads, generator(0, "init"), hidden=[8])
    network = ActorCritic(policy, envs.action_space, log_std_init=0.5)
    rng = torch.Generator().manual_seed(seed)
    collector = Collector(envs, steps, network.n_statistics, 0, False, rng)
    return collector, network


def collect(collector, network):
    ended = []
    rollout = collector.collect(network.act, lambda step: ended.append(step.episodes) or True)
    return type(rollout)(
        **{name: value.clone() for name, value in rollout.tensors().items()}
    ), ended


@pytest.mark.parametrize("segments", [0, 1, 3, 4, 9])
def test_a_restored_collector_goes_on_bit_for_bit(segments):
    collector, network = pendulum()
    collector.reset()
    for _ in range(segments):
        collect(collector, network)
    state = copy.deepcopy(collector.state_dict())
    other, _ = pendulum()
    other.rng.manual_seed(99)
    assert other.load_state_dict(state) is True
    truncations = 0
    for _ in range(6):
        (expected, ended), (rollout, same) = (collect(c, network) for c in (collector, other))
        truncations += len(expected.final_index)
        assert same == ended
        for name, value in expected.tensors().items():
            assert torch.equal(getattr(rollout, name), value), name
    assert truncations
    for each in (collector, other):
        each.envs.close()


def test_environments_in_different_steps_of_their_episodes_are_restored_together():
    collector, network = pendulum()
    collector.reset()
    mask = np.array([False, True, False])
    for _ in range(2):
        collect(collector, network)
    collector.envs._begin_episodes(mask, mask)  # environment 1 begins anew, the others go on
    collect(collector, network)
    state = copy.deepcopy(collector.state_dict())
    assert [len(state["envs"]["actions"][str(env)]) for env in range(3)] == [24, 8, 24]
    other, _ = pendulum()
    assert other.load_state_dict(state) is True
    (expected, _), (rollout, _) = (collect(c, network) for c in (collector, other))
    assert torch.equal(rollout.observations, expected.observations)


def test_the_statistics_are_of_the_pass_that_drew_the_actions():
    collector, network = pendulum()
    collector.reset()
    rollout, _ = collect(collector, network)
    rng = torch.Generator().manual_seed(0)
    for t in range(8):
        actions, statistics, _ = network.act(
            rollout.observations[t], rollout.reset[t], rollout.state, rng
        )
        assert torch.equal(rollout.actions[t], actions)
        assert torch.equal(rollout.behaviour[t], statistics)
    assert rollout.behaviour.shape == (8, 3, 2)
