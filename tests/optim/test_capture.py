"""What `capture` records, refuses, and leaves alone."""

import contextlib
import math

import pytest
import torch
from torch import nn

from rlrun.optim import blocks
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.optim.kfac import KFAC

pytestmark = pytest.mark.usefixtures("double_on_one_thread")


def mlp(activation=nn.Tanh, bias=True):
    return nn.Sequential(nn.Linear(4, 5, bias), activation(), nn.Linear(5, 3, bias))


def cnn(**geometry):
    conv = nn.Conv2d(2, 3, **{"kernel_size": 3, **geometry})
    return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))


def capture(kfac, *passes):
    with kfac.capture():
        for x, scores in passes:
            kfac.model(x).backward(scores)


def captured(model, x, scores, **options):
    """Factors by the name of the block."""
    kfac = KFAC(model, **options)
    capture(kfac, (x, scores))
    return factors(kfac)


def factors(kfac):
    return {name: (block.a.clone(), block.g.clone()) for name, block in kfac.blocks.items()}


def second_moment(rows):
    return rows.T @ rows / len(rows)


def with_one(rows):
    return torch.cat([rows, torch.ones(len(rows), 1)], 1)


def test_factors_of_an_mlp_are_second_moments_of_inputs_and_scores():
    model, x, scores = mlp(), torch.randn(6, 4), torch.randn(6, 3)
    hidden = model[0](x).detach().requires_grad_()
    activations = hidden.tanh()
    model[2](activations).backward(scores)
    found = captured(model, x, scores)
    expected = {
        "0": (second_moment(with_one(x)), second_moment(hidden.grad)),
        "2": (second_moment(with_one(activations.detach())), second_moment(scores)),
    }
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("batch", [1, 7])
def test_a_layer_without_bias_has_no_homogeneous_coordinate(batch, sharing):
    x, scores = torch.randn(batch, 4), torch.randn(batch, 3)
    found = captured(nn.Sequential(nn.Linear(4, 3, bias=False)), x, scores, sharing=sharing)
    torch.testing.assert_close(found, {"0": (second_moment(x), second_moment(scores))})


def test_a_frozen_bias_is_left_out():
    model, x, scores = nn.Sequential(nn.Linear(4, 3)), torch.randn(7, 4), torch.randn(7, 3)
    model[0].bias.requires_grad_(False)
    found = captured(model, x, scores)
    torch.testing.assert_close(found, {"0": (second_moment(x), second_moment(scores))})


def test_frozen_layers_are_left_out_and_stay_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    assert captured(model, torch.randn(6, 4), torch.randn(6, 3)).keys() == {"2"}
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_a_separate_bias_has_the_summed_scores_as_its_only_factor():
    model, x, scores = cnn(), torch.randn(6, 2, 5, 4), torch.randn(6, 4)
    model(x)
    maps = model[0](x).detach().requires_grad_()
    model[1:](maps).backward(scores)
    found = captured(model, x, scores, bias="separate")
    assert found.keys() == {"0", "0 bias", "3", "3 bias"}
    torch.testing.assert_close(
        found["0 bias"], (torch.ones(1, 1), second_moment(maps.grad.sum((2, 3))))
    )
    torch.testing.assert_close(found["3 bias"], (torch.ones(1, 1), second_moment(scores)))
    homogeneous = captured(model, x, scores)
    for name in "0", "3":
        torch.testing.assert_close(found[name][0], homogeneous[name][0][:-1, :-1])
        torch.testing.assert_close(found[name][1], homogeneous[name][1])


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_expand_takes_positions_for_samples_of_a_linear_layer(shape, bias):
    x, scores = torch.randn(shape), torch.randn(*shape[:-1], 3)
    model = nn.Sequential(nn.Linear(4, 3, bias))
    a, g = captured(model, x, scores)["0"]
    rows = x.reshape(-1, 4)
    torch.testing.assert_close(a, second_moment(with_one(rows) if bias else rows))
    torch.testing.assert_close(g, len(rows) / 6 * second_moment(scores.reshape(-1, 3)))


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 2, 3, 4)])
def test_reduce_takes_mean_inputs_and_summed_scores(shape):
    x, scores = torch.randn(shape), torch.randn(*shape[:-1], 3)
    a, g = captured(nn.Sequential(nn.Linear(4, 3)), x, scores, sharing="reduce")["0"]
    torch.testing.assert_close(a, second_moment(with_one(x.flatten(1, -2).mean(1))))
    torch.testing.assert_close(g, second_moment(scores.flatten(1, -2).sum(1)))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_duplicating_or_permuting_the_batch_changes_nothing(make, sharing):
    model = make()
    x = torch.randn(6, 4) if make is mlp else torch.randn(6, 2, 5, 4)
    scores = torch.randn_like(model(x))
    expected = captured(model, x, scores, sharing=sharing)
    order = torch.randperm(6)
    permuted = captured(model, x[order], scores[order], sharing=sharing)
    torch.testing.assert_close(permuted, expected)
    doubled = captured(model, torch.cat([x, x]), torch.cat([scores, scores]), sharing=sharing)
    torch.testing.assert_close(doubled, expected)


def test_the_loss_that_is_trained_changes_no_factor():
    model, x, scores = mlp(), torch.randn(6, 4), torch.randn(6, 3)
    kfac = KFAC(model)
    (1e3 * model(x).square().sum()).backward()
    with kfac.capture():
        model(x).backward(scores)
    (1e-3 * model(x).square().sum()).backward()
    torch.testing.assert_close(factors(kfac), captured(model, x, scores))


@pytest.mark.parametrize("broken", [False, True])
def test_gradients_and_their_flags_stay_as_they_are(broken):
    model, x = mlp(), torch.randn(6, 4)
    model(x).square().sum().backward()
    model[2].bias.grad = None
    before = [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    kfac = KFAC(model)
    with contextlib.suppress(KeyError), kfac.capture():
        model(x).backward(torch.randn(6, 3))
        if broken:
            raise KeyError
    assert kfac.captures == (not broken)
    assert all(p.requires_grad for p in model.parameters())
    for p, (grad, copy) in zip(model.parameters(), before, strict=True):
        assert p.grad is grad
        assert grad is None or torch.equal(grad, copy)


@pytest.mark.parametrize("broken", [False, True])
def test_no_hook_is_left_behind(broken):
    model, x = mlp(), torch.randn(6, 4)
    kfac = KFAC(model)
    with contextlib.suppress(KeyError), kfac.capture():
        model(x).backward(torch.randn(6, 3))
        if broken:
            raise KeyError
    assert not any(module._forward_hooks for module in model.modules())
    after = factors(kfac)
    model(x).sum().backward()
    torch.testing.assert_close(factors(kfac), after, atol=0, rtol=0)


def test_capture_draws_no_random_numbers():
    model, x, scores = mlp(), torch.randn(6, 4), torch.randn(6, 3)
    before = torch.get_rng_state()
    captured(model, x, scores)
    assert torch.equal(torch.get_rng_state(), before)


def test_outputs_and_gradients_of_inputs_are_those_without_capture():
    model, x = cnn(), torch.randn(6, 2, 5, 4, requires_grad=True)
    scores = torch.randn(6, 4)
    output = model(x)
    (expected,) = torch.autograd.grad(output, x, scores)
    kfac = KFAC(model)
    with kfac.capture():
        inside = model(x)
        inside.backward(scores)
    assert torch.equal(inside, output)
    assert torch.equal(x.grad, expected)


def test_passes_without_gradients_are_not_recorded():
    model, x, scores = mlp(), torch.randn(6, 4), torch.randn(6, 3)
    kfac = KFAC(model)
    with kfac.capture():
        with torch.no_grad():
            model(torch.randn(6, 4))
        model(x).backward(scores)
        with torch.inference_mode():
            model(torch.randn(6, 4))
    torch.testing.assert_close(factors(kfac), captured(model, x, scores))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_passes_of_unequal_batches_count_as_one_batch(make, sharing):
    model = make()
    x = torch.randn(7, 4) if make is mlp else torch.randn(7, 2, 5, 4)
    scores = torch.randn_like(model(x))
    kfac = KFAC(model, sharing=sharing)
    capture(kfac, (x[:2], scores[:2]), (x[2:], scores[2:]))
    torch.testing.assert_close(factors(kfac), captured(model, x, scores, sharing=sharing))


def test_a_layer_called_twice_in_one_pass_has_the_samples_of_both_calls():
    layer, x, scores = nn.Linear(3, 3), torch.randn(6, 3), torch.randn(6, 3)
    middle = layer(x).detach().requires_grad_()
    layer(middle.tanh()).backward(scores)
    a, g = captured(nn.Sequential(layer, nn.Tanh(), layer), x, scores)["0"]
    inputs = torch.cat([x, middle.tanh().detach()])
    torch.testing.assert_close(a, second_moment(with_one(inputs)))
    torch.testing.assert_close(g, second_moment(torch.cat([middle.grad, scores])))


def test_scores_of_several_backward_passes_add_up():
    model, x, scores = mlp(), torch.randn(6, 4), torch.randn(2, 6, 3)
    kfac = KFAC(model)
    with kfac.capture():
        output = model(x)
        output.backward(scores[0], retain_graph=True)
        output.backward(scores[1])
    torch.testing.assert_close(factors(kfac), captured(model, x, scores.sum(0)))


@pytest.mark.parametrize("make", [mlp, cnn])
def test_an_activation_in_place_changes_nothing(make):
    model = make()
    x = torch.randn(6, 4) if make is mlp else torch.randn(6, 2, 5, 4)
    scores = torch.randn_like(model(x))
    model[1] = nn.ReLU()
    expected = captured(model, x, scores)
    model[1] = nn.ReLU(inplace=True)
    torch.testing.assert_close(captured(model, x, scores), expected)


@pytest.mark.parametrize("chunk", [1, 150, 1000])
@pytest.mark.parametrize("bias", ["homogeneous", "separate"])
def test_patches_by_pieces_give_the_same_factors(chunk, bias, monkeypatch):
    model, x = cnn(padding=1, stride=(2, 1)), torch.randn(7, 2, 5, 4)
    scores = torch.randn_like(model(x))
    expected = captured(model, x, scores, bias=bias)
    monkeypatch.setattr(blocks, "_CHUNK", chunk)
    torch.testing.assert_close(captured(model, x, scores, bias=bias), expected)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_channels_last_gives_the_same_factors(sharing):
    model, x = cnn(padding=1), torch.randn(7, 2, 5, 4)
    scores = torch.randn_like(model(x))
    expected = captured(model, x, scores, sharing=sharing)
    model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(captured(model, x, scores, sharing=sharing), expected)


BAD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("call", [0, 1])
def test_an_input_that_is_not_finite_is_named_and_changes_no_statistic(bad, call):
    model = nn.Sequential(nn.Linear(4, 3))
    kfac = KFAC(model)
    capture(kfac, (torch.randn(6, 4), torch.randn(6, 3)))
    before = factors(kfac)
    batches = torch.randn(2, 6, 4)
    batches[call, 5, 1] = bad
    with pytest.raises(NonFiniteUpdate, match="0 inputs") as raised:
        capture(kfac, *((x, torch.randn(6, 3)) for x in batches))
    assert "0 scores" in raised.value.details["norms"]
    assert "0 scores" not in str(raised.value)
    assert kfac.captures == 1
    torch.testing.assert_close(factors(kfac), before, atol=0, rtol=0)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("call", [0, 1])
def test_a_score_that_is_not_finite_is_named_and_changes_no_statistic(bad, call):
    model = nn.Sequential(nn.Linear(4, 3))
    kfac = KFAC(model)
    before = factors(kfac)
    scores = torch.randn(2, 6, 3)
    scores[call, 0, 2] = bad
    with pytest.raises(NonFiniteUpdate, match="0 scores"):
        capture(kfac, *((torch.randn(6, 4), score) for score in scores))
    assert kfac.captures == 0
    torch.testing.assert_close(factors(kfac), before, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_numbers_whose_squares_are_not_are_refused(dtype):
    model = nn.Sequential(nn.Linear(4, 3)).to(dtype)
    kfac = KFAC(model)
    huge = torch.finfo(dtype).max ** 0.75
    with pytest.raises(NonFiniteUpdate, match="0 scores"), kfac.capture():
        model(torch.randn(6, 4, dtype=dtype)).backward(torch.full((6, 3), huge, dtype=dtype))


def test_a_layer_without_scores_is_named():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle, self.lost = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x, wide):
            if wide:
                self.idle(x)
                self.lost(x)
            return self.used(x)

    for wide in False, True:
        kfac = KFAC(model := Branches())
        before = factors(kfac)
        with pytest.raises(ValueError, match="idle"), kfac.capture():
            model(torch.randn(6, 4), wide).backward(torch.randn(6, 3))
        torch.testing.assert_close(factors(kfac), before)


def test_a_pass_without_backward_is_refused():
    model, x = mlp(), torch.randn(6, 4)
    kfac = KFAC(model)
    with pytest.raises(ValueError, match="no scores"), kfac.capture():
        model(x).backward(model(x).detach())


def test_shared_parameters_are_refused():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with pytest.raises(ValueError, match="share"):
        KFAC(nn.Sequential(first, second))


@pytest.mark.parametrize(
    "geometry", [{"groups": 2}, {"padding": 1, "padding_mode": "circular"}, {"padding": "same"}]
)
def test_convolutions_that_are_not_supported_are_named(geometry):
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 4, 3, **geometry))
    with pytest.raises(ValueError, match="1: convolutions"):
        KFAC(model)


def test_frozen_convolutions_may_be_of_any_kind():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2).requires_grad_(False), nn.Conv2d(4, 2, 1))
    assert KFAC(model).blocks.keys() == {"1"}


def test_parameters_without_factors_must_be_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2))
    with pytest.raises(ValueError, match=r"Linear, Conv2d or LayerNorm .*: 1\.weight, 1\.bias"):
        KFAC(model)
    with pytest.raises(ValueError, match=r"1\.weight, 1\.bias; it names 1\.bias"):
        KFAC(model, fisher={"1.bias": 1.0})
    with pytest.raises(ValueError, match=r"there are none; it names 0\.bias"):
        KFAC(nn.Sequential(nn.Linear(2, 2)), fisher={"0.bias": 1.0})
    with pytest.raises(ValueError, match=r"there are none; it names 0\.bias"):
        KFAC(nn.Sequential(nn.LayerNorm(2)), fisher={"0.bias": 1.0})
    KFAC(model, fisher={"1.weight": 1.0, "1.bias": 1.0})


def test_groups_must_hold_every_parameter_once():
    model = mlp()
    first, second = list(model[0].parameters()), list(model[2].parameters())
    wrong = [{"one": first}, {"one": first, "two": second + first[:1]}, {"one": [torch.ones(1)]}]
    for groups in wrong:
        with pytest.raises(ValueError, match="groups"):
            KFAC(model, groups=groups)
    KFAC(model, groups={"one": first, "two": second})


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("bias", ["homogeneous", "separate"])
def test_one_pass_for_statistics_and_loss_counts_the_first_rows_alone(sharing, bias):
    x, scores = torch.randn(6, 2, 7, 7), torch.randn(4, 4)
    model = cnn()
    model(x)
    expected = captured(model, x[:4], scores, sharing=sharing, bias=bias)
    model(x).square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters()]

    kfac = KFAC(model, sharing=sharing, bias=bias)
    kfac.zero_grad()
    with kfac.capture(rows=4) as backward:
        output = model(x)
        backward([output[:4]], [scores])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    torch.testing.assert_close(factors(kfac), expected)
    output.square().mean().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)
    torch.testing.assert_close(factors(kfac), expected)


def test_scores_of_rows_beyond_the_first_do_not_count():
    model, x, scores = mlp(), torch.randn(6, 4), torch.randn(6, 3)
    scores[4:] = 0.0
    kfac = KFAC(model)
    with kfac.capture(rows=4) as backward:
        backward([model(x)], [scores])
    torch.testing.assert_close(factors(kfac), captured(model, x[:4], scores[:4]))
