"""A layer that is called at every step of a sequence: factors over all steps and environments."""

import math

import pytest
import torch
from torch import nn

from rlrun.functional import kronecker
from rlrun.optim.capture import Call, joined, recording
from rlrun.optim.kfac import KFAC

pytestmark = pytest.mark.usefixtures("double_on_one_thread")


class Recurrent(nn.Module):
    """`h = tanh(W [x; h] + b)`, `h` zero where an episode starts, and a linear map to outputs."""

    def __init__(self, bias=True):
        super().__init__()
        self.cell, self.head = nn.Linear(4 + 5, 5, bias), nn.Linear(5, 3)

    def forward(self, x, starts):
        h, outputs = x.new_zeros(x.shape[1], 5), []
        for now, start in zip(x, starts, strict=True):
            h = torch.where(start.unsqueeze(1), 0.0, h)
            h = self.cell(torch.cat([now, h], 1)).tanh()
            outputs.append(self.head(h))
        return torch.stack(outputs)


def sequence(steps=6, envs=3):
    """Inputs, starts of episodes (some in the middle) and scores."""
    starts = torch.rand(steps, envs) < 0.3
    starts[0] = True
    if steps > 2:
        starts[2, 0], starts[2, 1] = True, False
    return torch.randn(steps, envs, 4), starts, torch.randn(steps, envs, 3)


def captured(model, x, starts, scores, **options):
    kfac = KFAC(model, 1.0, 0.0, 0.01, math.inf, cold_iter=0, **options)
    with kfac.capture():
        model(x, starts).backward(scores)
    return kfac


def unrolled(model, x, starts, scores):
    """Inputs `[T, B, 9]` of the cell and total derivatives `[T, B, 5]` by its outputs."""
    h, inputs, pre_activations, outputs = torch.zeros(x.shape[1], 5), [], [], []
    for now, start in zip(x, starts, strict=True):
        h = h * (~start).double().unsqueeze(1)
        inputs.append(torch.cat([now, h], 1).detach())
        z = torch.cat([now, h], 1) @ model.cell.weight.T
        z = z if model.cell.bias is None else z + model.cell.bias
        z.retain_grad()
        pre_activations.append(z)
        h = z.tanh()
        outputs.append(h @ model.head.weight.T + model.head.bias)
    (torch.stack(outputs) * scores).sum().backward()
    return torch.stack(inputs), torch.stack([z.grad for z in pre_activations])


def mean_outer(vectors):
    """Mean over all steps and environments, one at a time."""
    total = 0.0
    for step in vectors:
        for vector in step:
            total = total + torch.outer(vector, vector)
    return total / (len(vectors) * len(vectors[0]))


def with_one(inputs):
    return torch.cat([inputs, torch.ones(*inputs.shape[:-1], 1)], -1)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("bias", [True, False])
def test_factors_are_means_over_all_steps_and_environments(bias, sharing):
    model, data = Recurrent(bias), sequence()
    kfac = captured(model, *data, sharing=sharing)
    inputs, derivatives = unrolled(model, *data)
    block = kfac.blocks["cell"]
    torch.testing.assert_close(block.a, mean_outer(with_one(inputs) if bias else inputs))
    torch.testing.assert_close(block.g, mean_outer(derivatives))
    torch.testing.assert_close(kfac.blocks["head"].g, mean_outer(data[2]))


def test_scores_come_from_later_steps_too():
    """The derivatives are not those of a step by its own output alone."""
    model, (x, starts, scores) = Recurrent(), sequence()
    scores[:-1] = 0.0
    starts[1:] = False
    g = captured(model, x, starts, scores).blocks["cell"].g
    _, derivatives = unrolled(model, x, starts, scores)
    assert (derivatives.abs().amax((1, 2)) > 0).all()
    torch.testing.assert_close(g, mean_outer(derivatives))
    assert not torch.allclose(g, mean_outer(derivatives[-1:]) / len(x))


def test_separate_biases_have_the_same_scores():
    model, data = Recurrent(), sequence()
    kfac = captured(model, *data, bias="separate")
    inputs, derivatives = unrolled(model, *data)
    torch.testing.assert_close(kfac.blocks["cell"].a, mean_outer(inputs))
    torch.testing.assert_close(kfac.blocks["cell bias"].a, torch.ones(1, 1))
    for name in "cell", "cell bias":
        torch.testing.assert_close(kfac.blocks[name].g, mean_outer(derivatives))


def test_what_comes_in_after_a_start_is_zero():
    model, (x, starts, scores) = Recurrent(), sequence()
    with recording(model, [model.cell]) as record:
        model(x, starts).backward(scores)
    assert len(record.calls[model.cell]) == len(x)
    (use,) = joined(record.calls[model.cell])
    hidden = use.inputs.view(*starts.shape, 9)[..., 4:]
    assert not hidden[starts].any()
    assert hidden[~starts].all()
    assert starts[1:].any()


def test_episodes_of_one_step_are_the_samples_of_a_dense_layer():
    """No state comes in and no derivative flows back, however long the sequence is."""
    model, (x, starts, scores) = Recurrent(), sequence()
    starts[:] = True
    kfac = captured(model, x, starts, scores)
    assert not kfac.blocks["cell"].a[4:9].any()
    short = captured(model, *(tensor.flatten(0, 1).unsqueeze(0) for tensor in (x, starts, scores)))
    torch.testing.assert_close(short.state_dict()["factors"], kfac.state_dict()["factors"])


def test_a_sequence_of_one_step_is_a_dense_layer():
    model, (x, starts, scores) = Recurrent(), sequence(1)
    dense = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    dense[0].weight.data = model.cell.weight.data[:, :4].clone()
    dense[0].bias.data = model.cell.bias.data.clone()
    dense[2].load_state_dict(model.head.state_dict())
    kfac = captured(model, x, starts, scores)
    other = KFAC(dense, 1.0, 0.0, 0.01, math.inf, cold_iter=0)
    with other.capture():
        dense(x[0]).backward(scores[0])
    kept = [0, 1, 2, 3, 9]
    torch.testing.assert_close(kfac.blocks["cell"].a[kept][:, kept], other.blocks["0"].a)
    torch.testing.assert_close(kfac.blocks["cell"].g, other.blocks["0"].g)
    kfac.zero_grad()
    model(x, starts).square().sum().backward()
    dense(x[0]).square().sum().backward()
    kfac.step()
    other.step()
    torch.testing.assert_close(model.cell.weight[:, :4], dense[0].weight)
    torch.testing.assert_close(model.cell.bias, dense[0].bias)
    torch.testing.assert_close(model.head.weight, dense[2].weight)


def test_all_steps_are_one_product(monkeypatch):
    sizes = []
    original = kronecker.accumulate_

    def counted(factor, rows, keep, weight):
        sizes.append(len(rows))
        original(factor, rows, keep, weight)

    monkeypatch.setattr(kronecker, "accumulate_", counted)
    captured(Recurrent(), *sequence(6, 3))
    assert sizes == [18] * 4  # two factors of two layers


def call(*shape):
    return Call(torch.randn(*shape, 4), torch.randn(*shape, 3))


def test_calls_of_one_shape_are_joined_in_their_order_and_one_alone_is_not_copied():
    calls = [call(2), call(2, 3), call(5)]
    first, second = joined(calls)
    assert torch.equal(first.inputs, torch.cat([calls[0].inputs, calls[2].inputs]))
    assert torch.equal(first.scores, torch.cat([calls[0].scores, calls[2].scores]))
    assert second.inputs.data_ptr() == calls[1].inputs.data_ptr()
    assert second.scores.data_ptr() == calls[1].scores.data_ptr()


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_calls_of_other_shapes_count_by_their_samples(sharing):
    """The mean over samples of what each gives alone."""
    model = nn.Sequential(nn.Linear(4, 3))
    passes = [(torch.randn(*shape, 4), torch.randn(*shape, 3)) for shape in [(6,), (2, 3), (4,)]]
    kfac = KFAC(model, sharing=sharing)
    with kfac.capture():
        for x, scores in passes:
            model(x).backward(scores)
    expected_a, expected_g = 0.0, 0.0
    for x, scores in passes:
        for sample in zip(x.split(1), scores.split(1), strict=True):
            alone = KFAC(model, sharing=sharing)
            with alone.capture():
                model(sample[0]).backward(sample[1])
            expected_a = expected_a + alone.blocks["0"].a / 12
            expected_g = expected_g + alone.blocks["0"].g / 12
    torch.testing.assert_close(kfac.blocks["0"].a, expected_a)
    torch.testing.assert_close(kfac.blocks["0"].g, expected_g)


def test_a_pass_that_goes_on_beyond_the_rows_has_the_factors_of_one_that_ends_there():
    model, (x, starts, scores) = Recurrent(), sequence()
    expected = captured(model, x[:4], starts[:4], scores[:4])
    kfac = KFAC(model, 1.0, 0.0, 0.01, math.inf, cold_iter=0)
    with kfac.capture(rows=4 * x.shape[1]) as backward:
        backward([model(x, starts)[:4]], [scores[:4]])
    torch.testing.assert_close(kfac.state_dict()["factors"], expected.state_dict()["factors"])
