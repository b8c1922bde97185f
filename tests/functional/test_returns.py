"""Retrace against golden numbers, a loop written another way, and the cases where it is known."""

import itertools

import pytest
import torch

from rlrun.functional import returns
from rlrun.functional.returns import retrace

GAMMA = 0.9
REWARDS = [1.0, 0.0, 2.0, -1.0]
VALUES = [0.4, 0.9, 1.2, 0.3, 0.6]
Q = [0.5, 1.0, 1.5, 0.2]
RHO = [0.5, 2.0, 0.8, 0.1]


def column(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).unsqueeze(1)


def golden(q=Q, rho=RHO, terminated=None, truncated=None, final=0.0):
    flags = torch.zeros(2, 4, 1, dtype=torch.bool)
    finals = torch.zeros(4, 1, dtype=torch.float64)
    if terminated is not None:
        flags[0, terminated] = True
    if truncated is not None:
        flags[1, truncated] = True
        finals[truncated] = final
    return retrace(
        column(REWARDS), column(q), column(VALUES), column(rho), flags[0], flags[1], finals, GAMMA
    ).squeeze(1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"q": VALUES[:4], "rho": [1.0] * 4}, [2.28466, 1.4274, 1.586, -0.46]),
        ({}, [2.3424688, 1.591632, 2.2106, -0.46]),
        ({"terminated": 1}, [0.91, 0, 2.2106, -0.46]),
        ({"truncated": 2, "final": 0.7}, [2.61424, 1.8936, 2.63, -0.46]),
        ({"rho": [1.0] * 4}, [2.02456, 1.2384, 1.676, -0.46]),
    ],
)
def test_golden_numbers(arguments, expected):
    torch.testing.assert_close(golden(**arguments), torch.tensor(expected, dtype=torch.float64))


def random_segment(seed=0, steps=7, envs=5, ends=True):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    end = torch.rand(2, steps, envs, generator=g) < (0.2 if ends else 0.0)
    return {
        "rewards": normal(steps, envs),
        "q": normal(steps, envs),
        "values": normal(steps + 1, envs),
        "rho": normal(steps, envs).exp(),
        "terminated": end[0],
        "truncated": end[1],
        "final_values": normal(steps, envs),
        "gamma": 0.97,
    }


def forward_sum(s):
    """Q_t + sum_k gamma^(k-t) (prod of traces) delta_k, the form without recursion."""
    steps, envs = s["rewards"].shape
    result = torch.empty(steps, envs, dtype=torch.float64)
    for t, b in itertools.product(range(steps), range(envs)):
        total, weight = s["q"][t, b], 1.0
        for k in range(t, steps):
            if k > t:
                weight *= s["gamma"] * min(1.0, s["rho"][k, b].item())
            ended = s["terminated"][k, b] or s["truncated"][k, b]
            if s["terminated"][k, b]:
                following = 0.0
            elif s["truncated"][k, b]:
                following = s["final_values"][k, b]
            else:
                following = s["values"][k + 1, b]
            total = total + weight * (s["rewards"][k, b] + s["gamma"] * following - s["q"][k, b])
            if ended:
                break
        result[t, b] = total
    return result


@pytest.mark.parametrize("seed", range(5))
def test_recursion_equals_the_sum_over_the_future(seed):
    s = random_segment(seed)
    assert s["terminated"].any()
    assert s["truncated"].any()
    torch.testing.assert_close(retrace(**s), forward_sum(s))


def test_the_ratio_of_the_first_step_influences_nothing():
    s = random_segment()
    before = retrace(**s)
    s["rho"][0] = 123.0
    assert torch.equal(retrace(**s), before)


def test_zero_ratios_give_one_step_targets():
    s = random_segment(ends=False)
    s["rho"].zero_()
    torch.testing.assert_close(retrace(**s), s["rewards"] + s["gamma"] * s["values"][1:])


def test_nothing_leaks_over_the_end_of_an_episode():
    s = random_segment(ends=False)
    s["terminated"][3] = True
    before = retrace(**s)[:4]
    for name in ("rewards", "q", "rho"):
        s[name][4:] += 1.0
    s["values"][4:] += 1.0
    assert torch.equal(retrace(**s)[:4], before)


def test_termination_wins_over_truncation():
    s = random_segment(ends=False)
    s["terminated"][2] = True
    before = retrace(**s)
    s["truncated"][2] = True
    assert torch.equal(retrace(**s), before)


def test_consistent_values_are_a_fixed_point_on_every_path():
    """If every one-step error r + gamma V' - Q is zero, Q_ret = Q whatever the ratios."""
    s = random_segment()
    following = torch.where(s["truncated"], s["final_values"], s["values"][1:])
    following = torch.where(s["terminated"], 0.0, following)
    s["q"] = s["rewards"] + s["gamma"] * following
    torch.testing.assert_close(retrace(**s), s["q"])


def test_expectation_under_any_behaviour_is_the_value_of_the_target_policy():
    """Exact enumeration of all paths of a two-state process, with the exact Q of pi."""
    gamma, steps = 0.9, 3
    reward = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
    chance = torch.tensor([[[0.8, 0.2], [0.1, 0.9]], [[0.5, 0.5], [0.7, 0.3]]], dtype=torch.float64)
    pi = torch.tensor([[0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    mu = torch.tensor([[0.3, 0.7], [0.9, 0.1]], dtype=torch.float64)
    q = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(500):
        q = reward + gamma * chance @ (pi * q).sum(-1)
    v = (pi * q).sum(-1)

    start, first = 0, 1
    expectation = torch.zeros((), dtype=torch.float64)
    for states in itertools.product(range(2), repeat=steps):
        for rest in itertools.product(range(2), repeat=steps - 1):
            actions, path = (first, *rest), (start, *states)
            weight = torch.ones((), dtype=torch.float64)
            for t in range(steps):
                weight = weight * chance[path[t], actions[t], path[t + 1]]
                if t > 0:
                    weight = weight * mu[path[t], actions[t]]
            taken = [(path[t], actions[t]) for t in range(steps)]
            no = torch.zeros(steps, 1, dtype=torch.bool)
            target = retrace(
                column([reward[x].item() for x in taken]),
                column([q[x].item() for x in taken]),
                column([v[x].item() for x in path]),
                column([(pi[x] / mu[x]).item() for x in taken]),
                no,
                no,
                torch.zeros(steps, 1, dtype=torch.float64),
                gamma,
            )
            expectation += weight * target[0, 0]
    torch.testing.assert_close(expectation, q[start, first])


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_recursion_is_the_same_by_numpy_and_by_torch(steps):
    g = torch.Generator().manual_seed(3)
    constants, factors = torch.randn(2, steps, 5, generator=g, dtype=torch.float64)
    given = constants, factors, torch.randn(5, generator=g, dtype=torch.float64)
    torch.testing.assert_close(
        returns._following_by_numpy(*given), returns._following_by_torch(*given)
    )
