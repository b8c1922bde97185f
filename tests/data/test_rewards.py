"""The scale of the rewards against a loop over every step."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlrun.data.rewards import RewardScale
from rlrun.data.rollout import Rollout

STEPS, ENVS, GAMMA = 7, 3, 0.9


def segment(seed=0, rewards=None, ends=0.2):
    g = torch.Generator().manual_seed(seed)
    if rewards is None:
        rewards = 3.0 * torch.randn(STEPS, ENVS, generator=g)
        rewards[torch.rand(STEPS, ENVS, generator=g) < 0.2] = 0.0
    end = torch.rand(2, STEPS, ENVS, generator=g) < ends
    return Rollout(
        observations=torch.zeros(STEPS + 1, ENVS, 1),
        actions=torch.zeros(STEPS, ENVS, dtype=torch.int64),
        rewards=rewards,
        behaviour=torch.zeros(STEPS, ENVS, 2),
        terminated=end[0],
        truncated=end[1],
        reset=torch.zeros(STEPS + 1, ENVS, dtype=torch.bool),
        state=torch.zeros(ENVS, 0),
        final_observations=torch.zeros(0, 1),
        final_index=torch.zeros(0, 2, dtype=torch.int64),
    )


def observed_and_scaled(scale, rollout):
    """The rewards of a fresh segment on the scale that knows them."""
    scale.observe(rollout)
    return scale.scaled(rollout.rewards)


def deviations_by_hand(segments, gamma=GAMMA):
    """After each segment the deviation of all discounted sums so far."""
    sums, seen, deviations = [0.0] * ENVS, [], []
    for s in segments:
        for t in range(STEPS):
            for b in range(ENVS):
                sums[b] = gamma * sums[b] + s.rewards[t, b].item()
                seen.append(sums[b])
                if s.terminated[t, b] or s.truncated[t, b]:
                    sums[b] = 0.0
        deviations.append(np.std(seen))
    return deviations


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_rewards_are_divided_by_the_deviation_of_the_sums_so_far(gamma):
    segments = [segment(seed) for seed in range(5)]
    assert any(s.terminated.any() for s in segments)
    assert any(s.truncated.any() for s in segments)
    scale = RewardScale(gamma, ENVS)
    for s, deviation in zip(segments, deviations_by_hand(segments, gamma), strict=True):
        scaled = observed_and_scaled(scale, s)
        torch.testing.assert_close(scaled, s.rewards / deviation)
        assert scale.deviation == pytest.approx(deviation)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_the_reward_of_the_last_step_belongs_to_its_episode_and_to_no_other(end):
    rewards = torch.zeros(STEPS, ENVS)
    rewards[2] = 5.0
    s = segment(rewards=rewards, ends=0.0)
    getattr(s, end)[2] = True
    scale = RewardScale(GAMMA, ENVS)
    scale.observe(s)
    assert scale.sums.tolist() == [0.0] * ENVS
    # One sum in seven is 5, the others 0.
    assert scale.deviation == pytest.approx(5.0 * math.sqrt(1 / 7 * 6 / 7))


def test_sums_go_on_from_one_segment_to_the_next():
    ones = [segment(rewards=torch.ones(STEPS, ENVS), ends=0.0) for _ in range(2)]
    scale = RewardScale(1.0, ENVS)
    for s in ones:
        scale.observe(s)
    assert scale.sums.tolist() == [2.0 * STEPS] * ENVS
    assert scale.deviation == pytest.approx(np.std(range(1, 2 * STEPS + 1)))


def test_sign_and_zero_are_kept():
    """Nothing is subtracted, whatever the mean."""
    s = segment()
    s.rewards += (s.rewards != 0) * 2.0
    scaled = observed_and_scaled(RewardScale(GAMMA, ENVS), s)
    assert torch.equal(scaled.sign(), s.rewards.sign())
    assert (s.rewards == 0).any()
    assert (s.rewards < 0).any()


def test_the_unit_of_the_rewards_does_not_matter():
    first, second = RewardScale(GAMMA, ENVS), RewardScale(GAMMA, ENVS)
    for seed in range(3):
        s = segment(seed)
        large = segment(seed, rewards=1000.0 * s.rewards)
        large.terminated, large.truncated = s.terminated, s.truncated
        small, scaled = observed_and_scaled(first, s), observed_and_scaled(second, large)
        torch.testing.assert_close(small, scaled)


def test_the_raw_rewards_stay():
    s = segment()
    before = copy.deepcopy(s)
    observed_and_scaled(RewardScale(GAMMA, ENVS), s)
    for name, value in before.tensors().items():
        assert torch.equal(getattr(s, name), value)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_rewards_that_never_vary_stay_finite(reward):
    scale = RewardScale(0.0, ENVS)  # the sums are the rewards themselves
    for _ in range(3):
        rollout = segment(rewards=torch.full((STEPS, ENVS), reward))
        scaled = observed_and_scaled(scale, rollout)
    assert torch.isfinite(scaled).all()
    assert (scaled == 0).all() == (reward == 0)


def test_far_from_zero_the_deviation_loses_nothing():
    rewards = 1e4 + torch.randn(STEPS, ENVS, generator=torch.Generator().manual_seed(0))
    scale = RewardScale(0.0, ENVS)
    scale.observe(segment(rewards=rewards))
    assert scale.deviation == pytest.approx(rewards.double().std(correction=0).item(), rel=1e-6)


def test_a_restored_scale_goes_on_the_same():
    scale, other = RewardScale(GAMMA, ENVS), RewardScale(GAMMA, ENVS)
    for seed in range(3):
        scale.observe(segment(seed))
    state = copy.deepcopy(scale.state_dict())
    other.load_state_dict(state)
    for seed in range(3, 6):
        found, expected = (observed_and_scaled(each, segment(seed)) for each in (other, scale))
        assert torch.equal(found, expected)
    assert_same(other.state_dict(), scale.state_dict())


def test_rewards_are_scaled_without_being_observed():
    """As replayed ones are, by the scale of now."""
    scale = RewardScale(GAMMA, ENVS)
    scale.observe(segment())
    before = copy.deepcopy(scale.state_dict())
    replayed = segment(1).rewards
    torch.testing.assert_close(scale.scaled(replayed), replayed / scale.deviation)
    assert_same(scale.state_dict(), before)


def test_a_state_stays_as_it_was_taken():
    scale = RewardScale(GAMMA, ENVS)
    scale.observe(segment())
    state = scale.state_dict()
    before = copy.deepcopy(state)
    scale.observe(segment(1))
    assert_same(state, before)


def assert_same(a, b):
    assert torch.equal(a.pop("sums"), b.pop("sums"))
    assert a == b


def test_sums_that_do_not_vary_blow_nothing_up():
    scale = RewardScale(0.99, 2)
    ones = torch.ones(1, 2)
    no = torch.zeros(1, 2, dtype=torch.bool)
    rollout = SimpleNamespace(rewards=ones, terminated=no, truncated=no, reset=no)
    assert observed_and_scaled(scale, rollout).tolist() == [[10.0, 10.0]]


def test_environments_that_somebody_else_has_reset_begin_new_sums():
    scale, other = RewardScale(1.0, ENVS), RewardScale(1.0, ENVS)
    first, second = segment(0, ends=0.0), segment(1, ends=0.0)
    scale.observe(first)
    other.observe(first)
    second.reset[0, 1] = True
    scale.observe(second)
    expected = second.rewards.sum(0)
    expected[[0, *range(2, ENVS)]] += first.rewards.sum(0)[[0, *range(2, ENVS)]]
    assert torch.allclose(scale.sums, expected)
    assert scale.count == other.count + second.rewards.numel()
