"""The algebra of Kronecker factors against golden numbers, dense matrices and F.unfold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlrun.functional import kronecker
from rlrun.functional.trust_region import kl_step_scale


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_factor(size, seed=0, rank=None):
    rows = rand(rank or 2 * size, size, seed=seed)
    return rows.T @ rows / len(rows)


def random_problem(inputs=4, outputs=3, **kinds):
    a, g = random_factor(inputs, 1, **kinds), random_factor(outputs, 2, **kinds)
    return rand(outputs, inputs, seed=3), a, g


def mean_outer(rows):
    factor = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype)
    kronecker.accumulate_(factor, rows, 1.0, 1.0 / len(rows))
    return factor


def exact(gradient, a, g, damping):
    bases = [kronecker.eigenbasis(factor)[:2] for factor in (a, g)]
    return kronecker.precondition_exact(gradient, *bases, damping)


def factored(gradient, a, g, damping):
    dampings = kronecker.factored_damping(a, g, damping)
    inverses = [kronecker.damped_inverse(*pair) for pair in zip((a, g), dampings, strict=True)]
    return kronecker.precondition_factored(gradient, *inverses)


GRADIENT = matrix([0.1, -0.2, 0.3], [0.4, 0.5, -0.6])
A = matrix([10, 5, 4], [5, 6, 2], [4, 2, 3]) / 3
G = matrix([5, -2], [-2, 2]) / 3


def test_golden_factors():
    inputs = kronecker.with_one(matrix([1, 2], [0, -1], [3, 1]))
    torch.testing.assert_close(mean_outer(inputs), A)
    torch.testing.assert_close(mean_outer(matrix([1, 0], [2, -1], [0, 1])), G)


def test_golden_step_with_exact_damping():
    step = exact(GRADIENT, A, G, 0.01)
    expected = matrix([0.50635731, 0.0469426, -0.9639672], [1.4130671, 0.43613345, -3.28312724])
    torch.testing.assert_close(step, expected, atol=1e-8, rtol=0)
    dot = (step * GRADIENT).sum()
    assert 0.25**2 * dot.item() == pytest.approx(0.15657669, abs=1e-8)
    assert kl_step_scale(dot, 0.25, 1e-3).item() == pytest.approx(0.07991650, abs=1e-8)


def test_golden_step_with_factored_damping():
    damping_a, damping_g = kronecker.factored_damping(A, G, 0.01)
    assert (damping_a / damping_g).sqrt().item() == pytest.approx(1.34518542, abs=1e-8)
    expected = matrix([0.32780762, 0.03034814, -0.58830311], [0.91994535, 0.37075486, -2.17936052])
    torch.testing.assert_close(factored(GRADIENT, A, G, 0.01), expected, atol=1e-8, rtol=0)


def test_accumulation_fades_the_old_and_adds_the_new():
    factor, rows = random_factor(3), rand(5, 3, seed=1)
    expected = 0.9 * factor + 0.02 * sum(torch.outer(row, row) for row in rows)
    kronecker.accumulate_(factor, rows, 0.9, 0.02)
    torch.testing.assert_close(factor, expected)


@pytest.mark.parametrize("damping", [1e-3, 1.0])
@pytest.mark.parametrize("rank", [None, 2])
def test_exact_damping_solves_the_dense_system(damping, rank):
    gradient, a, g = random_problem(rank=rank)
    dense = torch.kron(g, a) + damping * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(dense, gradient.flatten()).view(3, 4)
    torch.testing.assert_close(exact(gradient, a, g, damping), expected)


@pytest.mark.parametrize("damping", [1e-3, 1.0])
@pytest.mark.parametrize("rank", [None, 2])
def test_factored_damping_solves_the_product_of_damped_factors(damping, rank):
    gradient, a, g = random_problem(rank=rank)
    pi = ((a.trace() / 4) / (g.trace() / 3)).sqrt()
    damped_a = a + pi * damping**0.5 * torch.eye(4, dtype=torch.float64)
    damped_g = g + damping**0.5 / pi * torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.solve(torch.kron(damped_g, damped_a), gradient.flatten()).view(3, 4)
    torch.testing.assert_close(factored(gradient, a, g, damping), expected)


@pytest.mark.parametrize("precondition", [exact, factored])
def test_only_the_product_of_the_factors_matters(precondition):
    gradient, a, g = random_problem()
    scaled = precondition(gradient, 50.0 * a, g / 50.0, 0.1)
    torch.testing.assert_close(scaled, precondition(gradient, a, g, 0.1))


@pytest.mark.parametrize("precondition", [exact, factored])
def test_infinite_damping_leaves_the_gradient(precondition):
    gradient, a, g = random_problem()
    torch.testing.assert_close(
        1e16 * precondition(gradient, a, g, 1e16), gradient, atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("precondition", [exact, factored])
def test_preconditioning_changes_none_of_its_arguments(precondition):
    arguments = random_problem()
    copies = [argument.clone() for argument in arguments]
    precondition(*arguments, 0.1)
    assert all(map(torch.equal, arguments, copies))


def test_factored_dampings_multiply_to_the_damping():
    _, a, g = random_problem()
    damping_a, damping_g = kronecker.factored_damping(a, g, 0.01)
    assert (damping_a * damping_g).item() == pytest.approx(0.01)


@pytest.mark.parametrize(("a", "g"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_where_a_trace_vanishes_both_factors_are_damped_alike(a, g):
    eye = torch.eye(2, dtype=torch.float64)
    for damping in kronecker.factored_damping(a * eye, g * eye, 0.04):
        assert damping.item() == pytest.approx(0.2)


@pytest.mark.parametrize(("a", "g"), [(1e3, 1e-44), (1e-44, 1e3)])
def test_the_ratio_of_the_traces_does_not_overflow(a, g):
    eye = torch.eye(2)
    for damping in kronecker.factored_damping(a * eye, g * eye, 0.01):
        assert 0 < damping < float("inf")


def test_eigenbasis_rebuilds_the_factor():
    factor = random_factor(6)
    values, vectors, negatives = kronecker.eigenbasis(factor)
    torch.testing.assert_close(vectors @ values.diag() @ vectors.T, factor)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(6, dtype=torch.float64))
    assert values.equal(values.sort().values)
    assert negatives == 0


def test_negative_eigenvalues_become_zero_and_are_counted():
    q = torch.linalg.qr(rand(4, 4)).Q
    wanted = torch.tensor([-2e-9, -1e-9, 0.5, 2.0], dtype=torch.float64)
    values, _, negatives = kronecker.eigenbasis(q @ wanted.diag() @ q.T)
    torch.testing.assert_close(values, wanted.clamp(min=0.0), atol=1e-12, rtol=0)
    assert negatives == 2
    assert kronecker.eigenbasis(torch.zeros(3, 3))[2] == 0


def test_the_inverse_of_an_indefinite_matrix_is_refused():
    with pytest.raises(torch.linalg.LinAlgError):
        kronecker.damped_inverse(matrix([1, 2], [2, 1]), torch.tensor(0.5))


def test_quadratic_form_is_that_of_the_dense_matrix():
    step, a, g = random_problem()
    expected = step.flatten() @ torch.kron(g, a) @ step.flatten()
    torch.testing.assert_close(kronecker.quadratic_form(step, a, g), expected)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("rank", [None, 1])
def test_power_iteration_comes_near_the_largest_eigenvalue_and_never_above(size, rank):
    factor = random_factor(size, rank=rank)
    ratio = kronecker.largest_eigenvalue(factor) / torch.linalg.eigvalsh(factor)[-1]
    assert 0.9 < ratio < 1 + 1e-12
    if rank == 1:
        assert ratio == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("actions", [2, 3, 6])
def test_power_iteration_sees_the_scores_of_a_uniform_softmax(actions):
    """Their second moment has equal diagonal entries, and its rows sum to 0."""
    uniform = torch.full((actions,), 1 / actions, dtype=torch.float64)
    factor = uniform.diag() - torch.outer(uniform, uniform)
    assert kronecker.largest_eigenvalue(factor).item() == pytest.approx(1 / actions)


def test_power_iteration_of_nothing_is_zero():
    assert kronecker.largest_eigenvalue(torch.zeros(3, 3)) == 0


GEOMETRIES = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": (2, 1)},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "padding": (0, 2), "stride": 2},
    {"kernel_size": (2, 3), "dilation": (3, 2)},
    {"kernel_size": (3, 2), "dilation": 2, "padding": (2, 1), "stride": (1, 3)},
    {"kernel_size": 1},
    {"kernel_size": (7, 9)},
]


def conv_problem(geometry, memory_format=torch.contiguous_format):
    layer = nn.Conv2d(3, 4, dtype=torch.float64, **geometry).requires_grad_(False)
    layer.weight.copy_(rand(*layer.weight.shape, seed=1))
    layer.bias.copy_(rand(4, seed=2))
    return layer, rand(5, 3, 7, 9).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_patches_are_those_of_unfold(geometry, memory_format):
    layer, images = conv_problem(geometry, memory_format)
    patches = kronecker.patches(images, layer)
    options = {name: getattr(layer, name) for name in ("dilation", "padding", "stride")}
    unfolded = nn.functional.unfold(images, layer.kernel_size, **options)
    expected = unfolded.view(5, 3, *patches.shape[3:5], *patches.shape[1:3]).permute(
        0, 4, 5, 2, 3, 1
    )
    assert torch.equal(patches, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_is_its_weight_times_the_patches(geometry):
    layer, images = conv_problem(geometry)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    outputs = kronecker.patches(images, layer).flatten(3) @ weight.T + layer.bias
    torch.testing.assert_close(outputs.movedim(3, 1), layer(images))


def test_patches_of_unpadded_images_are_a_view():
    layer, images = conv_problem({"kernel_size": 3, "stride": 2})
    patches = kronecker.patches(images, layer)
    assert patches.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()


spectra = st.lists(st.floats(-18, 18), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(spectra, spectra, st.floats(-8, 2), st.sampled_from([exact, factored]))
def test_ill_conditioned_factors_give_finite_steps_along_the_gradient(a, g, damping, precondition):
    qa, qg = torch.linalg.qr(rand(3, 3, seed=1)).Q, torch.linalg.qr(rand(3, 3, seed=2)).Q
    gradient = rand(3, 3, seed=3)

    def factor(q, exponents):
        values = 10.0 ** torch.tensor(exponents, dtype=torch.float64)
        # Symmetric in the last bit, as sums of outer products are.
        product = q @ values.diag() @ q.T
        return (product + product.T) / 2

    a, g = factor(qa, a), factor(qg, g)
    try:
        step = precondition(gradient, a, g, 10.0**damping)
    except torch.linalg.LinAlgError:  # rounding may leave an indefinite factor to Cholesky
        assert precondition is factored
        return
    assert step.isfinite().all()
    assert (step * gradient).sum() > 0


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
@settings(max_examples=50, deadline=None)
def test_the_mean_patch_is_the_mean_of_the_patches(kernel, stride, padding, dilation):
    layer = nn.Conv2d(3, 2, kernel, stride, padding, dilation)
    images = rand(5, 3, 8, 9)
    expected = kronecker.patches(images, layer).mean((1, 2))
    torch.testing.assert_close(kronecker.mean_patches(images, layer), expected)
