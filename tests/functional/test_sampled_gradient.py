"""ACER's gradient where actions are drawn: against autograd, by enumeration, and in bounds."""

import itertools
import math

import pytest
import torch

from rlrun.functional.distributions import Factored, Gaussian, Probabilities
from rlrun.functional.importance import correction_share, density_ratio
from rlrun.functional.policy_gradient import acer_sampled_gradient, acer_sampled_losses
from rlrun.functional.trust_region import project_gradient, projection_size

INF = float("inf")
GAUSSIAN, FACTORED = Gaussian(), Factored(Probabilities(), (2, 3))
BOTH = pytest.mark.parametrize("d", [GAUSSIAN, FACTORED], ids=["gaussian", "factored"])


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def statistics_of(d, seed, *rows):
    g = torch.Generator().manual_seed(seed)
    output = torch.randn(*rows, 5, generator=g, dtype=torch.float64)
    log_std = 0.5 * torch.randn(5, generator=g, dtype=torch.float64)
    return d.statistics(output, log_std)


def test_ratio_of_densities():
    log_prob, log_behaviour = doubles(-1.0, 2.0, -7.5), doubles(-2.0, 2.0, -5.0)
    expected = doubles(math.e, 1.0, math.exp(-2.5))
    torch.testing.assert_close(density_ratio(log_prob, log_behaviour), expected)


def test_ratio_of_densities_stays_finite_and_positive():
    apart = doubles(1e6, 20.5, 19.5, -19.5, -20.5, -1e6)
    bounded = doubles(20, 20, 19.5, -19.5, -20, -20)
    torch.testing.assert_close(density_ratio(apart, torch.zeros_like(apart)), bounded.exp())
    single = density_ratio(torch.tensor([-1e30, 1e30]), torch.tensor([1e30, -1e30]))
    assert single.isfinite().all()
    assert (single > 0).all()


@BOTH
def test_ratio_is_that_of_the_probabilities(d):
    f, mu = statistics_of(d, 0, 6), statistics_of(d, 1, 6)
    actions = d.sample(mu, torch.Generator().manual_seed(2))
    rho = density_ratio(d.log_prob(f, actions), d.log_prob(mu, actions))
    if d is FACTORED:
        expected = torch.ones(6, dtype=torch.float64)
        for probs, behaviour, taken in zip(
            f.split(d.sizes, -1), mu.split(d.sizes, -1), actions.unbind(-1), strict=True
        ):
            taken = taken.unsqueeze(-1)
            ratio = (probs / behaviour).gather(-1, taken).squeeze(-1)
            expected = expected * ratio
    else:
        densities = [
            torch.distributions.Normal(m, s.exp()).log_prob(actions).exp().prod(-1)
            for m, s in (x.chunk(2, -1) for x in (f, mu))
        ]
        expected = densities[0] / densities[1]
    torch.testing.assert_close(rho, expected, atol=0, rtol=1e-4)
    same = d.log_prob(f, actions)
    assert torch.equal(density_ratio(same, same), torch.ones_like(rho))


def test_share_that_the_truncation_cuts_off():
    rho = doubles(0.0, 0.5, 1.0, 2.0, 4.0, 1e9)
    torch.testing.assert_close(correction_share(rho, 1.0), doubles(0, 0, 0, 0.5, 0.75, 1 - 1e-9))
    assert not correction_share(rho[:5], 4.0).any()
    assert not correction_share(rho, INF).any()
    assert not correction_share(density_ratio(rho, rho), 1.0).any()


def random_terms(d, seed=0, m=4):
    f, mu = statistics_of(d, seed, 3, 2), statistics_of(d, seed + 1, 3, 2)
    g = torch.Generator().manual_seed(seed)
    many, behaviours = f.expand(m, *f.shape), mu.expand(m, *mu.shape)
    actions, drawn = d.sample(mu, g), d.sample(many, g)
    rho = density_ratio(d.log_prob(f, actions), d.log_prob(mu, actions))
    drawn_rho = density_ratio(d.log_prob(many, drawn), d.log_prob(behaviours, drawn))
    advantages = torch.randn(m + 1, 3, 2, generator=g, dtype=torch.float64)
    return f, many, actions, drawn, rho, drawn_rho, advantages[0], advantages[1:]


@BOTH
@pytest.mark.parametrize("c", [0.3, 1.0, 5.0, INF])
def test_gradient_is_that_of_the_losses(d, c):
    """Through the logarithms alone; the weights in front of them are constants."""
    f, many, actions, drawn, rho, drawn_rho, advantages, of_drawn = random_terms(d)
    gradient = acer_sampled_gradient(
        d.score(f, actions), rho, advantages, d.score(many, drawn), drawn_rho, of_drawn, c
    )
    leaf = f.clone().requires_grad_()
    losses = acer_sampled_losses(
        d.log_prob(leaf, actions),
        rho,
        advantages,
        d.log_prob(leaf.expand_as(many), drawn),
        drawn_rho,
        of_drawn,
        c,
    )
    (expected,) = torch.autograd.grad(-(losses[0] + losses[1]).sum(), leaf)
    torch.testing.assert_close(gradient, expected)
    assert losses[0].shape == losses[1].shape == rho.shape
    assert losses[1].any() == (c < INF)


def test_golden_gradient():
    """Two draws, of which the truncation cuts off one by half and one by three quarters."""
    gradient = acer_sampled_gradient(
        doubles([1.0, -2.0]),
        doubles(3.0),
        doubles(0.5),
        doubles([[1.0, 0.0]], [[0.0, 1.0]]),
        doubles([4.0], [8.0]),
        doubles([6.0], [-8.0]),
        2.0,
    )
    assert gradient.tolist() == [[1.0 + 1.5, -2.0 - 3.0]]


def every_action(d):
    if isinstance(d, Factored):
        return torch.tensor(list(itertools.product(*map(range, d.sizes))))
    return torch.arange(5)


@pytest.mark.parametrize("d", [Probabilities(), FACTORED], ids=["probabilities", "factored"])
@pytest.mark.parametrize("c", [1e-9, 0.3, 1.0, 5.0, INF])
@pytest.mark.parametrize("m", [1, 2])
def test_truncation_plus_correction_is_the_full_gradient_in_expectation(d, c, m):
    """`a ~ mu` and `u_i ~ pi` by enumeration, with any advantages that depend on the action."""
    f, mu = statistics_of(d, 3), statistics_of(d, 4)
    actions = every_action(d)
    n = len(actions)
    h = torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    parts = [x.expand(n, -1) for x in (f, mu)]
    pi, behaviour = (d.log_prob(x, actions).exp() for x in parts)
    rho, score = pi / behaviour, d.score(parts[0], actions)
    assert (rho > 1).any()
    assert (rho < 1).any()

    tuples = list(itertools.product(range(n), repeat=m + 1))
    taken, *draws = torch.tensor(tuples).T
    drawn = torch.stack(draws)
    chance = behaviour[taken] * pi[drawn].prod(0)
    gradient = acer_sampled_gradient(
        score[taken], rho[taken], h[taken], score[drawn], rho[drawn], h[drawn], c
    )
    expected = (chance.unsqueeze(-1) * gradient).sum(0)
    # Sums of probabilities differ from 1 by the small number in the logarithms.
    torch.testing.assert_close(expected, (pi * h) @ score, atol=1e-4, rtol=1e-4)


def test_mean_and_deviation_of_a_gaussian_share_one_projection():
    std, average_std = doubles(0.4, 1.5), doubles(0.3, 2.0)
    phi = torch.cat([doubles(0.5, -1.0), std.log()])
    average = torch.cat([doubles(0.1, -0.5), average_std.log()])
    torch.testing.assert_close(GAUSSIAN.kl(average, phi), doubles(0.7256944)[0])
    k = GAUSSIAN.kl_gradient(average, phi)
    torch.testing.assert_close(k, doubles(2.5, -0.2222222, -0.5625, -0.8888889))
    g = doubles(1.0, 2.0, -3.0, 0.5)  # k . g = 3.2986111, |k|^2 = 7.4059124
    torch.testing.assert_close(projection_size(g, k, 1.0), doubles(0.3103751)[0])
    z = project_gradient(g, k, 1.0)
    torch.testing.assert_close(z, doubles(0.2240623, 2.0689722, -2.8254140, 0.7758890))
    torch.testing.assert_close(k @ z, doubles(1.0)[0], atol=1e-6, rtol=0)
    # Of the means alone the bound is not the same: each block by itself would be left alone or
    # moved by something else.
    assert (k[2:] @ g[2:]) > 1.0
    assert (k[:2] @ z[:2]) < 1.0
