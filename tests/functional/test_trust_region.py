"""The projection against golden numbers, its optimality conditions, and a generic solver."""

import math

import pytest
import torch

from rlrun.functional.distributions import Probabilities
from rlrun.functional.trust_region import kl_step_scale, project_gradient, projection_size


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_golden_numbers():
    f, f_a, g = rows([0.1, 0.6, 0.3]), rows([0.3, 0.5, 0.2]), rows([-20.0, 0.0, 0.0])
    k = Probabilities().kl_gradient(f_a, f)
    torch.testing.assert_close(k, rows([-3.0, -0.8333333, -0.6666667]), atol=1e-4, rtol=0)
    adjustment = projection_size(g, k, 1.0)
    torch.testing.assert_close(adjustment, rows(5.8191781), atol=1e-3, rtol=0)
    z = project_gradient(g, k, 1.0)
    torch.testing.assert_close(z, rows([-2.5424658, 4.8493151, 3.8794521]), atol=1e-3, rtol=0)
    jacobian = torch.diag(f[0]) - torch.outer(f[0], f[0])
    expected = rows(-0.6361644, 0.6180822, 0.0180822)
    torch.testing.assert_close(jacobian @ z[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(jacobian @ g[0], rows(-1.8, 1.2, 0.6), atol=1e-6, rtol=0)


def random_problem(n=200, actions=5):
    generator = torch.Generator().manual_seed(0)
    f, f_a, g = torch.randn(3, n, actions, generator=generator, dtype=torch.float64)
    return 5.0 * g, Probabilities().kl_gradient(f_a.softmax(-1), f.softmax(-1)), 1.0


def test_feasible_gradients_stay_and_others_land_on_the_boundary():
    g, k, delta = random_problem()
    z = project_gradient(g, k, delta)
    feasible = (k * g).sum(-1) <= delta
    assert feasible.any()
    assert not feasible.all()
    assert torch.equal(z[feasible], g[feasible])
    on_boundary = (k * z).sum(-1)[~feasible]
    torch.testing.assert_close(on_boundary, torch.full_like(on_boundary, delta), atol=1e-4, rtol=0)


def test_the_change_is_along_k():
    g, k, delta = random_problem()
    difference = project_gradient(g, k, delta) - g
    unit = k / k.norm(dim=-1, keepdim=True)
    across = difference - (difference * unit).sum(-1, keepdim=True) * unit
    assert across.abs().max() < 1e-9


def test_no_feasible_point_is_nearer():
    """Of many random points around g, none that is feasible comes closer to it."""
    g, k, delta = random_problem(50)
    best = (project_gradient(g, k, delta) - g).norm(dim=-1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        z = g + 5.0 * torch.randn(g.shape, generator=generator, dtype=torch.float64)
        feasible = (k * z).sum(-1) <= delta
        assert ((z - g).norm(dim=-1)[feasible] >= best[feasible] - 1e-4).all()


def test_equal_policies_still_constrain_the_sum_of_the_gradient():
    """With f_a = f the gradient of the KL is -1 everywhere, so k . g = -sum g."""
    f = torch.full((1, 4), 0.25, dtype=torch.float64)
    k = Probabilities().kl_gradient(f, f)
    torch.testing.assert_close(k, -torch.ones(1, 4, dtype=torch.float64), atol=1e-5, rtol=0)
    z = project_gradient(rows([-3.0, -1.0, 0.0, 1.0]), k, 1.0)
    torch.testing.assert_close(z, rows([-2.5, -0.5, 0.5, 1.5]), atol=1e-4, rtol=0)


def test_infinite_delta_changes_nothing():
    g, k, _ = random_problem()
    assert torch.equal(project_gradient(g, k, float("inf")), g)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def test_golden_scale_of_a_natural_step():
    scale = kl_step_scale(scalar(0.15657669 / 0.25**2), 0.25, 1e-3)
    assert scale.item() == pytest.approx(0.07991650, abs=1e-8)


@pytest.mark.parametrize("learning_rate", [1e-4, 0.25, 10.0])
@pytest.mark.parametrize("dot", [1e-12, 1e-3, 1.0, 1e12])
def test_a_scaled_natural_step_reaches_the_bound_or_is_whole(dot, learning_rate):
    scale = kl_step_scale(scalar(dot), learning_rate, 1e-3).item()
    doubled_kl = learning_rate**2 * dot
    assert 0 < scale <= 1
    if doubled_kl > 1e-3:
        assert scale**2 * doubled_kl == pytest.approx(1e-3)
    else:
        assert scale == 1


@pytest.mark.parametrize(
    ("dot", "learning_rate", "bound"),
    [
        (0.0, 0.25, 1e-3),
        (-1.0, 0.25, 1e-3),
        (1.0, 0.0, 1e-3),
        (9e9, 1.0, math.inf),
        (0, 1, math.inf),
    ],
)
def test_a_natural_step_without_kl_or_bound_is_whole(dot, learning_rate, bound):
    assert kl_step_scale(scalar(dot), learning_rate, bound) == 1
