"""Generalised advantages against golden numbers, loops, and the cases where they are known."""

import itertools

import pytest
import torch

from rlrun.functional.returns import gae, retrace

GAMMA = 0.9
REWARDS = [1.0, 0.0, 2.0, -1.0]
VALUES = [0.4, 0.9, 1.2, 0.3, 0.6]


def column(values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def golden(lambda_, terminated=None, truncated=None, final=0.0):
    flags = torch.zeros(2, 4, 1, dtype=torch.bool)
    finals = torch.full((4, 1), float("nan"), dtype=torch.float64)  # only truncations are read
    if terminated is not None:
        flags[0, terminated] = True
    if truncated is not None:
        flags[1, truncated] = True
        finals[truncated] = final
    return gae(column(REWARDS), column(VALUES), flags[0], flags[1], finals, GAMMA, lambda_).squeeze(
        1
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lambda_": 1.0}, [1.88466, 0.5274, 0.386, -0.76]),
        ({"lambda_": 0.5}, [1.63842, 0.5076, 0.728, -0.76]),
        ({"lambda_": 0.0}, [1.41, 0.18, 1.07, -0.76]),
        ({"lambda_": 1.0, "terminated": 1}, [0.6, -0.9, 0.386, -0.76]),
        ({"lambda_": 1.0, "truncated": 2, "final": 0.7}, [2.7303, 1.467, 1.43, -0.76]),
        ({"lambda_": 0.5, "truncated": 3, "final": 2.0}, [1.7532375, 0.76275, 1.295, 0.5]),
    ],
)
def test_golden_numbers(arguments, expected):
    torch.testing.assert_close(golden(**arguments), torch.tensor(expected, dtype=torch.float64))


def random_segment(seed=0, steps=7, envs=5, lambda_=0.93, ends=True):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    end = torch.rand(2, steps, envs, generator=g) < (0.2 if ends else 0.0)
    return {
        "rewards": normal(steps, envs),
        "values": normal(steps + 1, envs),
        "terminated": end[0],
        "truncated": end[1],
        "final_values": normal(steps, envs),
        "gamma": 0.97,
        "lambda_": lambda_,
    }


def following(s, t, b):
    """The value of what comes after step `t`."""
    if s["terminated"][t, b]:
        return 0.0
    return (s["final_values"][t, b] if s["truncated"][t, b] else s["values"][t + 1, b]).item()


def ended(s, t, b):
    return bool(s["terminated"][t, b] or s["truncated"][t, b])


def sum_of_errors(s):
    """sum_k (gamma lambda)^k delta[t + k] up to the end of the episode or the segment."""
    steps, envs = s["rewards"].shape
    result = torch.zeros(steps, envs, dtype=torch.float64)
    for t, b in itertools.product(range(steps), range(envs)):
        for k in range(t, steps):
            delta = s["rewards"][k, b] + s["gamma"] * following(s, k, b) - s["values"][k, b]
            result[t, b] += (s["gamma"] * s["lambda_"]) ** (k - t) * delta
            if ended(s, k, b):
                break
    return result


def n_step_returns(s):
    """sum_k gamma^k r[t + k] and then the value of what follows, no recursion."""
    steps, envs = s["rewards"].shape
    result = torch.zeros(steps, envs, dtype=torch.float64)
    for t, b in itertools.product(range(steps), range(envs)):
        last = next((k for k in range(t, steps) if ended(s, k, b)), steps - 1)
        rewards = s["rewards"][t : last + 1, b].tolist()
        result[t, b] = sum(s["gamma"] ** k * r for k, r in enumerate(rewards))
        result[t, b] += s["gamma"] ** len(rewards) * following(s, last, b)
    return result


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_recursion_equals_the_sum_over_the_future(seed, lambda_):
    s = random_segment(seed, lambda_=lambda_)
    assert s["terminated"].any()
    assert s["truncated"].any()
    torch.testing.assert_close(gae(**s), sum_of_errors(s))


@pytest.mark.parametrize("seed", range(3))
def test_with_lambda_1_they_lead_to_the_n_step_returns(seed):
    s = random_segment(seed, lambda_=1.0)
    torch.testing.assert_close(gae(**s) + s["values"][:-1], n_step_returns(s))


def test_with_lambda_0_they_are_one_step_errors():
    s = random_segment(lambda_=0.0)
    steps, envs = s["rewards"].shape
    after = [[following(s, t, b) for b in range(envs)] for t in range(steps)]
    targets = s["rewards"] + s["gamma"] * torch.tensor(after, dtype=torch.float64)
    torch.testing.assert_close(gae(**s), targets - s["values"][:-1])


def test_with_lambda_1_they_are_retrace_on_policy():
    """With Q = V and ratios of 1 the targets of ACER and those of A2C are the same."""
    s = random_segment(lambda_=1.0)
    targets = retrace(
        s["rewards"],
        s["values"][:-1],
        s["values"],
        torch.ones_like(s["rewards"]),
        s["terminated"],
        s["truncated"],
        s["final_values"],
        s["gamma"],
    )
    torch.testing.assert_close(gae(**s) + s["values"][:-1], targets)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_nothing_leaks_over_the_end_of_an_episode(end):
    s = random_segment(ends=False)
    s[end][3] = True
    before = gae(**s)
    s["rewards"][4:] += 1.0
    s["values"][4:] += 1.0
    after = gae(**s)
    assert torch.equal(after[:4], before[:4])
    assert not torch.equal(after[4:], before[4:])


def test_a_truncation_reads_the_last_observation_and_a_termination_does_not():
    s = random_segment(ends=False)
    s["truncated"][3, :2] = True
    s["terminated"][3, 1:3] = True  # environment 1: both
    before = gae(**s)
    s["final_values"] += 1.0
    grown = gae(**s) - before
    torch.testing.assert_close(grown[3, 0], torch.tensor(s["gamma"], dtype=torch.float64))
    weights = (s["gamma"] * s["lambda_"]) ** torch.arange(3, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(grown[:4, 0], s["gamma"] * weights)
    assert not grown[4:].any()
    assert not grown[:, 1:].any()


def test_termination_wins_over_truncation():
    s = random_segment(ends=False)
    s["terminated"][2] = True
    before = gae(**s)
    s["truncated"][2] = True
    assert torch.equal(gae(**s), before)


def test_the_value_after_the_segment_counts_for_what_has_not_ended():
    s = random_segment(ends=False)
    s["terminated"][-1, 0] = True
    s["truncated"][-1, 1] = True
    before = gae(**s)
    s["values"][-1] += 1.0
    changed = (gae(**s) != before).all(0)
    assert changed.tolist() == [False, False, True, True, True]


def test_consistent_values_leave_no_advantage():
    s = random_segment()
    after = torch.where(s["truncated"], s["final_values"], s["values"][1:])
    s["rewards"] = s["values"][:-1] - s["gamma"] * after.masked_fill(s["terminated"], 0.0)
    torch.testing.assert_close(gae(**s), torch.zeros_like(s["rewards"]))


def test_environments_do_not_mix():
    s = random_segment()
    tensors = {name: value for name, value in s.items() if torch.is_tensor(value)}
    each = [gae(**s | {name: x[:, [b]] for name, x in tensors.items()}) for b in range(5)]
    torch.testing.assert_close(torch.cat(each, 1), gae(**s))
