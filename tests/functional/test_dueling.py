"""Stochastic dueling and the targets of its critic, by enumeration of actions and of draws."""

import itertools

import pytest
import torch

from rlrun.functional.dueling import dueling_q, dueling_q_of_draws
from rlrun.functional.returns import retrace, v_target


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


PI = doubles(0.2, 0.5, 0.3)
MU = doubles(0.7, 0.1, 0.2)
A = doubles(1.0, -2.0, 0.5)
V = doubles(0.7)[0]
MEAN = (PI * A).sum()
WEIGHTS = doubles(3.0, -1.0, 0.25)  # anything that depends on an action


def all_draws(m):
    """Every outcome of `m` draws from the policy, `[m, 3^m]`, and its probability."""
    draws = torch.tensor(list(itertools.product(range(3), repeat=m))).T
    return draws, PI[draws].prod(0)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_expectation_over_the_draws(m):
    draws, chance = all_draws(m)
    q = dueling_q(V, A.unsqueeze(1).expand(3, len(chance)), A[draws].unsqueeze(1))
    expected = (chance * q).sum(-1)
    torch.testing.assert_close(expected, V + A - MEAN)
    torch.testing.assert_close((PI * expected).sum(), V)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_draws_are_not_biased_by_each_other(m):
    """As factors of anything that depends on the draw, as in the bias correction."""
    draws, chance = all_draws(m)
    q = dueling_q_of_draws(V, A[draws])
    exact = (PI * WEIGHTS * (A - MEAN)).sum()
    for own, value in zip(draws, q, strict=True):
        torch.testing.assert_close((chance * WEIGHTS[own] * (value - V)).sum(), exact)
    for own in draws:
        naive = dueling_q(V, A[own], A[draws]) - V
        biased = (chance * WEIGHTS[own] * naive).sum()
        torch.testing.assert_close(biased, (1 - 1 / m) * exact)


def test_draws_average_to_the_value_whatever_they_are():
    draws = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = doubles(1.0, 2.0, 3.0)
    q = dueling_q_of_draws(values, draws)
    assert q.shape == draws.shape
    torch.testing.assert_close(q.mean(0), values.expand(4, 3))


def test_golden_numbers():
    drawn = doubles(1.0, 2.0, 6.0)
    assert dueling_q(doubles(10.0)[0], doubles(5.0)[0], drawn).item() == 12.0
    assert dueling_q_of_draws(doubles(10.0)[0], drawn).tolist() == [7.0, 8.5, 14.5]


def test_gradients_flow_through_the_value_the_advantage_and_the_mean():
    v, a, drawn = (x.clone().requires_grad_() for x in (doubles(1, 2), doubles(3, 4), A))
    of_v, of_a, of_drawn = torch.autograd.grad(
        dueling_q(v, a, drawn.unsqueeze(1).expand(3, 2)) @ doubles(1, 10), [v, a, drawn]
    )
    assert of_v.tolist() == of_a.tolist() == [1, 10]
    torch.testing.assert_close(of_drawn, torch.full_like(A, -11 / 3))
    jacobian = torch.autograd.functional.jacobian(lambda x: dueling_q_of_draws(V, x), A)
    torch.testing.assert_close(jacobian, 1.5 * torch.eye(3, dtype=torch.float64) - 0.5)


Q = doubles(2.0, -1.0, 0.4)


def test_value_is_split_into_what_the_behaviour_visits_and_the_rest():
    rho = PI / MU
    visited = (MU * rho.clamp(max=1) * Q).sum()
    rest = (PI * (1 - 1 / rho).clamp(min=0) * Q).sum()
    torch.testing.assert_close(visited + rest, (PI * Q).sum())
    assert rest.abs() > 0.1


@pytest.mark.parametrize("wrong_where", ["visited", "rest"])
def test_value_target_is_unbiased_if_the_critic_is_right_in_the_rest(wrong_where):
    rho = PI / MU
    wrong = rho <= 1 if wrong_where == "visited" else rho > 1
    critic = Q + 0.9 * wrong
    target = v_target((PI * critic).sum(), Q, critic, rho)
    error = (MU * target).sum() - (PI * Q).sum()
    share = 0.0 if wrong_where == "visited" else 0.9 * (PI * (1 - 1 / rho).clamp(min=0)).sum()
    torch.testing.assert_close(error, torch.as_tensor(share, dtype=torch.float64))


def test_value_target_golden_numbers():
    target = v_target(doubles(1, 1, 1), doubles(5, 5, 5), doubles(3, 3, 3), doubles(0.25, 1, 9))
    assert target.tolist() == [1.5, 3.0, 3.0]


def random_segment(seed=0, steps=7, envs=4):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    ends = torch.rand(2, steps, envs, generator=g) < 0.2
    return {
        "rewards": normal(steps, envs),
        "q": normal(steps, envs),
        "values": normal(steps + 1, envs),
        "rho": (2 * normal(steps, envs)).exp(),
        "terminated": ends[0],
        "truncated": ends[1],
        "final_values": normal(steps, envs),
        "gamma": 0.97,
    }


def corrected_return(s, t, b):
    """`r + gamma (V - Q)` of all steps to come until an end, discounted; by a plain loop."""
    total, discount = 0.0, 1.0
    for k in range(t, len(s["rewards"])):
        if k > t:
            total += discount * (s["values"][k, b] - s["q"][k, b]).item()
        total += discount * s["rewards"][k, b].item()
        discount *= s["gamma"]
        if s["terminated"][k, b]:
            return total
        if s["truncated"][k, b]:
            return total + discount * s["final_values"][k, b].item()
    return total + discount * s["values"][-1, b].item()


@pytest.mark.parametrize("seed", range(3))
def test_corrected_returns_by_a_forward_sum(seed):
    """Off-policy corrected returns are Retrace with ratios of one, or any beyond."""
    s = random_segment(seed)
    assert s["terminated"].any()
    assert s["truncated"].any()
    rows = itertools.product(range(7), range(4))
    expected = doubles(*(corrected_return(s, t, b) for t, b in rows)).view(7, 4)
    s["rho"] = torch.ones_like(s["q"])
    torch.testing.assert_close(retrace(**s), expected)
    s["rho"] = 1.0 + torch.rand(7, 4, dtype=torch.float64)
    torch.testing.assert_close(retrace(**s), expected)


@pytest.mark.parametrize(("d", "traces"), [(1, [0.25, 1, 1, 0.0625]), (2, [0.5, 1, 1, 0.25])])
def test_traces_of_actions_with_several_components(d, traces):
    """`min(1, rho^(1 / d))`; with one component the root is the identity."""
    s = random_segment(steps=4, envs=1) | {"rho": doubles(0.25, 1, 4, 0.0625).view(4, 1)}
    s["rho"] = s["rho"].pow(1 / d)
    rooted = retrace(**s)
    s["rho"] = doubles(*traces).view(4, 1)
    assert torch.equal(rooted, retrace(**s))
