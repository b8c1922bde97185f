"""Distributions of actions against torch.distributions, autograd and exact integrals."""

import copy
import dataclasses
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import distributions as oracles
from torch.distributions import kl_divergence

from rlrun.functional.distributions import (
    Categorical,
    Factored,
    Gaussian,
    Joint,
    Probabilities,
    joint_actions,
    joint_index,
)
from rlrun.functional.distributions.gaussian import FISHER_LOG_STD, split
from rlrun.functional.distributions.probabilities import EPSILON

CASES = {
    "categorical": Categorical(),
    "gaussian": Gaussian(),
    "probabilities": Probabilities(),
    "factored-even": Factored(Categorical(), (3, 3)),
    "factored-uneven": Factored(Categorical(), (3, 1, 4)),
    "factored-probabilities-even": Factored(Probabilities(), (2, 2, 2)),
    "factored-probabilities-uneven": Factored(Probabilities(), (2, 4, 3)),
    "joint": Joint(Categorical(), (2, 3)),
    "joint-probabilities": Joint(Probabilities(), (3, 2)),
}


def over(*names):
    return pytest.mark.parametrize("d", [CASES[name] for name in names], ids=names)


EVERY = over(*CASES)
DISCRETE = over(*(name for name in CASES if name != "gaussian"))
FACTORED = over(*(name for name in CASES if name.startswith("factored")))
BASES = pytest.mark.parametrize("base", [Categorical(), Probabilities()], ids=lambda d: str(d)[:4])


def base_of(d):
    return getattr(d, "base", d)


def statistics_of(d, seed=0, rows=(3, 7)):
    """Statistics by rows, of doubles."""
    size = {Factored: sum, Joint: math.prod}.get(type(d), lambda _: 6)(getattr(d, "sizes", ()))
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(*rows, size, generator=generator, dtype=torch.float64)
    return output if isinstance(d, Gaussian) else d.statistics(output, None)


def some_actions(d, statistics, seed=1):
    return d.sample(statistics, torch.Generator().manual_seed(seed))


def as_torch(d, statistics):
    """The same distribution by PyTorch, as a list of independent ones."""
    if isinstance(d, Gaussian):
        mean, log_std = statistics.split(statistics.shape[-1] // 2, -1)
        return [oracles.Independent(oracles.Normal(mean, log_std.exp()), 1)]
    factors = statistics.split(d.sizes, -1) if isinstance(d, Factored) else [statistics]
    told_by = "logits" if isinstance(base_of(d), Categorical) else "probs"
    return [oracles.Categorical(**{told_by: factor}) for factor in factors]


def as_torch_actions(d, actions):
    """What each of `as_torch` calls the actions."""
    if isinstance(d, Factored):
        return actions.unbind(-1)
    if isinstance(d, Joint):
        return [torch.from_numpy(np.ravel_multi_index(actions.unbind(-1), d.sizes))]
    return [actions]


def assert_like_torch(d, value, expected):
    """Up to the small number in the logarithms of probabilities, where there is one."""
    torch.testing.assert_close(
        value, expected, atol=2e-3 if isinstance(base_of(d), Probabilities) else 1e-9, rtol=1e-7
    )


@EVERY
def test_log_prob_and_entropy_are_those_of_torch(d):
    statistics = statistics_of(d)
    actions = some_actions(d, statistics)
    oracle = as_torch(d, statistics)
    taken = zip(oracle, as_torch_actions(d, actions), strict=True)
    assert_like_torch(d, d.log_prob(statistics, actions), sum(o.log_prob(a) for o, a in taken))
    assert_like_torch(d, d.entropy(statistics), sum(o.entropy() for o in oracle))


@EVERY
def test_kl_is_that_of_torch_with_the_reference_first(d):
    p, q = statistics_of(d, 0), statistics_of(d, 1)
    pairs = zip(as_torch(d, p), as_torch(d, q), strict=True)
    expected = sum(itertools.starmap(kl_divergence, pairs))
    assert_like_torch(d, d.kl(p, q), expected)
    assert not torch.allclose(d.kl(q, p), expected, atol=0.01)
    torch.testing.assert_close(d.kl(p, p), torch.zeros_like(expected))


@EVERY
def test_gradients_are_those_of_autograd(d):
    statistics, reference = statistics_of(d).requires_grad_(), statistics_of(d, 1)
    actions = some_actions(d, statistics.detach())
    fixed = statistics.detach()
    for value, gradient in (
        (d.log_prob(statistics, actions), d.score(fixed, actions)),
        (d.entropy(statistics), d.entropy_gradient(fixed)),
        (d.kl(reference, statistics), d.kl_gradient(reference, fixed)),
    ):
        (expected,) = torch.autograd.grad(value.sum(), statistics)
        torch.testing.assert_close(gradient, expected)


@EVERY
@pytest.mark.parametrize("rows", [(), (4,), (3, 7), (0,), (2, 1, 3)])
def test_shapes_have_one_row_per_action(d, rows):
    statistics = statistics_of(d, rows=rows)
    actions = some_actions(d, statistics)
    length = (3,) if isinstance(d, Gaussian) else (len(d.sizes),) if hasattr(d, "sizes") else ()
    assert actions.shape == rows + length
    assert actions.dtype == (torch.float64 if isinstance(d, Gaussian) else torch.int64)
    mode = d.mode(statistics)
    assert (mode.shape, mode.dtype) == (actions.shape, actions.dtype)
    for values in (
        d.log_prob(statistics, actions),
        d.entropy(statistics),
        d.kl(statistics, statistics),
    ):
        assert values.shape == rows
        assert values.dtype == torch.float64
    for gradients in (
        d.score(statistics, actions),
        d.entropy_gradient(statistics),
        d.kl_gradient(statistics, statistics),
    ):
        assert gradients.shape == statistics.shape
        assert gradients.dtype == torch.float64


@EVERY
def test_no_action_is_more_probable_than_the_mode(d):
    statistics = statistics_of(d)
    best = d.log_prob(statistics, d.mode(statistics))
    for seed in range(20):
        actions = some_actions(d, statistics, seed)
        assert (d.log_prob(statistics, actions) <= best).all()


def every_action(d, statistics):
    """Actions and weights whose sums are the exact expectations of polynomials of degree 4."""
    if isinstance(d, Gaussian):
        mean, log_std = statistics.chunk(2)
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        weights /= weights.sum()
        points = itertools.product(range(5), repeat=len(mean))
        index = torch.tensor(list(points))
        actions = mean + log_std.exp() * torch.from_numpy(nodes)[index]
        return actions, torch.from_numpy(weights)[index].prod(-1)
    factors = [oracle.probs for oracle in as_torch(d, statistics)]
    weights = torch.tensor([math.prod(each) for each in itertools.product(*factors)])
    if not hasattr(d, "sizes"):
        return torch.arange(len(statistics)), weights.to(statistics)
    actions = list(itertools.product(*(range(size) for size in d.sizes)))
    return torch.tensor(actions), weights.to(statistics)


def fisher_by_formula(d, statistics):
    if isinstance(d, Gaussian):
        _, log_std = statistics.chunk(2)
        second = torch.full_like(log_std, FISHER_LOG_STD)
        return torch.diag(torch.cat([(-2 * log_std).exp(), second]))
    if isinstance(d, Factored):
        parts = statistics.split(d.sizes)
        return torch.block_diag(*(fisher_by_formula(d.base, part) for part in parts))
    if isinstance(base_of(d), Probabilities):
        return torch.diag(statistics / (statistics + EPSILON).square())
    probs = statistics.softmax(-1)
    return torch.diag(probs) - torch.outer(probs, probs)


@EVERY
@pytest.mark.parametrize("row", range(3))
def test_scores_have_a_known_mean_and_the_fisher_matrix_for_second_moment(d, row):
    statistics = statistics_of(d)[0, row]
    actions, weights = every_action(d, statistics)
    scores = d.score(statistics.expand(len(actions), -1), actions)
    mean = torch.zeros_like(statistics)
    if isinstance(base_of(d), Probabilities):  # these do not know that they sum to one
        mean = statistics / (statistics + EPSILON)
    torch.testing.assert_close(weights @ scores, mean, atol=1e-7, rtol=0)
    moment = scores.T @ (weights.unsqueeze(-1) * scores)
    expected = fisher_by_formula(d, statistics)
    if isinstance(d, Factored):  # the mean of the others is not zero, if it is of probabilities
        blocks = torch.block_diag(*(torch.ones(size, size) for size in d.sizes))
        expected = expected + (1 - blocks) * torch.outer(mean, mean)
    torch.testing.assert_close(moment, expected, atol=1e-6, rtol=1e-6)


@EVERY
def test_the_curvature_of_the_kl_is_the_fisher_matrix(d):
    statistics = statistics_of(d)[0, 0]
    hessian = torch.autograd.functional.hessian(lambda s: d.kl(statistics, s), statistics)
    torch.testing.assert_close(hessian, fisher_by_formula(d, statistics))


@EVERY
def test_the_entropy_is_minus_the_mean_of_the_logarithm(d):
    statistics = statistics_of(d)[0, 0]
    actions, weights = every_action(d, statistics)
    log_probs = d.log_prob(statistics.expand(len(actions), -1), actions)
    torch.testing.assert_close(d.entropy(statistics), -(weights @ log_probs), atol=1e-6, rtol=1e-6)


@DISCRETE
def test_frequencies_of_samples(d):
    statistics = statistics_of(d)[0, 0]
    actions, weights = every_action(d, statistics)
    drawn = some_actions(d, statistics.float().expand(40_000, -1))
    of_each = (drawn.view(40_000, 1, -1) == actions.view(1, len(actions), -1)).all(-1)
    assert of_each.any(1).all()
    frequencies = of_each.double().mean(0)
    torch.testing.assert_close(frequencies, weights, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("base", "statistics"),
    [
        (Probabilities(), [0.5, 0.3, 0.2, 0.0]),
        (Categorical(), [0.5, -1.0, 1.5, -math.inf]),
    ],
)
def test_what_is_impossible_is_never_drawn(base, statistics):
    rows = torch.tensor(statistics).expand(40_000, 4)
    assert (some_actions(base, rows) != 3).all()
    both = Factored(base, (4, 2))
    mixed = torch.cat([rows, base.statistics(torch.zeros(40_000, 2), None)], -1)
    drawn = some_actions(both, mixed)
    assert (drawn < torch.tensor([3, 2])).all()
    assert (drawn.amax(0) == torch.tensor([2, 1])).all()


def test_moments_of_gaussian_samples():
    mean, std = torch.tensor([0.5, -2.0, 0.0]), torch.tensor([0.4, 1.5, 3.0])
    statistics = torch.cat([mean, std.log()]).expand(40_000, 6)
    z = (Gaussian().sample(statistics, torch.Generator().manual_seed(0)) - mean) / std
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(3), atol=0.03, rtol=0)
    torch.testing.assert_close(z.pow(4).mean(0), torch.full((3,), 3.0), atol=0.15, rtol=0)


@EVERY
def test_samples_come_from_the_generator_alone(d):
    statistics = statistics_of(d)
    before = torch.get_rng_state()
    first, again, other = (some_actions(d, statistics, seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@EVERY
def test_they_can_be_copied_and_stored_and_not_changed(d):
    statistics = statistics_of(d)
    actions = some_actions(d, statistics)
    for twin in (copy.copy(d), copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert twin == d
        assert hash(twin) == hash(d)
        assert torch.equal(some_actions(twin, statistics), actions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        d.base = None
    assert [d == other for other in CASES.values()].count(True) == 1


# The elementary distributions.


def test_statistics_of_the_output_of_a_network():
    output = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    log_std = torch.tensor([0.1, -0.2, 0.3, 0.0])
    assert torch.equal(Categorical().statistics(output, None), output)
    assert torch.equal(Joint(Categorical(), (2, 2)).statistics(output, None), output)
    assert torch.equal(Factored(Categorical(), (1, 3)).statistics(output, None), output)
    assert torch.equal(Probabilities().statistics(output, None), output.softmax(-1))
    joint = Joint(Probabilities(), (2, 2)).statistics(output, None)
    assert torch.equal(joint, output.softmax(-1))
    mean, log_stds = split(Gaussian().statistics(output, log_std))
    assert torch.equal(mean, output)
    assert torch.equal(log_stds, log_std.expand(3, 5, 4))
    with pytest.raises(ValueError, match="log-deviations"):
        Gaussian().statistics(output, None)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 1, 2), (6,)])
def test_probabilities_of_factors_are_a_softmax_of_each(sizes):
    output = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    probs = Factored(Probabilities(), sizes).statistics(output, None)
    expected = torch.cat([part.softmax(-1) for part in output.split(sizes, -1)], -1)
    torch.testing.assert_close(probs, expected)
    (gradient,) = torch.autograd.grad(probs.square().sum(), output)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), output)[0])


def gaussian_of(mean, std):
    return torch.cat([torch.tensor(mean), torch.tensor(std).log()])


def test_golden_kl_of_gaussians_and_its_gradient():
    reference = gaussian_of([0.1, -0.5], [0.3, 2.0])
    statistics = gaussian_of([0.5, -1.0], [0.4, 1.5])
    kl = Gaussian().kl(reference, statistics)
    assert kl.item() == pytest.approx(0.7256944, abs=2e-7)
    gradient = Gaussian().kl_gradient(reference, statistics)
    assert gradient.tolist() == pytest.approx([2.5, -0.2222222, -0.5625, -0.8888889], abs=2e-6)


def test_golden_numbers_of_a_standard_normal():
    statistics = torch.zeros(2)
    assert Gaussian().log_prob(statistics, torch.zeros(1)).item() == pytest.approx(-0.9189385)
    assert Gaussian().entropy(statistics).item() == pytest.approx(1.4189385)
    assert Gaussian().entropy_gradient(statistics).tolist() == [0.0, 1.0]
    assert Gaussian().score(statistics, torch.tensor([2.0])).tolist() == [2.0, 3.0]


def test_logits_far_apart_stay_finite():
    logits = torch.tensor([2000.0, 0.0, -2000.0])
    d = Categorical()
    assert d.entropy(logits).item() == 0.0
    assert d.entropy_gradient(logits).tolist() == [0.0, 0.0, 0.0]
    assert d.log_prob(logits, torch.tensor(2)).item() == -4000.0
    assert d.kl(logits, -logits).item() == pytest.approx(4000.0)
    assert d.kl_gradient(logits, -logits).tolist() == [-1.0, 0.0, 1.0]
    assert d.score(logits, torch.tensor(1)).tolist() == [-1.0, 1.0, 0.0]
    shifted = statistics_of(d)
    actions = some_actions(d, shifted)
    same = d.log_prob(shifted, actions)
    torch.testing.assert_close(d.log_prob(shifted + 100.0, actions), same)


def test_probabilities_of_zero_stay_finite():
    zero, one = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    d, log = Probabilities(), -math.log(EPSILON)
    assert d.entropy(zero).item() == pytest.approx(0.0, abs=2e-6)
    assert d.entropy_gradient(zero).tolist() == pytest.approx([-1.0, log], abs=1e-5)
    assert d.log_prob(zero, torch.tensor(1)).item() == pytest.approx(-log)
    assert d.kl(zero, one).item() == pytest.approx(log, abs=1e-5)
    assert d.kl_gradient(zero, one).tolist() == pytest.approx([-1 / EPSILON, 0.0])
    assert d.score(zero, torch.tensor(1)).tolist() == pytest.approx([0.0, 1 / EPSILON])
    assert d.score(zero, torch.tensor(0)).tolist() == pytest.approx([1.0, 0.0], abs=1e-5)


# Several actions at a time.


def one_by_one(d, statistics, method, *rows):
    """A method of the base on each factor alone."""
    parts = [row.split(d.sizes, -1) for row in (*rows, statistics)]
    return [getattr(d.base, method)(*each) for each in zip(*parts, strict=True)]


def gradients_of(value, *inputs):
    return torch.autograd.grad(value.sum(), inputs, retain_graph=True)


@FACTORED
def test_factors_are_computed_as_if_alone(d):
    p, q = statistics_of(d, 0).requires_grad_(), statistics_of(d, 1).requires_grad_()
    entropy, kl = sum(one_by_one(d, q, "entropy")), sum(one_by_one(d, q, "kl", p))
    torch.testing.assert_close(d.entropy(q), entropy, atol=0, rtol=1e-12)
    torch.testing.assert_close(d.kl(p, q), kl, atol=0, rtol=1e-12)
    torch.testing.assert_close(gradients_of(d.entropy(q), q), gradients_of(entropy, q))
    torch.testing.assert_close(gradients_of(d.kl(p, q), p, q), gradients_of(kl, p, q))
    for method, rows in (("entropy_gradient", ()), ("kl_gradient", (p,))):
        expected = torch.cat(one_by_one(d, q, method, *rows), -1)
        torch.testing.assert_close(getattr(d, method)(*rows, q), expected)
    assert torch.equal(d.mode(q), torch.stack(one_by_one(d, q, "mode"), -1))
    actions = some_actions(d, q.detach())
    expected = torch.cat(
        [
            d.base.score(part, taken)
            for part, taken in zip(q.split(d.sizes, -1), actions.unbind(-1), strict=True)
        ],
        -1,
    )
    torch.testing.assert_close(d.score(q, actions), expected)


@FACTORED
def test_one_hots_stand_like_the_statistics(d):
    actions = some_actions(d, statistics_of(d))
    each = zip(actions.unbind(-1), d.sizes, strict=True)
    expected = torch.cat([torch.nn.functional.one_hot(a, size) for a, size in each], -1)
    assert torch.equal(d.one_hots(actions), expected.float())


@BASES
def test_one_factor_is_its_base(base):
    d = Factored(base, (6,))
    p, q = statistics_of(base), statistics_of(base, 1)
    actions = some_actions(base, p)
    assert torch.equal(some_actions(d, p), actions.unsqueeze(-1))
    assert torch.equal(d.mode(p), base.mode(p).unsqueeze(-1))
    assert torch.equal(d.log_prob(p, actions.unsqueeze(-1)), base.log_prob(p, actions))
    assert torch.equal(d.score(p, actions.unsqueeze(-1)), base.score(p, actions))
    assert torch.equal(d.entropy(p), base.entropy(p))
    assert torch.equal(d.entropy_gradient(p), base.entropy_gradient(p))
    assert torch.equal(d.kl(p, q), base.kl(p, q))
    assert torch.equal(d.kl_gradient(p, q), base.kl_gradient(p, q))


def test_factors_of_two_are_bits():
    d = Factored(Categorical(), (2,) * 5)
    p, q = statistics_of(d, 0), statistics_of(d, 1)

    def bits(statistics):
        return oracles.Bernoulli(logits=statistics[..., 1::2] - statistics[..., ::2])

    actions = some_actions(d, p)
    expected = bits(p).log_prob(actions.double()).sum(-1)
    torch.testing.assert_close(d.log_prob(p, actions), expected)
    torch.testing.assert_close(d.entropy(p), bits(p).entropy().sum(-1))
    torch.testing.assert_close(d.kl(p, q), kl_divergence(bits(p), bits(q)).sum(-1))
    assert torch.equal(d.mode(p), (bits(p).probs > 0.5).long())


@BASES
def test_bits_are_the_same_beside_a_larger_factor(base):
    """That factor makes the grid one of rows of three, with a cell to spare in each bit."""
    bits, more = Factored(base, (2,) * 4), Factored(base, (2, 2, 2, 2, 3))
    p, q = statistics_of(more, 0), statistics_of(more, 1)
    actions = some_actions(more, p)
    (p_bits, p_last), (q_bits, q_last) = p.split([8, 3], -1), q.split([8, 3], -1)
    assert_same = torch.testing.assert_close
    last = base.log_prob(p_last, actions[..., 4])
    assert_same(more.log_prob(p, actions), bits.log_prob(p_bits, actions[..., :4]) + last)
    assert_same(more.entropy(p), bits.entropy(p_bits) + base.entropy(p_last))
    assert_same(more.kl(p, q), bits.kl(p_bits, q_bits) + base.kl(p_last, q_last))
    assert_same(more.score(p, actions)[..., :8], bits.score(p_bits, actions[..., :4]))
    assert_same(more.entropy_gradient(p)[..., :8], bits.entropy_gradient(p_bits))
    assert_same(more.kl_gradient(p, q)[..., :8], bits.kl_gradient(p_bits, q_bits))
    assert torch.equal(more.mode(p)[..., :4], bits.mode(p_bits))


@BASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spare_cells_stay_finite_beside_extreme_statistics(base, dtype):
    d = Factored(base, (2, 4, 1))
    output = torch.tensor([2000.0, -2000.0, -5000.0, 0.0, 5000.0, -5000.0, -9000.0], dtype=dtype)
    p = d.statistics(output, None).requires_grad_()
    q = d.statistics(-output, None).requires_grad_()
    assert d.mode(p).tolist() == [0, 2, 0]
    assert some_actions(d, p.detach()).tolist() == [0, 2, 0]
    actions = torch.tensor([1, 1, 0])
    for value in (d.log_prob(p, actions), d.entropy(p), d.kl(p, q), d.kl(p, p)):
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, p)
        assert gradient.isfinite().all()
        (gradient,) = torch.autograd.grad(d.kl(p, q), q)
        assert gradient.isfinite().all()
    for gradient in (d.score(p, actions), d.entropy_gradient(p), d.kl_gradient(p, q)):
        assert gradient.isfinite().all()


def test_what_was_first_used_in_inference_mode_can_be_learnt_from():
    d = Factored(Categorical(), (1, 5, 2))
    statistics = statistics_of(d)
    with torch.inference_mode():
        expected = d.entropy(statistics)
    statistics.requires_grad_()
    entropy = d.entropy(statistics)
    assert torch.equal(entropy, expected)
    entropy.sum().backward()
    torch.testing.assert_close(statistics.grad, d.entropy_gradient(statistics.detach()))


@pytest.mark.parametrize("sizes", [(2, 3, 4), (5,), (1, 3, 1), (2,) * 5])
def test_joint_indices_count_the_last_factor_fastest(sizes):
    actions = torch.tensor(list(itertools.product(*(range(size) for size in sizes))))
    index = torch.arange(math.prod(sizes))
    assert torch.equal(joint_index(actions, sizes), index)
    assert torch.equal(joint_actions(index, sizes), actions)
    assert joint_index(actions, sizes).dtype == joint_actions(index, sizes).dtype == torch.int64
    several = index.view(-1, 1).expand(-1, 3)
    assert joint_actions(several, sizes).shape == (*several.shape, len(sizes))
    assert torch.equal(joint_index(joint_actions(several, sizes), sizes), several)


@BASES
def test_joint_actions_are_those_of_one_discrete_space(base):
    d = Joint(base, (2, 3))
    p = statistics_of(base)
    index = some_actions(base, p)
    actions = some_actions(d, p)
    assert torch.equal(actions, torch.stack([index // 3, index % 3], -1))
    assert torch.equal(d.mode(p), torch.stack([base.mode(p) // 3, base.mode(p) % 3], -1))
    assert torch.equal(d.log_prob(p, actions), base.log_prob(p, index))
    assert torch.equal(d.score(p, actions), base.score(p, index))


def test_independent_factors_are_a_joint_distribution_too():
    factored, joint = Factored(Categorical(), (2, 3)), Joint(Categorical(), (2, 3))
    p, q = statistics_of(factored, 0), statistics_of(factored, 1)

    def product(statistics):
        first, second = (part.log_softmax(-1) for part in statistics.split([2, 3], -1))
        return (first.unsqueeze(-1) + second.unsqueeze(-2)).flatten(-2)

    actions = some_actions(factored, p)
    expected = factored.log_prob(p, actions)
    torch.testing.assert_close(joint.log_prob(product(p), actions), expected)
    torch.testing.assert_close(joint.entropy(product(p)), factored.entropy(p))
    torch.testing.assert_close(joint.kl(product(p), product(q)), factored.kl(p, q))
    assert torch.equal(joint.mode(product(p)), factored.mode(p))
