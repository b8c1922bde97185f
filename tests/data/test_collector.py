"""Segments against a script that says what every environment does at every step."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.data.collector import Collector
from rlrun.envs import Episode, ReplayMismatch, VectorEnv, make_vec
from rlrun.envs.vector import Played
from rlrun.run.training import Ended

ENVS, STEPS, ACTIONS, STATE = 3, 4, 5, 2
SCRIPT = {
    (0, 1): "truncated",
    (1, 2): "life lost",
    (2, 0): "truncated",  # two at once, after one of another environment
    (2, 2): "truncated",
    (3, 1): "terminated",  # in the last step of a segment
    (4, 2): "terminated",
    (5, 1): "life lost",
    (7, 0): "truncated",
}
"""What happens at (step, environment), over two segments."""


class Scripted(VectorEnv):
    """Observes (environment, its episode, steps so far); writes over what it gave before."""

    def __init__(self, broken=None, dtype=np.int16):
        space = spaces.Box(0, 99, (3,), dtype)
        super().__init__(ENVS, space, spaces.Discrete(ACTIONS), 1, 0)
        self.t, self.taken, self.broken = 0, [], broken
        self.now = np.zeros((ENVS, 3), dtype)
        self.now[:, 0] = range(ENVS)

    def _reset(self, mask, seeds):
        self.now[mask, 1] = self._episode[mask]
        return self.now

    def _play(self, actions):
        self.taken.append(actions)
        events = [SCRIPT.get((self.t, env), "") for env in range(ENVS)]
        self.now[:, 2] = self.t + 1
        reward = np.array([reward_of(self.t, env) for env in range(ENVS)])
        self.t += 1

        def where(*names):
            return np.array([event in names for event in events])

        return Played(
            self.now,
            reward,
            where("terminated", "life lost"),
            where("truncated"),
            where("terminated", "truncated"),
        )

    def state_dict(self):
        names = ("t", "now", "_episode", "_returns", "_lengths")
        return {name: np.copy(getattr(self, name)) for name in names}

    def load_state_dict(self, state):
        for name, value in state.items():
            setattr(self, name, value.copy())
        self.t = int(self.t)
        if self.broken:
            self.now[:, 2] = 88  # somewhere else
            raise self.broken("not where it was")
        return self.now

    def close(self):
        pass


def reward_of(t, env):
    """Of both signs, zero, and between 0 and 1."""
    return (10 * t + env) * (-1) ** env / 4


def behaviour_of(observations):
    """Probabilities that tell every observation from every other."""
    env, episode, t = observations.double().unbind(-1)
    rest = [torch.full_like(env, 0.1), env / 50, episode / 50, t / 50]
    return torch.stack([*rest, 1 - sum(rest)], dim=-1).float()


def state_after(observations, reset, state):
    """A state that tells what was seen since the episode began."""
    return 0.5 * state * ~reset.unsqueeze(-1) + 1.0 + observations[:, [0, 2]]


def act(observations, reset, state, rng):
    """Random actions that depend on the observations, too."""
    draw = torch.randint(0, ACTIONS, (ENVS,), generator=rng)
    actions = (draw + observations[:, 2]) % ACTIONS
    return actions, behaviour_of(observations), state_after(observations, reset, state)


def collector_of(envs=None, clip_rewards=False, seed=3):
    rng = torch.Generator().manual_seed(seed)
    return Collector(envs or Scripted(), STEPS, ACTIONS, STATE, clip_rewards, rng)


def collect(collector, act=act):
    """A segment that stays as it is, whatever the collector does next, and what ended."""
    steps, ended = 0, []

    def watch(step):
        nonlocal steps
        steps += ENVS
        ended.extend(Ended(steps, episode) for episode in step.episodes)
        return True

    rollout = collector.collect(act, watch)
    assert steps == STEPS * ENVS
    return copied(rollout), ended


def copied(rollout):
    return type(rollout)(**{name: value.clone() for name, value in rollout.tensors().items()})


@pytest.fixture
def collector():
    collector = collector_of()
    collector.reset()
    return collector


def observed(t):
    """What the environments give before step `t`: each reset begins an episode."""
    resets = [(s, env) for (s, env), event in SCRIPT.items() if event != "life lost"]
    episodes = [sum(s < t and e == env for s, e in resets) for env in range(ENVS)]
    return torch.tensor([[env, episodes[env], t] for env in range(ENVS)], dtype=torch.int16)


def happened(*events, start):
    steps = range(start, start + STEPS)
    return torch.tensor([[SCRIPT.get((t, env)) in events for env in range(ENVS)] for t in steps])


@pytest.mark.parametrize("segment", [0, 1])
def test_every_step_is_what_the_environments_gave(collector, segment):
    for _ in range(segment + 1):
        rollout, _ = collect(collector)
    start = segment * STEPS
    whole = torch.stack([observed(t) for t in range(start, start + STEPS + 1)])
    assert rollout.observations.dtype == torch.int16
    assert torch.equal(rollout.observations, whole)
    rewards = [[reward_of(t, env) for env in range(ENVS)] for t in range(start, start + STEPS)]
    assert torch.equal(rollout.rewards, torch.tensor(rewards))
    assert torch.equal(rollout.terminated, happened("terminated", "life lost", start=start))
    assert torch.equal(rollout.truncated, happened("truncated", start=start))
    assert torch.equal(rollout.reset[1:], happened("terminated", "truncated", start=start))


def test_actions_and_their_probabilities_are_of_the_same_observation(collector):
    asked, drawn = [], []

    def noted(observations, reset, state, rng):
        assert rng is collector.rng
        actions, behaviour, state = act(observations, reset, state, rng)
        asked.append(observations.clone())
        drawn.append(actions.clone())
        return actions, behaviour, state

    for segment in range(2):
        rollout, _ = collect(collector, noted)
        steps = slice(segment * STEPS, (segment + 1) * STEPS)
        assert torch.equal(torch.stack(asked[steps]), rollout.observations[:-1])
        assert torch.equal(torch.stack(drawn[steps]), rollout.actions)
        assert np.array_equal(collector.envs.taken[steps], rollout.actions.numpy())
        assert torch.equal(rollout.behaviour, behaviour_of(rollout.observations[:-1]))
    assert rollout.actions.dtype == torch.int64
    assert len({tuple(actions.tolist()) for actions in drawn}) > 3


def test_the_recurrent_state_goes_on_from_step_to_step_and_is_told_once_a_segment(collector):
    asked = []

    def noted(observations, reset, state, rng):
        asked.append((reset.clone(), state.clone()))
        return act(observations, reset, state, rng)

    state = torch.zeros(ENVS, STATE)
    for segment in range(3):
        rollout, _ = collect(collector, noted)
        assert torch.equal(rollout.state, state)
        for t in range(STEPS):
            reset, given = asked[segment * STEPS + t]
            assert torch.equal(reset, rollout.reset[t])
            assert torch.equal(given, state)
            state = state_after(rollout.observations[t], reset, state)
    assert len(asked) == 3 * STEPS


def test_a_segment_begins_where_the_last_one_ended(collector):
    first, _ = collect(collector)
    assert first.reset[0].all()
    second, _ = collect(collector)
    assert torch.equal(second.observations[0], first.observations[-1])
    assert second.reset[0].tolist() == first.reset[-1].tolist() == [False, True, False]


def test_last_observations_are_those_before_the_reset(collector):
    first, _ = collect(collector)
    assert first.final_index.tolist() == [[0, 1], [2, 0], [2, 2]]
    assert first.final_observations.tolist() == [[1, 0, 1], [0, 0, 3], [2, 0, 3]]
    second, _ = collect(collector)
    assert second.final_index.tolist() == [[3, 0]]
    assert second.final_observations.tolist() == [[0, 1, 8]]


def test_last_observations_outlive_the_next_segment(collector):
    """Unlike the other tensors, which are written over; a memory may hold them as they are."""
    rollout = collector.collect(act)
    finals, index = rollout.final_observations, rollout.final_index
    before = finals.clone(), index.clone()
    collector.collect(act)
    assert torch.equal(finals, before[0])
    assert torch.equal(index, before[1])


def test_a_segment_without_truncations_has_empty_last_observations(collector):
    for _ in range(3):
        rollout, ended = collect(collector)
    assert ended == []
    assert rollout.final_observations.shape == (0, 3)
    assert rollout.final_observations.dtype == torch.int16
    assert rollout.final_index.shape == (0, 2)
    assert rollout.final_index.dtype == torch.int64


def test_episodes_end_at_the_steps_of_all_environments_so_far(collector):
    def episode(env, begin, end):
        """The one of the steps `begin` to `end`, both included."""
        steps = range(begin, end + 1)
        return Episode(env, sum(reward_of(t, env) for t in steps), len(steps))

    _, first = collect(collector)
    assert first == [
        Ended(3, episode(1, 0, 0)),
        Ended(9, episode(0, 0, 2)),
        Ended(9, episode(2, 0, 2)),  # went on after the lost life
        Ended(12, episode(1, 1, 3)),
    ]
    _, second = collect(collector)
    assert second == [Ended(3, episode(2, 3, 4)), Ended(12, episode(0, 3, 7))]


def test_clipping_leaves_the_signs_to_learn_from_and_the_returns_raw(collector):
    clipping = collector_of(clip_rewards=True)
    clipping.reset()
    for _ in range(2):
        (raw, ended), (clipped, same) = collect(collector), collect(clipping)
        assert torch.equal(clipped.rewards, raw.rewards.sign())
        assert raw.rewards.abs().max() > 1
        assert ended == same


def test_a_restored_collector_goes_on_the_same(collector):
    collect(collector)
    state = collector.state_dict()
    expected, ended = collect(collector)  # and leaves the state as it was
    other = collector_of(seed=8)
    assert other.load_state_dict(state) is True
    rollout, same = collect(other)
    for name, value in expected.tensors().items():
        assert torch.equal(getattr(rollout, name), value), name
    assert same == ended
    # Its own environments, not those of a collector that lives on:
    assert torch.equal(collect(other)[0].actions, collect(collector)[0].actions)


def test_environments_that_cannot_be_replayed_begin_new_episodes(collector):
    collect(collector)
    state = collector.state_dict()
    draws = collector.rng.get_state()
    other = collector_of(Scripted(broken=ReplayMismatch), seed=8)
    other.reset()
    collect(other)
    assert other.load_state_dict(state) is False
    assert torch.equal(other.rng.get_state(), draws)
    rollout, _ = collect(other)
    assert rollout.reset[0].all()
    # Episodes 1, 2 and 1 were under way, and the environments stand at the wrong step.
    assert rollout.observations[0].tolist() == [[0, 2, 88], [1, 3, 88], [2, 2, 88]]


def test_other_failures_of_the_environments_are_not_taken_for_a_mismatch(collector):
    other = collector_of(Scripted(broken=ValueError))
    with pytest.raises(ValueError, match="not where it was"):
        other.load_state_dict(collector.state_dict())


def test_observations_of_double_precision_are_kept_in_single(collector):
    double = collector_of(Scripted(dtype=np.float64))
    double.reset()
    rollout, _ = collect(double)
    expected, _ = collect(collector)
    assert torch.equal(rollout.observations, expected.observations.float())
    assert torch.equal(rollout.final_observations, expected.final_observations.float())
    assert rollout.observations.dtype == rollout.final_observations.dtype == torch.float32


def test_observations_that_are_plain_numbers():
    envs = make_vec("tests.tasks:Identity-v0", 2, seed=0)
    collector = Collector(envs, 100, 10, 0, False, torch.Generator())
    collector.reset()
    uniform = torch.full((2, 10), 0.1)
    episodes = []
    rollout = collector.collect(
        lambda observations, reset, state, rng: (observations, uniform, state),
        lambda step: episodes.append(step.episodes) or True,
    )
    envs.close()
    assert rollout.observations.shape == (101, 2)
    assert rollout.observations.dtype == torch.int64
    assert (rollout.rewards == 1).all()
    assert rollout.final_observations.shape == (2,)
    assert rollout.final_index.tolist() == [[99, 0], [99, 1]]
    assert episodes == [[]] * 99 + [[Episode(env, 100.0, 100) for env in range(2)]]
