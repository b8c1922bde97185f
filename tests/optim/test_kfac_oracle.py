"""Factors and steps against other programs: torch.func, F.unfold, and the K-FAC of curvlinops."""

import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from rlrun.optim.kfac import KFAC

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it uses torch.jit.script
    from curvlinops import KFACInverseLinearOperator, KFACLinearOperator

SHARING = ["expand", "reduce"]


pytestmark = pytest.mark.usefixtures("double_on_one_thread")


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(9, 4)


def sequence():
    layers = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Tanh(), Mean()
    return nn.Sequential(*layers, nn.Linear(4, 3)), torch.randn(9, 6, 4)


def cnn():
    first = nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 0))
    second = nn.Conv2d(3, 4, 2, dilation=(1, 2), padding=1, bias=False)
    layers = first, nn.Tanh(), second, nn.Tanh(), nn.Flatten()
    x = torch.randn(9, 2, 5, 7)
    return nn.Sequential(*layers, nn.Linear(nn.Sequential(*layers)(x).shape[1], 3)), x


def enumerated_scores(model, x):
    """Inputs and scores with the exact Fisher matrix of a softmax for second moment."""
    probs = model(x).softmax(-1).detach()
    n = probs.shape[-1]
    scores = (torch.eye(n).unsqueeze(1) - probs) * (n * probs.T.unsqueeze(-1)).sqrt()
    return torch.cat([x] * n), scores.flatten(0, 1)


def unit_scores(model, x):
    """The same for a Gaussian of variance 1 around the outputs."""
    outputs = model(x)
    n = outputs.shape[-1]
    return torch.cat([x] * n), math.sqrt(n) * torch.eye(n).repeat_interleave(len(x), 0)


def settled(model, x, scores, **options):
    kfac = KFAC(model, 1.0, 0.0, kl_clip=math.inf, cold_iter=0, **options)
    with kfac.capture():
        model(x).backward(scores)
    return kfac


def product(kfac, vectors):
    """Each block's `A (x) G` applied to tensors of the shapes of the parameters."""
    named = dict(zip(kfac.parameters, vectors, strict=True))
    found = {}
    for block in kfac.blocks.values():
        matrix = block.matrix([named[p] for p in block.parameters])
        found |= zip(block.parameters, block.split(block.g @ matrix @ block.a), strict=True)
    return [found[p] for p in kfac.parameters]


def natural(kfac, gradients):
    before = [p.detach().clone() for p in kfac.parameters]
    for p, gradient in zip(kfac.parameters, gradients, strict=True):
        p.grad = gradient.clone()
    kfac.step()
    return [old - p.detach() for old, p in zip(before, kfac.parameters, strict=True)]


def random_like(model):
    return [torch.randn_like(p) for p in model.parameters()]


# curvlinops.


def linear_operator(model, x, sharing, separate=False):
    return KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(x, torch.zeros(len(x), dtype=torch.long))],
        fisher_type="type-2",
        kfac_approx=sharing,
        separate_weight_and_bias=separate,
        check_deterministic=False,
    )


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("make", [mlp, sequence, cnn])
def test_the_product_of_the_factors_is_that_of_curvlinops(make, sharing):
    model, x = make()
    kfac = settled(model, *enumerated_scores(model, x), sharing=sharing)
    vectors = random_like(model)
    expected = linear_operator(model, x, sharing) @ vectors
    torch.testing.assert_close(product(kfac, vectors), expected)


@pytest.mark.parametrize("rule", ["exact", "factored"])
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("make", [mlp, sequence, cnn])
def test_the_natural_gradient_is_that_of_curvlinops(make, sharing, rule):
    model, x = make()
    operator = linear_operator(model, x, sharing)
    which = {"exact": "use_exact_damping", "factored": "use_heuristic_damping"}[rule]
    inverse = KFACInverseLinearOperator(operator, damping=0.01, **{which: True})
    gradients = random_like(model)
    expected = inverse @ gradients
    options = {"sharing": sharing, "damping_rule": rule, "damping": 0.01}
    kfac = settled(model, *enumerated_scores(model, x), **options)
    torch.testing.assert_close(natural(kfac, gradients), expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "sharing"), [(mlp, "expand"), (sequence, "reduce"), (cnn, "reduce")]
)
def test_separate_biases_are_those_of_curvlinops(make, sharing):
    model, x = make()
    operator = linear_operator(model, x, sharing, separate=True)
    inverse = KFACInverseLinearOperator(operator, damping=0.01, use_exact_damping=True)
    gradients = random_like(model)
    expected = inverse @ gradients
    options = {"sharing": sharing, "bias": "separate", "damping": 0.01}
    kfac = settled(model, *enumerated_scores(model, x), **options)
    torch.testing.assert_close(natural(kfac, gradients), expected, atol=1e-9, rtol=1e-6)


# Where K-FAC is exact: the Fisher matrix from the Jacobian of every sample.


def jacobians(model, x):
    """By parameter, `[B, out, *shape]`."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(values, sample):
        return functional_call(model, values, (sample.unsqueeze(0),)).squeeze(0)

    return vmap(jacrev(outputs), (None, 0))(parameters, x)


def fisher_product(kfac, x, hessian, vectors):
    """Blocks of `mean_n J_n^T H_n J_n`, one for each layer, applied to vectors."""
    names = {p: name for name, p in kfac.model.named_parameters()}
    jacobian = jacobians(kfac.model, x)
    found = {}
    for block in kfac.blocks.values():
        rows = torch.cat([jacobian[names[p]].flatten(2) for p in block.parameters], 2)
        index = [next(i for i, q in enumerate(kfac.parameters) if q is p) for p in block.parameters]
        vector = torch.cat([vectors[i].flatten() for i in index])
        result = torch.einsum("npi,npq,nqj,j->i", rows, hessian, rows, vector) / len(x)
        parts = result.split([p.numel() for p in block.parameters])
        found |= {p: part.view_as(p) for p, part in zip(block.parameters, parts, strict=True)}
    return [found[p] for p in kfac.parameters]


def gaussian_hessian(model, x):
    return torch.eye(model(x).shape[-1]).expand(len(x), -1, -1)


def softmax_hessian(model, x):
    probs = model(x).softmax(-1).detach()
    return torch.diag_embed(probs) - probs.unsqueeze(1) * probs.unsqueeze(2)


def linear_net(*widths):
    return nn.Sequential(*(nn.Linear(i, o) for i, o in itertools.pairwise(widths)))


@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (4, 2, 6, 3)])
def test_the_fisher_matrix_of_a_linear_net_with_gaussian_outputs_is_exact(widths):
    model, x = linear_net(*widths), torch.randn(20, 4)
    kfac = settled(model, *unit_scores(model, x))
    vectors = random_like(model)
    expected = fisher_product(kfac, x, gaussian_hessian(model, x), vectors)
    torch.testing.assert_close(product(kfac, vectors), expected)


def test_scores_of_a_linear_model_with_gaussian_outputs_have_the_identity_for_factor():
    model, x = linear_net(4, 3), torch.randn(20, 4)
    kfac = settled(model, *unit_scores(model, x))
    torch.testing.assert_close(kfac.blocks["0"].g, torch.eye(3))
    noise = torch.randn(20000, 3)
    sampled = settled(model, x.repeat(1000, 1), noise)
    torch.testing.assert_close(sampled.blocks["0"].a, kfac.blocks["0"].a)
    torch.testing.assert_close(sampled.blocks["0"].g, torch.eye(3), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", ["gaussian", "softmax"])
def test_the_fisher_matrix_of_one_sample_is_exact(kind):
    model, x = mlp()
    x = x[:1]
    draw = {"gaussian": unit_scores, "softmax": enumerated_scores}[kind]
    hessian = {"gaussian": gaussian_hessian, "softmax": softmax_hessian}[kind](model, x)
    kfac = settled(model, *draw(model, x))
    vectors = random_like(model)
    torch.testing.assert_close(product(kfac, vectors), fisher_product(kfac, x, hessian, vectors))


def outer_product_of_the_gradient(model, x, scores, vectors, blocks):
    """`(g . v) g`, block by block."""
    gradients = torch.autograd.grad(model(x), list(model.parameters()), scores)
    named = {p: i for i, p in enumerate(model.parameters())}
    found = {}
    for block in blocks:
        index = [named[p] for p in block.parameters]
        along = sum((gradients[i] * vectors[i]).sum() for i in index)
        found |= {i: along * gradients[i] for i in index}
    return [found[i] for i in range(len(vectors))]


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("bias", ["homogeneous", "separate"])
def test_the_factors_of_one_sample_are_the_outer_product_of_its_gradient(sharing, bias):
    model, x = mlp()
    x, scores = x[:1], torch.randn(1, 3)
    kfac = settled(model, x, scores, sharing=sharing, bias=bias)
    vectors = random_like(model)
    expected = outer_product_of_the_gradient(model, x, scores, vectors, kfac.blocks.values())
    torch.testing.assert_close(product(kfac, vectors), expected)


def one_sample(alike, shared):
    if shared == "conv":
        model = nn.Sequential(nn.Conv2d(2, 3, (2, 3)))
        x = (
            torch.randn(1, 2, 1, 1).expand(1, 2, 5, 6)
            if alike == "patches"
            else (torch.randn(1, 2, 5, 6))
        )
        scores = torch.randn(1, 3, 4, 4)
        return model, x, scores[..., :1, :1].expand_as(scores) if alike == "scores" else scores
    x = torch.randn(1, 1, 4).expand(1, 6, 4) if alike == "patches" else torch.randn(1, 6, 4)
    scores = torch.randn(1, 6, 3)
    return (
        nn.Sequential(nn.Linear(4, 3)),
        x,
        scores[:, :1].expand_as(scores) if alike == "scores" else scores,
    )


@pytest.mark.parametrize("bias", ["homogeneous", "separate"])
@pytest.mark.parametrize("shared", ["conv", "linear"])
@pytest.mark.parametrize("alike", ["patches", "scores"])
def test_reduce_is_exact_for_one_sample_whose_positions_are_alike(alike, shared, bias):
    model, x, scores = one_sample(alike, shared)
    kfac = settled(model, x, scores, sharing="reduce", bias=bias)
    vectors = random_like(model)
    expected = outer_product_of_the_gradient(model, x, scores, vectors, kfac.blocks.values())
    torch.testing.assert_close(product(kfac, vectors), expected)


# Convolutions.

GEOMETRIES = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": (2, 1)},
    {"kernel_size": (3, 2), "padding": (1, 0), "stride": 2},
    {"kernel_size": (2, 3), "dilation": (3, 2), "padding": 1},
]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_factors_of_a_convolution_are_those_of_kfc(geometry, with_bias):
    """`A (x) G = T mean(p p^T) (x) mean(d d^T)` over all patches `p` and scores `d`."""
    model, x = nn.Sequential(nn.Conv2d(2, 3, bias=with_bias, **geometry)), torch.randn(6, 2, 7, 9)
    layer, scores = model[0], torch.randn_like(model(x))
    kfac = settled(model, x, scores)
    options = {name: getattr(layer, name) for name in ("dilation", "padding", "stride")}
    patches = nn.functional.unfold(x, layer.kernel_size, **options).mT.flatten(0, 1)
    if with_bias:
        patches = torch.cat([patches, torch.ones(len(patches), 1)], 1)
    rows = scores.movedim(1, 3).flatten(0, 2)
    locations = scores[0, 0].numel()
    gamma, omega = rows.T @ rows / len(rows), patches.T @ patches / len(patches)
    vectors = random_like(model)
    matrix = torch.cat([v.reshape(3, -1) for v in vectors], 1)
    expected = locations * gamma @ matrix @ omega
    found = torch.cat([v.reshape(3, -1) for v in product(kfac, vectors)], 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_a_convolution_that_sees_all_at_once_is_a_dense_layer(kernel, sharing):
    conv = nn.Sequential(nn.Conv2d(2, 3, kernel), nn.Flatten())
    dense = nn.Sequential(nn.Flatten(), nn.Linear(2 * math.prod(kernel), 3))
    dense[1].load_state_dict({"weight": conv[0].weight.flatten(1), "bias": conv[0].bias})
    x, scores = torch.randn(7, 2, *kernel), torch.randn(7, 3)
    gradients = random_like(conv)
    of_conv = natural(settled(conv, x, scores, sharing=sharing), gradients)
    of_dense = natural(settled(dense, x, scores), [gradients[0].flatten(1), gradients[1]])
    torch.testing.assert_close(of_conv[0].flatten(1), of_dense[0])
    torch.testing.assert_close(of_conv[1], of_dense[1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_bias", [True, False])
def test_split_inverts_matrix_in_the_order_of_the_weight(with_bias, memory_format):
    model = nn.Sequential(nn.Conv2d(2, 3, (3, 2), bias=with_bias))
    model.to(memory_format=memory_format)
    block = KFAC(model).blocks["0"]
    tensors = random_like(model)
    matrix = block.matrix(tensors)
    torch.testing.assert_close(block.split(matrix), tensors, atol=0, rtol=0)
    row, column, channel = 2, 1, 1
    assert torch.equal(
        matrix[:, (row * 2 + column) * 2 + channel], tensors[0][:, channel, row, column]
    )
    if with_bias:
        assert torch.equal(matrix[:, -1], tensors[1])
