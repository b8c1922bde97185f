"""Segments that are collected with interruptions, and environments that others step in between."""

import copy
import itertools

import numpy as np
import pytest
import torch
from test_collector import ACTIONS, ENVS, SCRIPT, STATE, STEPS, Scripted, act, collector_of, copied
from test_replay import check_equal

from rlrun.data.collector import Collector
from rlrun.data.replay import ReplayMemory
from rlrun.envs import ReplayMismatch, make_vec
from rlrun.run.checkpoint import Checkpointer
from rlrun.spaces import acting

SEGMENTS = 3


def interrupted(collector, stops, act=act, between=lambda collector: collector):
    """Three segments and all steps, with a stop after each of the steps `stops`, from 1.

    After a stop the collector that `between` gives goes on.
    """
    rollouts, told, calls = [], [], 0

    def watch(step):
        told.append((step.obs.copy(), step.reward.copy(), step.episodes))
        return len(told) not in stops

    while len(rollouts) < SEGMENTS:
        rollout = collector.collect(act, watch)
        calls += 1
        if rollout is None:
            collector = between(collector)
        else:
            rollouts.append(copied(rollout))
    assert calls == SEGMENTS + len(stops)
    return rollouts, told


def assert_same(found, expected):
    (rollouts, told), (others, before) = found, expected
    assert len(told) == len(before) == SEGMENTS * STEPS
    for now, then in zip(told, before, strict=True):
        assert all(map(np.array_equal, now[:2], then[:2]))
        assert now[2] == then[2]
    for rollout, other in zip(rollouts, others, strict=True):
        for name, value in other.tensors().items():
            assert torch.equal(getattr(rollout, name), value), name
            assert getattr(rollout, name).dtype == value.dtype, name


def all_stops(last):
    steps = range(1, last + 1)
    return itertools.chain(*(itertools.combinations(steps, n) for n in range(len(steps) + 1)))


@pytest.mark.parametrize("clip_rewards", [False, True])
def test_any_stops_leave_the_segments_as_they_are(clip_rewards):
    """All 256 choices of steps to stop after, in two segments; the last step of each is one."""
    undisturbed = collector_of(clip_rewards=clip_rewards)
    expected = interrupted(undisturbed, ())
    assert len(expected[0][0].final_index) == 3
    for stops in all_stops(2 * STEPS):
        collector = collector_of(clip_rewards=clip_rewards)
        assert_same(interrupted(collector, stops), expected)
        assert np.array_equal(collector.envs.taken, undisturbed.envs.taken)
        assert torch.equal(collector.rng.get_state(), undisturbed.rng.get_state())


def test_a_stop_after_the_last_step_of_a_segment_takes_no_further_step():
    collector = collector_of()
    steps = []
    assert collector.collect(act, lambda step: steps.append(1) or len(steps) < STEPS) is None
    assert len(collector.envs.taken) == STEPS
    rollout = collector.collect(act, lambda step: pytest.fail("a step"))
    assert rollout is not None
    assert len(collector.envs.taken) == STEPS


# Through a state, with environments that are brought back by their journals.

LENGTH = 4


def every_act(observations, reset, state, rng):
    """Boxed actions that depend on the observation and on the memory of the episode."""
    state = 0.5 * state * ~reset.unsqueeze(-1) + observations[:, :STATE] + 1.0
    noise = torch.randn(len(observations), 3, generator=rng)
    actions = noise + observations.flip(-1) * state.sum(-1, keepdim=True)
    return actions, actions.square(), state


def every(seed=0):
    """Episodes of 5 or 7 steps, the former truncated."""
    kwargs = {"observation": "vector", "action": "bounded_box"}
    envs = make_vec("tests.tasks:Every-v0", ENVS, 0, kwargs)
    return Collector(envs, LENGTH, 3, STATE, False, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def undisturbed():
    found = interrupted(every(), (), every_act)
    assert any(len(rollout.final_index) for rollout in found[0])
    assert any(rollout.terminated.any() for rollout in found[0])
    return found


def reloading(folder):
    """Another collector, which takes over everything by way of the disk."""

    def reload(collector):
        checkpointer = Checkpointer(folder, keep=1)
        if checkpointer.paths():
            checkpointer.load(checkpointer.latest(), None)
        step = len(checkpointer.paths()) and int(checkpointer.latest().name[5:]) + 1
        path = checkpointer.save(step, {"collector": collector.state_dict()}, None, meta={})
        collector.envs.close()
        other = every(seed=99)
        state, _ = Checkpointer(folder, keep=1).load(path, None)
        assert other.load_state_dict(state["collector"]) is True
        return other

    return reload


@pytest.mark.parametrize(
    "stops",
    [*((t,) for t in range(1, SEGMENTS * LENGTH + 1)), (2, 3), range(1, SEGMENTS * LENGTH + 1)],
    ids=str,
)
def test_a_collector_restored_at_any_step_goes_on_bit_for_bit(tmp_path, undisturbed, stops):
    found = interrupted(every(), stops, every_act, reloading(tmp_path))
    assert_same(found, undisturbed)


@pytest.mark.parametrize("stop", range(SEGMENTS * LENGTH + 1))
def test_a_state_does_not_change_as_the_collector_goes_on(undisturbed, stop):
    collector = every()
    steps = []
    while len(steps) < stop:
        collector.collect(every_act, lambda step: steps.append(1) or len(steps) < stop)
    state = collector.state_dict()
    kept = copy.deepcopy(state)
    for _ in range(3):
        collector.collect(every_act)
    assert same(state, kept)
    other = every(seed=99)
    assert other.load_state_dict(state) is True
    last, rest = None, []
    while len(rest) < SEGMENTS * LENGTH - stop:
        last = other.collect(every_act, lambda step: rest.append(step.obs.copy()) or True)
    if last is not None:
        for name, value in undisturbed[0][-1].tensors().items():
            assert torch.equal(getattr(last, name), value), name


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def test_steps_in_hand_are_lost_with_environments_that_cannot_be_replayed():
    collector = collector_of()
    assert collector.collect(act, lambda step: len(collector.envs.taken) < 3) is None
    state = collector.state_dict()
    other = collector_of(Scripted(broken=ReplayMismatch), seed=8)
    assert other.load_state_dict(state) is False
    rollout = other.collect(act)
    assert rollout.reset[0].all()
    assert len(rollout.final_index) == (rollout.truncated).sum()
    assert len(other.envs.taken) == STEPS


def test_a_state_of_the_beginning_begins_anew_whatever_was_before():
    state = collector_of().state_dict()
    expected = copied(collector_of().collect(act))
    fresh = collector_of(seed=8)
    assert fresh.load_state_dict(state) is True
    for name, value in fresh.collect(act).tensors().items():
        assert torch.equal(value, getattr(expected, name)), name
    for steps in (2, STEPS):
        used = collector_of(seed=8)
        used.collect(act, lambda step, used=used, n=steps: len(used.envs.taken) < n)
        assert used.load_state_dict(state) is True
        episodes = used.envs._episode + 1
        rollout = used.collect(act)
        assert rollout.reset[0].all()
        assert rollout.observations[0, :, 1].tolist() == episodes.tolist()
        assert len(used.envs.taken) == steps + STEPS


# Others in the same environments.


def uses():
    """What somebody else may do with environments."""

    def step(envs):
        envs.step(np.zeros((ENVS, 3)))

    return {
        "reset": lambda envs: envs.reset(),
        "step": step,
        "steps over an end": lambda envs: [step(envs) for _ in range(8)],
        "reset and step": lambda envs: (envs.reset(), step(envs)),
        "reseed": lambda envs: envs.reseed(5),
        "another collector": lambda envs: Collector(
            envs, 2, 3, STATE, False, torch.Generator()
        ).collect(every_act),
    }


@pytest.mark.parametrize("use", uses())
@pytest.mark.parametrize("in_hand", [0, 1, LENGTH - 1, LENGTH])
def test_after_somebody_else_all_begin_new_episodes(use, in_hand):
    collector = every()
    collector.collect(every_act)
    steps = []
    if in_hand:
        go_on = collector.collect(every_act, lambda step: steps.append(1) or len(steps) < in_hand)
        assert go_on is None
    uses()[use](collector.envs)
    before = collector.envs._episode.copy()
    asked = []

    def noted(observations, reset, state, rng):
        asked.append((observations.clone(), reset.clone()))
        return every_act(observations, reset, state, rng)

    steps.clear()
    rollout = copied(collector.collect(noted, lambda step: steps.append(step.reset) or True))
    assert len(steps) == len(asked) == LENGTH  # what was in hand is lost
    assert rollout.reset[0].all()
    assert asked[0][1].all()
    assert torch.equal(asked[0][0], rollout.observations[0])
    # The observations are those of the first `LENGTH` steps of the next episodes.
    ended = np.sum(steps, axis=0)
    assert np.array_equal(collector.envs._episode, before + 1 + ended)
    seed = 5 if use == "reseed" else 0
    again = make_vec(
        "tests.tasks:Every-v0", ENVS, seed, {"observation": "vector", "action": "bounded_box"}
    )
    again.reset()
    again._episode[:] = before
    assert np.array_equal(rollout.observations[0].numpy(), again.reset())
    for t in range(LENGTH):
        step = again.step(rollout.actions[t].numpy())
        assert np.array_equal(rollout.observations[t + 1].numpy(), step.obs)
        assert np.array_equal(rollout.rewards[t].numpy(), step.reward)
        assert np.array_equal(rollout.reset[t + 1].numpy(), step.reset)


def test_looking_at_the_environments_is_not_using_them():
    undisturbed, looked_at = every(), every()
    for _ in range(4):
        looked_at.envs.state_dict()
        assert looked_at.envs.begun in (True, False)
        one, other = undisturbed.collect(every_act), looked_at.collect(every_act)
        assert all(
            torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items()
        )


@pytest.mark.parametrize("in_hand", [0, 2])
def test_a_state_after_somebody_else_goes_on_the_same(in_hand):
    collector = every()
    collector.collect(every_act)
    steps = []
    if in_hand:
        collector.collect(every_act, lambda step: steps.append(1) or len(steps) < in_hand)
    collector.envs.reset()
    collector.envs.step(np.zeros((ENVS, 3)))
    other = every(seed=99)
    assert other.load_state_dict(copy.deepcopy(collector.state_dict())) is True
    for _ in range(3):
        expected, rollout = collector.collect(every_act), other.collect(every_act)
        for name, value in expected.tensors().items():
            assert torch.equal(getattr(rollout, name), value), name


def test_two_collectors_of_the_same_environments_take_turns():
    envs = every().envs
    pair = [Collector(envs, LENGTH, 3, STATE, False, torch.Generator()) for _ in range(2)]
    for collector in [*pair, *pair, *pair]:
        assert collector.collect(every_act).reset[0].all()
    assert not pair[1].collect(every_act).reset[0].all()


@pytest.mark.parametrize("in_hand", [0, 2])
def test_the_replay_memory_takes_the_last_step_before_somebody_else_for_a_truncation(in_hand):
    """Not where an episode ended there anyway: environment 1, at the script's step 3."""
    collector = collector_of()
    envs = collector.envs
    memory = ReplayMemory(
        4, STEPS, ENVS, ACTIONS, STATE, envs.observation_space, envs.action_space, 1
    )
    first = copied(collector.collect(act))
    memory.push(first)
    if in_hand:
        collector.collect(act, lambda step: len(envs.taken) < STEPS + in_hand)
    envs.reset()
    second = copied(collector.collect(act))
    memory.push(second)
    assert SCRIPT[STEPS - 1, 1] == "terminated"
    cut = [0, 2]
    read = memory.read(torch.zeros(ENVS, dtype=torch.int64))
    assert read.truncated[-1].tolist() == [True, False, True]
    assert torch.equal(read.truncated[:-1], first.truncated[:-1])
    assert torch.equal(read.terminated, first.terminated)
    assert torch.equal(read.rewards, first.rewards)
    finals = {
        tuple(where): final.tolist()
        for where, final in zip(read.final_index.tolist(), read.final_observations, strict=True)
    }
    expected = {
        tuple(where): final.tolist()
        for where, final in zip(first.final_index.tolist(), first.final_observations, strict=True)
    }
    expected |= {(STEPS - 1, env): first.observations[-1, env].tolist() for env in cut}
    assert finals == expected
    # From there on it is read like any other, and the next segment follows without a cut.
    assert read.reset[-1].all()
    check_equal(memory, [None, second], torch.ones(ENVS, dtype=torch.int64))
    third = copied(collector.collect(act))
    memory.push(third)
    check_equal(memory, [None, second, third], torch.ones(ENVS, dtype=torch.int64))


def test_an_act_in_the_environments_own_units_reaches_them():
    """The boxed actions above mean something: they differ from what is executed."""
    collector = every()
    rollout = collector.collect(every_act)
    space = collector.envs.action_space
    meant = acting(space)(rollout.actions[0].numpy())
    assert meant.shape == (ENVS, 3)
    assert all(space.contains(action) for action in meant)
