"""LayerNorm by the diagonal of its Fisher matrix: against loops of autograd over samples."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rlrun.optim.errors import NonFiniteUpdate
from rlrun.optim.kfac import KFAC
from rlrun.run.store import flatten, pack, unflatten, unpack

pytestmark = pytest.mark.usefixtures("double_on_one_thread")


def norm(shape=5, bias=True):
    """One whose parameters and `eps` are seen in the result."""
    layer = nn.LayerNorm(shape, eps=0.1, bias=bias)
    for p in layer.parameters():
        p.data.normal_()
    return layer


def net(bias=True):
    return nn.Sequential(nn.Linear(4, 5), norm(5, bias), nn.Tanh(), nn.Linear(5, 3))


def capture(kfac, *passes):
    with kfac.capture():
        for x, scores in passes:
            kfac.model(x).backward(scores)


def squares(model, layer, x, scores):
    """By parameter of the layer, the square of the score of each sample, `[B, *shape]`."""
    named = dict(layer.named_parameters())
    found = {name: [] for name in named}
    for sample, score in zip(x.split(1), scores.split(1), strict=True):
        gradients = torch.autograd.grad(model(sample), list(named.values()), score)
        for name, gradient in zip(named, gradients, strict=True):
            found[name].append(gradient.square())
    return {name: torch.stack(rows) for name, rows in found.items()}


def means(squares):
    return {name: rows.mean(0) for name, rows in squares.items()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "batch"), [(5, (7, 5)), (5, (7, 6, 5)), (5, (7, 2, 3, 5)), ((2, 5), (7, 3, 2, 5))]
)
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_the_diagonal_is_the_mean_square_of_the_scores_of_samples(shape, batch, bias, sharing):
    model = nn.Sequential(norm(shape, bias), nn.Tanh(), nn.Linear(5, 3))
    x, scores = torch.randn(batch), torch.randn(*batch[:-1], 3)
    kfac = KFAC(model, sharing=sharing)
    capture(kfac, (x, scores))
    expected = means(squares(model, model[0], x, scores))
    assert expected.keys() == ({"weight", "bias"} if bias else {"weight"})
    torch.testing.assert_close(kfac.diagonals["0"].statistics, expected)


def test_a_gaussian_around_a_layer_norm_has_the_unit_matrix_for_its_bias():
    model, x = nn.Sequential(norm()), torch.randn(7, 5)
    kfac = KFAC(model)
    scores = math.sqrt(5) * torch.eye(5).repeat_interleave(7, 0)
    capture(kfac, (x.repeat(5, 1), scores))
    normalised = nn.functional.layer_norm(x, [5], eps=0.1)
    expected = {"weight": normalised.square().mean(0), "bias": torch.ones(5)}
    torch.testing.assert_close(kfac.diagonals["0"].statistics, expected)


def test_each_call_of_one_pass_is_a_sample_of_its_own():
    shared, x, scores = norm(), torch.randn(7, 5), torch.randn(7, 5)
    kfac = KFAC(nn.Sequential(shared, nn.Tanh(), shared))
    capture(kfac, (x, scores))
    apart = nn.Sequential(shared, nn.Tanh(), copy.deepcopy(shared))
    first, second = (squares(apart, apart[i], x, scores) for i in (0, 2))
    expected = means({name: torch.cat([first[name], second[name]]) for name in first})
    torch.testing.assert_close(kfac.diagonals["0"].statistics, expected)


def test_passes_of_other_shapes_count_by_their_samples():
    model = nn.Sequential(norm())
    kfac = KFAC(model)
    shapes = (7, 5), (3, 4, 5), (2, 5)
    passes = [(torch.randn(shape), torch.randn(shape)) for shape in shapes]
    capture(kfac, *passes)
    found = [squares(model, model[0], *each) for each in passes]
    expected = means({name: torch.cat([part[name] for part in found]) for name in found[0]})
    torch.testing.assert_close(kfac.diagonals["0"].statistics, expected)


@pytest.mark.parametrize("cold_iter", [0, 1, 3])
def test_diagonals_are_the_mean_of_the_first_batches_and_then_fade(cold_iter):
    model = net()
    kfac = KFAC(model, cold_iter=cold_iter, stats_decay=0.9)
    expected = {name: torch.zeros(5) for name in ("weight", "bias")}
    for i in range(6):
        x, scores = torch.randn(7, 4), torch.randn(7, 3)
        capture(kfac, (x, scores))
        new = means(squares(model, model[1], x, scores))
        weight = 1 / (i + 1) if i < max(cold_iter, 1) else 0.1
        expected = {name: (1 - weight) * old + weight * new[name] for name, old in expected.items()}
        torch.testing.assert_close(kfac.diagonals["1"].statistics, expected)


def layer_fisher(model, layer, x, scores):
    """`A (x) G` of a Linear layer in the order of its rows `[weight, bias]`, by autograd."""
    kept = {}

    def keep(_, args, output):
        output.retain_grad()
        kept["inputs"], kept["outputs"] = args[0].detach(), output

    handle = layer.register_forward_hook(keep)
    torch.autograd.backward(model(x), scores)
    handle.remove()
    rows = torch.cat([kept["inputs"], torch.ones(len(x), 1)], 1)
    g = kept["outputs"].grad
    return torch.kron(g.T @ g / len(x), rows.T @ rows / len(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kl_clip", [1e-4, math.inf])
def test_steps_of_a_net_with_a_layer_norm(kl_clip, bias):
    """Two steps with momentum, clipping and a trust region, each from a dense matrix."""
    model = net(bias)
    options = {"cold_iter": 0, "stats_decay": 0.0, "update_interval": 1, "max_grad_norm": 0.7}
    kfac = KFAC(model, 0.25, 0.9, 0.03, kl_clip, **options)
    names = [name for name, _ in model.named_parameters()]
    buffers = dict.fromkeys(names, 0.0)
    for _ in range(2):
        x, scores = torch.randn(30, 4), torch.randn(30, 3)
        before = copy.deepcopy(model)
        capture(kfac, (x, scores))
        kfac.zero_grad()
        model(x).square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        size = torch.cat([g.flatten() for g in gradients.values()]).norm()
        gradients = {name: 0.7 / size * g for name, g in gradients.items()}
        kfac.step()
        u = {}
        for i in "0", "3":
            fisher = layer_fisher(before, before[int(i)], x, scores)
            matrix = torch.cat([gradients[f"{i}.weight"], gradients[f"{i}.bias"].unsqueeze(1)], 1)
            damped = fisher + 0.03 * torch.eye(len(fisher))
            solved = torch.linalg.solve(damped, matrix.flatten()).view_as(matrix)
            u[f"{i}.weight"], u[f"{i}.bias"] = solved[:, :-1], solved[:, -1]
        for name, diagonal in means(squares(before, before[1], x, scores)).items():
            u[f"1.{name}"] = gradients[f"1.{name}"] / (diagonal + 0.03)
        dot = sum((u[name] * gradients[name]).sum() for name in names).item()
        nu = min(1.0, (kl_clip / (0.25**2 * dot)) ** 0.5)
        assert (nu < 1) == (kl_clip < 1)
        buffers = {name: 0.9 * buffers[name] + nu * u[name] for name in names}
        for name, p in before.named_parameters():
            expected = p.detach() - 0.25 * 0.1 * buffers[name]
            torch.testing.assert_close(model.get_parameter(name).detach(), expected)


@pytest.mark.parametrize("bias", ["homogeneous", "separate"])
def test_factored_damping_adds_all_of_it_to_a_diagonal(bias):
    model, x, scores = net(), torch.randn(7, 4), torch.randn(7, 3)
    options = {"damping_rule": "factored", "bias": bias, "cold_iter": 0}
    kfac = KFAC(model, 1.0, 0.0, 0.03, math.inf, **options)
    capture(kfac, (x, scores))
    expected = {}
    for name, diagonal in means(squares(model, model[1], x, scores)).items():
        parameter = model[1].get_parameter(name)
        parameter.grad = torch.randn(5)
        expected[name] = parameter.detach() - parameter.grad / (diagonal + 0.03)
    kfac.step()
    torch.testing.assert_close(dict(model[1].state_dict()), expected)


def test_predicted_kl_of_gain_and_bias_in_groups_of_their_own():
    model = nn.Sequential(norm())
    groups = {"gain": [model[0].weight], "bias": [model[0].bias]}
    kfac = KFAC(model, 0.25, 0.9, cold_iter=0, groups=groups)
    for _ in range(3):
        capture(kfac, (torch.randn(7, 5), torch.randn(7, 5)))
        for p in model.parameters():
            p.grad = torch.randn(5)
        before = copy.deepcopy(model[0])
        kfac.step()
    health = kfac.health()
    for group, name in (("gain", "weight"), ("bias", "bias")):
        moved = before.get_parameter(name) - model[0].get_parameter(name)
        expected = 0.5 * (kfac.diagonals["0"].statistics[name] * moved.square()).sum()
        assert health[f"{group}/predicted_kl"] == pytest.approx(expected.item())
        assert f"{group}/eigenvalue_min" not in health


def test_predicted_kl_is_the_sum_over_layers():
    model = net()
    before = copy.deepcopy(model)
    kfac = KFAC(model, cold_iter=0)
    x, scores = torch.randn(7, 4), torch.randn(7, 3)
    capture(kfac, (x, scores))
    model(x).square().sum().backward()
    kfac.step()
    moved = {name: before.get_parameter(name) - p for name, p in model.named_parameters()}
    expected = 0.0
    for name, diagonal in means(squares(before, before[1], x, scores)).items():
        expected += 0.5 * (diagonal * moved[f"1.{name}"].square()).sum().item()
    for i in "0", "3":
        vector = torch.cat([moved[f"{i}.weight"], moved[f"{i}.bias"].unsqueeze(1)], 1).flatten()
        fisher = layer_fisher(before, before[int(i)], x, scores)
        expected += 0.5 * (vector @ fisher @ vector).item()
    assert kfac.health()["all/predicted_kl"] == pytest.approx(expected)


def advance(kfac, steps):
    for _ in range(steps):
        generator = torch.Generator().manual_seed(kfac.steps)
        x = torch.randn(6, 4, generator=generator)
        capture(kfac, (x, torch.randn(6, 3, generator=generator)))
        kfac.zero_grad()
        kfac.model(x).square().sum().backward()
        kfac.step()


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_run_that_is_resumed_goes_on_bit_for_bit(stop):
    options = {"cold_iter": 2, "update_interval": 3, "lag": 2}
    straight = KFAC(net(), **options)
    advance(straight, stop)
    text, tensors = flatten(straight.state_dict())
    path = Path("checkpoint")
    state = unflatten(text, unpack(b"".join(pack(tensors)), path), path)
    resumed = KFAC(copy.deepcopy(straight.model), **options)
    resumed.load_state_dict(state)
    for statistic in state["factors"]["1"].values():
        assert statistic.any()
        statistic.zero_()  # who loaded it has its own
    for _ in range(5):
        advance(straight, 1)
        advance(resumed, 1)
        torch.testing.assert_close(
            resumed.model.state_dict(), straight.model.state_dict(), atol=0, rtol=0
        )
    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["inputs", "scores"])
@pytest.mark.parametrize("call", [0, 1])
def test_numbers_that_are_not_finite_are_named_and_change_no_statistic(what, bad, call):
    kfac = KFAC(nn.Sequential(norm()))
    capture(kfac, (torch.randn(7, 5), torch.randn(7, 5)))
    before = copy.deepcopy(kfac.state_dict())
    passes = torch.randn(2, 2, 7, 5)
    passes[call, ["inputs", "scores"].index(what), 3, 1] = bad
    with pytest.raises(NonFiniteUpdate, match=f"0 {what}"):
        capture(kfac, *passes)
    torch.testing.assert_close(kfac.state_dict(), before, atol=0, rtol=0)


def test_a_layer_norm_that_is_not_used_is_named():
    model = net()
    model[0].idle = norm()
    with pytest.raises(ValueError, match=r"0\.idle"):
        capture(KFAC(model), (torch.randn(7, 4), torch.randn(7, 3)))


def test_what_is_not_trained_has_no_diagonal():
    model, x, scores = net(), torch.randn(7, 4), torch.randn(7, 3)
    expected = means(squares(model, model[1], x, scores))
    model[1].weight.requires_grad_(False)
    kfac = KFAC(model)
    capture(kfac, (x, scores))
    torch.testing.assert_close(kfac.diagonals["1"].statistics, {"bias": expected["bias"]})
    model[1].bias.requires_grad_(False)
    assert not KFAC(model).diagonals
    model[1] = nn.LayerNorm(5, elementwise_affine=False)
    assert not KFAC(model).diagonals


def test_layer_norms_that_share_a_parameter_are_refused():
    model = nn.Sequential(norm(), norm())
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="share"):
        KFAC(model)


def test_an_activation_in_place_changes_nothing():
    model, x, scores = net(), torch.randn(7, 4), torch.randn(7, 3)
    states = []
    for inplace in False, True:
        model[2] = nn.ReLU(inplace)
        kfac = KFAC(model)
        capture(kfac, (x, scores))
        states.append(kfac.state_dict()["factors"])
    torch.testing.assert_close(*states, atol=0, rtol=0)
