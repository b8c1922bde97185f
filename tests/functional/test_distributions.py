"""Distributions of actions against torch.distributions, autograd and exact integrals."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from rlrun.functional.distributions import categorical, gaussian, probabilities


def pair():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def test_entropy_and_kl():
    p, q = pair()
    torch.testing.assert_close(
        probabilities.entropy(p), Categorical(p).entropy(), atol=1e-5, rtol=0
    )
    expected = kl_divergence(Categorical(p), Categorical(q))
    torch.testing.assert_close(probabilities.kl(p, q), expected, atol=1e-4, rtol=0)


def test_gradients():
    p, q = pair()
    q = q.requires_grad_()
    (gradient,) = torch.autograd.grad(probabilities.kl(p, q).sum(), q)
    torch.testing.assert_close(probabilities.kl_gradient(p, q), gradient)
    (gradient,) = torch.autograd.grad(probabilities.entropy(q).sum(), q)
    torch.testing.assert_close(probabilities.entropy_gradient(q), gradient)


def test_samples_follow_the_probabilities():
    probs = torch.tensor([0.5, 0.3, 0.2, 0.0])
    generator = torch.Generator().manual_seed(0)
    draws = probabilities.sample(probs.expand(40_000, 4), generator)
    counts = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(counts, probs, atol=0.01, rtol=0)
    assert counts[3] == 0


def test_same_generator_same_samples():
    probs = pair()[0]
    first, again = (probabilities.sample(probs, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)


# The modules with a common interface: categorical by its logits, and gaussian.

MODULES = pytest.mark.parametrize("module", [categorical, gaussian])


def as_torch(module, statistics):
    """The same distribution by PyTorch."""
    if module is categorical:
        return Categorical(logits=statistics)
    mean, log_std = statistics.split(statistics.shape[-1] // 2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def statistics_of(seed=0, rows=7, size=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, rows, size, generator=generator, dtype=torch.float64)


def some_actions(module, statistics, seed=1):
    return module.sample(statistics, torch.Generator().manual_seed(seed))


@MODULES
def test_log_prob_and_entropy_are_those_of_torch(module):
    statistics = statistics_of()
    actions = some_actions(module, statistics)
    oracle = as_torch(module, statistics)
    torch.testing.assert_close(module.log_prob(statistics, actions), oracle.log_prob(actions))
    torch.testing.assert_close(module.entropy(statistics), oracle.entropy())


@MODULES
def test_kl_is_that_of_torch_with_the_reference_first(module):
    p, q = statistics_of(0), statistics_of(1)
    expected = kl_divergence(as_torch(module, p), as_torch(module, q))
    torch.testing.assert_close(module.kl(p, q), expected)
    assert not torch.allclose(module.kl(q, p), expected)
    torch.testing.assert_close(module.kl(p, p), torch.zeros_like(expected))


@MODULES
def test_the_score_is_the_derivative_of_the_logarithm(module):
    statistics = statistics_of().requires_grad_()
    actions = some_actions(module, statistics.detach())
    (gradient,) = torch.autograd.grad(module.log_prob(statistics, actions).sum(), statistics)
    torch.testing.assert_close(module.score(statistics.detach(), actions), gradient)


@MODULES
def test_shapes_have_one_row_per_action(module):
    statistics = statistics_of()
    actions = some_actions(module, statistics)
    assert actions.shape == ((3, 7) if module is categorical else (3, 7, 3))
    assert actions.dtype == (torch.int64 if module is categorical else torch.float64)
    assert module.mode(statistics).shape == actions.shape
    for values in (module.log_prob(statistics, actions), module.entropy(statistics)):
        assert values.shape == (3, 7)
    assert module.score(statistics, actions).shape == statistics.shape


@MODULES
def test_no_action_is_more_probable_than_the_mode(module):
    statistics = statistics_of()
    best = module.log_prob(statistics, module.mode(statistics))
    for seed in range(20):
        actions = some_actions(module, statistics, seed)
        assert (module.log_prob(statistics, actions) <= best).all()


def every_action(module, statistics):
    """Actions and weights whose sums are the exact expectations of polynomials of degree 4."""
    if module is categorical:
        return torch.arange(len(statistics)), statistics.softmax(-1)
    mean, log_std = statistics.chunk(2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights /= weights.sum()
    points = itertools.product(range(5), repeat=len(mean))
    index = torch.tensor(list(points))
    actions = mean + log_std.exp() * torch.from_numpy(nodes)[index]
    return actions, torch.from_numpy(weights)[index].prod(-1)


def fisher_by_formula(module, statistics):
    if module is categorical:
        probs = statistics.softmax(-1)
        return torch.diag(probs) - torch.outer(probs, probs)
    _, log_std = statistics.chunk(2)
    second = torch.full_like(log_std, gaussian.FISHER_LOG_STD)
    return torch.diag(torch.cat([(-2 * log_std).exp(), second]))


@MODULES
@pytest.mark.parametrize("row", range(3))
def test_scores_have_mean_zero_and_the_fisher_matrix_for_second_moment(module, row):
    statistics = statistics_of()[0, row]
    actions, weights = every_action(module, statistics)
    scores = module.score(statistics.expand(len(actions), -1), actions)
    zero = torch.zeros_like(statistics)
    torch.testing.assert_close(weights @ scores, zero, atol=1e-10, rtol=0)
    moment = scores.T @ (weights.unsqueeze(-1) * scores)
    expected = fisher_by_formula(module, statistics)
    torch.testing.assert_close(moment, expected, atol=1e-10, rtol=1e-7)


@MODULES
def test_the_curvature_of_the_kl_is_the_fisher_matrix(module):
    statistics = statistics_of()[0, 0]
    hessian = torch.autograd.functional.hessian(lambda s: module.kl(statistics, s), statistics)
    torch.testing.assert_close(hessian, fisher_by_formula(module, statistics))


@MODULES
def test_the_entropy_is_minus_the_mean_of_the_logarithm(module):
    statistics = statistics_of()[0, 0]
    actions, weights = every_action(module, statistics)
    log_probs = module.log_prob(statistics.expand(len(actions), -1), actions)
    torch.testing.assert_close(module.entropy(statistics), -(weights @ log_probs))


def test_frequencies_of_categorical_samples():
    logits = torch.tensor([0.5, -1.0, 1.5, -math.inf])
    actions = categorical.sample(logits.expand(40_000, 4), torch.Generator().manual_seed(0))
    counts = torch.bincount(actions, minlength=4) / len(actions)
    torch.testing.assert_close(counts, logits.softmax(-1), atol=0.01, rtol=0)


def test_moments_of_gaussian_samples():
    mean, std = torch.tensor([0.5, -2.0, 0.0]), torch.tensor([0.4, 1.5, 3.0])
    statistics = torch.cat([mean, std.log()]).expand(40_000, 6)
    z = (gaussian.sample(statistics, torch.Generator().manual_seed(0)) - mean) / std
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(3), atol=0.03, rtol=0)
    torch.testing.assert_close(z.pow(4).mean(0), torch.full((3,), 3.0), atol=0.15, rtol=0)


@MODULES
def test_samples_come_from_the_generator_alone(module):
    statistics = statistics_of()
    before = torch.get_rng_state()
    first, again, other = (some_actions(module, statistics, seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_golden_kl_of_gaussians():
    def of(mean, std):
        return torch.cat([torch.tensor(mean), torch.tensor(std).log()])

    kl = gaussian.kl(of([0.1, -0.5], [0.3, 2.0]), of([0.5, -1.0], [0.4, 1.5]))
    assert kl.item() == pytest.approx(0.7256944, abs=2e-7)


def test_golden_numbers_of_a_standard_normal():
    statistics = torch.zeros(2)
    assert gaussian.log_prob(statistics, torch.zeros(1)).item() == pytest.approx(-0.9189385)
    assert gaussian.entropy(statistics).item() == pytest.approx(1.4189385)
    assert gaussian.score(statistics, torch.tensor([2.0])).tolist() == [2.0, 3.0]


def test_logits_far_apart_stay_finite():
    logits = torch.tensor([2000.0, 0.0, -2000.0])
    assert categorical.entropy(logits).item() == 0.0
    assert categorical.log_prob(logits, torch.tensor(2)).item() == -4000.0
    assert categorical.kl(logits, -logits).item() == pytest.approx(4000.0)
    assert categorical.score(logits, torch.tensor(1)).tolist() == [-1.0, 1.0, 0.0]
    shifted = statistics_of()
    actions = some_actions(categorical, shifted)
    same = categorical.log_prob(shifted, actions)
    torch.testing.assert_close(categorical.log_prob(shifted + 100.0, actions), same)
