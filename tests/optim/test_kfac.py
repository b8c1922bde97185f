"""Steps of K-FAC: against dense algebra, then phase by phase, then when numbers break."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rlrun.optim.errors import NonFiniteUpdate
from rlrun.optim.kfac import KFAC
from rlrun.run.store import flatten, pack, unflatten, unpack

PLAIN = {"lr": 1.0, "momentum": 0.0, "kl_clip": math.inf, "cold_iter": 0}
RULES = ["exact", "factored"]


pytestmark = pytest.mark.usefixtures("double_on_one_thread")


def mlp(inputs=4, width=5, outputs=3):
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 3, (2, 3), padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(75, 3)
    )


def batch(model, n=8):
    x = torch.randn(n, 2, 4, 5) if isinstance(model[0], nn.Conv2d) else torch.randn(n, 4)
    return x, torch.randn(n, 3)


def capture(kfac, x, scores):
    with kfac.capture():
        kfac.model(x).backward(scores)


def gradients_of(model, scale=1.0):
    """Random ones, by name; put into `.grad`."""
    for p in model.parameters():
        p.grad = scale * torch.randn_like(p)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def step(kfac, **options):
    """By how much each parameter goes down."""
    before = copies(kfac.model)
    kfac.step(**options)
    return {name: before[name] - p for name, p in copies(kfac.model).items()}


def scaled(tensors, factor):
    return {name: factor * tensor for name, tensor in tensors.items()}


def dot(first, second):
    return sum((first[name] * second[name]).sum() for name in first).item()


def dense(block):
    """Fisher matrix of a block in the order of `[weight.flatten(), bias]`, one output at a time."""
    product = torch.kron(block.g, block.a)
    weight = block.layer.weight
    if weight.dim() == 2:
        return product
    channels, *kernel = weight.shape[1:]
    order = torch.arange(weight[0].numel()).view(*kernel, channels).permute(2, 0, 1).flatten()
    order = torch.cat([order, torch.tensor([len(block.a) - 1])])
    rows = (torch.arange(len(block.g)).unsqueeze(1) * len(block.a) + order).flatten()
    return product[rows][:, rows]


def rows_of(layer, tensors, name):
    """Weight and bias of one layer as a vector in that order."""
    weight, bias = tensors[f"{name}.weight"].flatten(1), tensors[f"{name}.bias"].unsqueeze(1)
    return torch.cat([weight, bias], 1).flatten()


def test_golden_step():
    layer = nn.Sequential(nn.Linear(2, 2))
    kfac = KFAC(layer, lr=0.25, momentum=0.9, damping=0.01, kl_clip=1e-3, cold_iter=0)
    x = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]])
    capture(kfac, x, torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 1.0]]))
    layer[0].weight.grad = torch.tensor([[0.1, -0.2], [0.4, 0.5]])
    layer[0].bias.grad = torch.tensor([0.3, -0.6])
    moved = step(kfac)
    size = 0.25 * 0.1 * 0.07991650
    weight = torch.tensor([[0.50635731, 0.0469426], [1.4130671, 0.43613345]])
    torch.testing.assert_close(moved["0.weight"], size * weight, atol=1e-9, rtol=1e-7)
    bias = torch.tensor([-0.9639672, -3.28312724])
    torch.testing.assert_close(moved["0.bias"], size * bias, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_exact_damping_solves_the_dense_system(make):
    model = make()
    kfac = KFAC(model, **PLAIN, damping=0.03)
    capture(kfac, *batch(model))
    gradients = gradients_of(model)
    moved = step(kfac)
    for name, block in kfac.blocks.items():
        fisher = dense(block)
        damped = fisher + 0.03 * torch.eye(len(fisher))
        expected = torch.linalg.solve(damped, rows_of(block.layer, gradients, name))
        torch.testing.assert_close(rows_of(block.layer, moved, name), expected)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_factored_damping_solves_the_product_of_damped_factors(make):
    model = make()
    kfac = KFAC(model, **PLAIN, damping=0.03, damping_rule="factored")
    capture(kfac, *batch(model))
    gradients = gradients_of(model)
    moved = step(kfac)
    for name, block in kfac.blocks.items():
        pi = (block.a.diagonal().mean() / block.g.diagonal().mean()).sqrt()
        block.a += 0.03**0.5 * pi * torch.eye(len(block.a))
        block.g += 0.03**0.5 / pi * torch.eye(len(block.g))
        expected = torch.linalg.solve(dense(block), rows_of(block.layer, gradients, name))
        torch.testing.assert_close(rows_of(block.layer, moved, name), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [mlp, cnn])
def test_infinite_damping_follows_the_gradient(make, rule):
    model = make()
    kfac = KFAC(model, **{**PLAIN, "lr": 1e14}, damping=1e14, damping_rule=rule)
    capture(kfac, *batch(model))
    gradients = gradients_of(model)
    torch.testing.assert_close(step(kfac), gradients, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_vanishing_damping_ignores_how_inputs_are_presented(rule):
    """The change of the function is the same after an affine change of a layer's inputs."""
    change = torch.randn(4, 4) + 3.0 * torch.eye(4)
    shift = torch.randn(4)
    x, scores = torch.randn(30, 4), torch.randn(30, 3)
    plain = mlp()
    other = copy.deepcopy(plain)
    with torch.no_grad():
        other[0].weight.copy_(plain[0].weight @ torch.linalg.inv(change))
        other[0].bias.sub_(other[0].weight @ shift)
    outputs = []
    for model, inputs in ((plain, x), (other, x @ change.T + shift)):
        kfac = KFAC(model, **{**PLAIN, "lr": 0.1}, damping=1e-26, damping_rule=rule)
        capture(kfac, inputs, scores)
        model(inputs).square().sum().backward()
        before = model(inputs)
        kfac.step()
        outputs.append(model(inputs) - before)
    assert outputs[0].abs().max() > 0.01
    torch.testing.assert_close(*outputs, atol=1e-7, rtol=1e-6)


def test_the_gradient_is_not_changed_and_missing_ones_are_zero():
    model = mlp()
    kfac = KFAC(model, **PLAIN, max_grad_norm=0.1)
    capture(kfac, *batch(model))
    gradients = gradients_of(model)
    model[2].weight.grad = model[2].bias.grad = None
    moved = step(kfac)
    assert torch.equal(model[0].weight.grad, gradients["0.weight"])
    assert not moved["2.weight"].any()
    assert moved["0.weight"].any()
    kfac.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_separate_biases_have_the_scores_alone_for_curvature():
    model = mlp()
    kfac = KFAC(model, **PLAIN, damping=0.03, bias="separate")
    x, scores = batch(model)
    capture(kfac, x, scores)
    gradients = gradients_of(model)
    moved = step(kfac)
    g = scores.T @ scores / len(scores)
    expected = torch.linalg.solve(g + 0.03 * torch.eye(3), gradients["2.bias"])
    torch.testing.assert_close(moved["2.bias"], expected)
    block = kfac.blocks["2"]
    assert block.a.shape == (5, 5)
    fisher = torch.kron(g, block.a) + 0.03 * torch.eye(15)
    expected = torch.linalg.solve(fisher, gradients["2.weight"].flatten()).view(3, 5)
    torch.testing.assert_close(moved["2.weight"], expected)


def test_parameters_with_a_given_fisher_are_divided_by_it():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.layer(x) * self.scale

    model = Scaled()
    kfac = KFAC(model, **PLAIN, damping=0.5, fisher={"scale": 2.0})
    capture(kfac, torch.randn(8, 4), torch.randn(8, 3))
    gradients = gradients_of(model)
    torch.testing.assert_close(step(kfac)["scale"], gradients["scale"] / 2.5)
    expected = 0.5 * (
        2.0 * (gradients["scale"] / 2.5).square().sum()
        + quadratic(kfac, "layer", step(kfac))  # the same step once more
    )
    assert kfac.health()["all/predicted_kl"] == pytest.approx(expected.item())


def quadratic(kfac, name, moved):
    block = kfac.blocks[name]
    vector = rows_of(block.layer, moved, name)
    return vector @ dense(block) @ vector


# The trust region.


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("lr", [0.01, 0.25, 4.0])
def test_no_step_leaves_the_trust_region(lr, scale, rule):
    model = mlp()
    kfac = KFAC(model, lr, 0.0, kl_clip=1e-3, cold_iter=0, damping_rule=rule)
    free = KFAC(copy.deepcopy(model), **PLAIN, damping_rule=rule)
    data = batch(model)
    capture(kfac, *data)
    capture(free, *data)
    gradients = gradients_of(model, scale)
    for p, q in zip(model.parameters(), free.model.parameters(), strict=True):
        q.grad = p.grad
    u, moved = step(free), step(kfac)
    nu = kfac.health()["all/step_scale"]
    bound = lr**2 * dot(u, gradients)
    assert nu == pytest.approx(min(1.0, (1e-3 / bound) ** 0.5))
    assert 0 < nu <= 1
    assert nu**2 * bound <= 1e-3 * (1 + 1e-9)
    torch.testing.assert_close(moved, scaled(u, lr * nu))


def exact_scores(model, x):
    """Inputs and scores whose second moment is the Fisher matrix of a softmax, without noise."""
    probs = model(x).softmax(-1).detach()
    n = probs.shape[-1]
    scores = (torch.eye(n).unsqueeze(1) - probs) * (n * probs.T.unsqueeze(-1)).sqrt()
    return x.repeat(n, *[1] * (x.dim() - 1)), scores.flatten(0, 1)


def kl_and_health(model, x, damping=1e-6, **options):
    kfac = KFAC(model, lr=1.0, momentum=0.0, damping=damping, cold_iter=0, **options)
    capture(kfac, *exact_scores(model, x))
    before = model(x).log_softmax(-1).detach()
    loss = -(torch.randn_like(before) * model(x).log_softmax(-1)).sum(-1).mean()
    loss.backward()
    kfac.step()
    after = model(x).log_softmax(-1)
    kl = (before.exp() * (before - after)).sum(-1).mean().item()
    return kl, kfac.health()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_the_kl_of_a_step_of_one_layer_is_near_the_bound(seed, rule):
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(256, 4)
    kl, health = kl_and_health(model, x, kl_clip=1e-5, damping_rule=rule)
    assert health["all/step_scale"] < 1
    assert kl / (1e-5 / 2) == pytest.approx(1.0, abs=0.25)
    assert kl / health["all/predicted_kl"] == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_steps_of_several_layers_add_up_in_the_kl(seed, rule):
    """Two layers that each move the outputs alike have twice the KL that is told of them."""
    torch.manual_seed(seed)
    kl, health = kl_and_health(mlp(), torch.randn(256, 4), 1e-4, kl_clip=1e-5, damping_rule=rule)
    assert 0.7 < kl / health["all/predicted_kl"] < 2 * 1.3
    assert kl < 2 * 1.3 * 1e-5 / 2


def test_the_kl_of_a_step_is_the_bound_where_the_factors_are_exact():
    kl, health = kl_and_health(nn.Sequential(nn.Linear(4, 3)), torch.randn(1, 4), kl_clip=1e-7)
    assert kl == pytest.approx(1e-7 / 2, rel=1e-3)
    assert health["all/predicted_kl"] == pytest.approx(1e-7 / 2, rel=1e-3)


def two_groups(model):
    return {"low": list(model[0].parameters()), "high": list(model[2].parameters())}


def test_groups_with_bounds_of_their_own_are_scaled_apart():
    model = mlp()
    clips = {"low": 1e-5, "high": 1e-3}
    kfac = KFAC(model, 1.0, 0.0, kl_clip=clips, cold_iter=0, groups=two_groups(model))
    capture(kfac, *batch(model))
    gradients = gradients_of(model)
    moved, health = step(kfac), kfac.health()
    for group, layer in (("low", "0"), ("high", "2")):
        part = {name: tensor for name, tensor in moved.items() if name.startswith(layer)}
        nu = health[f"{group}/step_scale"]
        assert nu < 1
        assert nu * dot(part, gradients) == pytest.approx(clips[group])


def test_groups_share_one_bound():
    model = mlp()
    whole = copy.deepcopy(model)
    kfac = KFAC(model, 1.0, 0.0, kl_clip=1e-3, cold_iter=0, groups=two_groups(model))
    other = KFAC(whole, 1.0, 0.0, kl_clip=1e-3, cold_iter=0)
    data = batch(model)
    for optimizer in kfac, other:
        capture(optimizer, *data)
        torch.manual_seed(1)
        gradients_of(optimizer.model)
    torch.testing.assert_close(step(kfac), step(other))
    health, all_health = kfac.health(), other.health()
    assert health["low/step_scale"] == health["high/step_scale"] < 1
    assert health["low/predicted_kl"] + health["high/predicted_kl"] == pytest.approx(
        all_health["all/predicted_kl"]
    )


# Momentum and the cold phase.


def scalar_problem(**options):
    """A model of one weight with curvature 1 whose preconditioned gradient is `u = 1`."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    kfac = KFAC(model, 0.25, 0.9, damping=0.01, cold_iter=0, **options)
    capture(kfac, torch.ones(1, 1), torch.ones(1, 1))
    model[0].weight.grad = torch.full((1, 1), 1.01)
    return kfac


def test_a_constant_natural_gradient_moves_by_the_learning_rate():
    kfac = scalar_problem(kl_clip=math.inf)
    sizes = [step(kfac)["0.weight"].item() for _ in range(200)]
    assert sizes == pytest.approx([0.25 * (1 - 0.9 ** (k + 1)) for k in range(200)])
    assert sizes[-1] == pytest.approx(0.25)


def test_momentum_gathers_steps_that_are_scaled():
    kfac = scalar_problem(kl_clip=1e-3)
    nu = (1e-3 / (0.25**2 * 1.01)) ** 0.5
    for _ in range(200):
        moved = step(kfac)
    assert moved["0.weight"].item() == pytest.approx(0.25 * nu)


def test_a_learning_rate_given_to_a_step_replaces_that_of_the_constructor():
    first, second = (scalar_problem(kl_clip=1e-3) for _ in range(2))
    second.lr = 0.05
    torch.testing.assert_close(step(first, lr=0.05), step(second))
    assert not step(first, lr=0.0)["0.weight"].any()


@pytest.mark.parametrize(
    "options", [{}, {"cold_lr": 0.02}, {"cold_max_grad_norm": 0.5}, {"cold_max_grad_norm": 50.0}]
)
def test_cold_steps_are_those_of_gradient_descent_with_momentum(options):
    model = mlp()
    kfac = KFAC(model, 0.25, 0.9, cold_iter=3, kl_clip=1e-9, max_grad_norm=1e-9, **options)
    rate = options.get("cold_lr", 0.25)
    bound = options.get("cold_max_grad_norm", math.inf)
    buffer = scaled(copies(model), 0.0)
    for lr in 0.25, 0.25, 0.125:
        gradients = gradients_of(model)
        factor = min(1.0, bound / dot(gradients, gradients) ** 0.5)
        buffer = {name: 0.9 * buffer[name] + factor * gradients[name] for name in buffer}
        expected = scaled(buffer, rate * lr / 0.25 * 0.1)
        torch.testing.assert_close(step(kfac, lr=lr), expected)
    with pytest.raises(RuntimeError, match="capture"):
        kfac.step()


def test_natural_steps_begin_right_after_the_cold_ones_with_empty_buffers():
    model = mlp()
    kfac = KFAC(model, 0.25, 0.9, cold_iter=3)
    fresh = KFAC(copy.deepcopy(model), 0.25, 0.9, cold_iter=0)
    for optimizer in kfac, fresh:
        torch.manual_seed(1)
        capture(optimizer, *batch(model))
    for _ in range(3):
        gradients_of(model)
        kfac.step()
    gradients_of(model)
    fresh.model.load_state_dict(model.state_dict())
    for p, q in zip(model.parameters(), fresh.model.parameters(), strict=True):
        q.grad = p.grad
    torch.testing.assert_close(step(kfac), step(fresh))


def test_max_grad_norm_bounds_the_gradient_before_it_is_preconditioned():
    model = mlp()
    kfac = KFAC(model, **PLAIN, max_grad_norm=0.5, cold_max_grad_norm=1e-9)
    free = KFAC(copy.deepcopy(model), **PLAIN)
    data = batch(model)
    capture(kfac, *data)
    capture(free, *data)
    gradients = gradients_of(model)
    norm = dot(gradients, gradients) ** 0.5
    assert norm > 0.5
    for p, q in zip(model.parameters(), free.model.parameters(), strict=True):
        q.grad = p.grad * 0.5 / norm
    torch.testing.assert_close(step(kfac), step(free))


def factors(kfac):
    return {name: (block.a.clone(), block.g.clone()) for name, block in kfac.blocks.items()}


def factors_of(model, data):
    kfac = KFAC(model, cold_iter=0)
    capture(kfac, *data)
    return factors(kfac)


def mixed(weights, batches):
    return {
        name: tuple(
            sum(w * b[name][i] for w, b in zip(weights, batches, strict=True)) for i in range(2)
        )
        for name in batches[0]
    }


@pytest.mark.parametrize("cold_iter", [0, 1, 3])
def test_statistics_are_the_mean_of_the_first_batches_and_then_fade(cold_iter):
    model = mlp()
    kfac = KFAC(model, cold_iter=cold_iter, stats_decay=0.99)
    batches = []
    expected = None
    for i in range(6):
        data = batch(model)
        capture(kfac, *data)
        batches.append(factors_of(model, data))
        if i < max(cold_iter, 1):
            expected = mixed([1 / (i + 1)] * (i + 1), batches)
        else:
            expected = mixed([0.99, 0.01], [expected, batches[-1]])
        torch.testing.assert_close(factors(kfac), expected)


def test_step_before_capture_is_refused():
    model = mlp()
    gradients_of(model)
    before = copies(model)
    with pytest.raises(RuntimeError, match="capture"):
        KFAC(model, cold_iter=0).step()
    torch.testing.assert_close(copies(model), before, atol=0, rtol=0)


# Decompositions: when, where, and across a checkpoint.


@pytest.mark.parametrize("lag", [0, 1, 3, 4])
@pytest.mark.parametrize("cold_iter", [0, 2])
@pytest.mark.parametrize("background", [False, True])
def test_a_basis_is_used_from_lag_steps_after_its_factors(lag, cold_iter, background):
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    options = {**PLAIN, "cold_iter": cold_iter, "damping": 0.1, "update_interval": 4}
    kfac = KFAC(model, **options, lag=lag, background=background)
    fishers = []
    for t in range(-cold_iter, 15):
        capture(kfac, *batch(model))
        gradients = gradients_of(model)
        moved = step(kfac)["0.weight"].flatten()
        if t < 0:
            continue
        fishers.append(torch.kron(kfac.blocks["0"].g, kfac.blocks["0"].a))
        source = max([s for s in range(0, t + 1, 4) if s + lag <= t], default=0)
        damped = fishers[source] + 0.1 * torch.eye(12)
        expected = torch.linalg.solve(damped, gradients["0.weight"].flatten())
        torch.testing.assert_close(moved, expected)
        assert kfac.health()["basis/age"] == t - source


@pytest.mark.parametrize("lag", [-1, 11])
def test_a_lag_beyond_the_interval_is_refused(lag):
    with pytest.raises(ValueError, match="lag"):
        KFAC(mlp(), update_interval=10, lag=lag)


def advance(kfac, steps):
    """Captures and steps whose data depend on the number of the step and the weights alone."""
    model = kfac.model
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        generator = torch.Generator().manual_seed(kfac.steps)
        x = torch.randn(6, model[0].in_features, generator=generator, dtype=dtype)
        scores = torch.randn(6, model[-1].out_features, generator=generator, dtype=dtype)
        capture(kfac, x, scores)
        kfac.zero_grad()
        model(x).square().sum().backward()
        kfac.step()


def same(first, second):
    return all(map(torch.equal, first.parameters(), second.parameters()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lag", [0, 2, 3])
def test_background_changes_no_bit(lag, rule):
    model = mlp(60, 17)
    here = KFAC(model, cold_iter=2, update_interval=3, lag=lag, damping_rule=rule)
    there = KFAC(
        copy.deepcopy(model),
        cold_iter=2,
        update_interval=3,
        lag=lag,
        damping_rule=rule,
        background=True,
    )
    for _ in range(14):
        advance(here, 1)
        advance(there, 1)
        assert same(model, there.model)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("inputs", "count"), [(699, 1), (129, 1), (129, 2)])
def test_background_changes_no_bit_for_any_number_of_threads(rule, inputs, count):
    torch.set_num_threads(count)
    model = mlp(inputs, 130, 60).float()
    options = {"cold_iter": 1, "update_interval": 2, "lag": 1, "damping_rule": rule}
    here, there = KFAC(model, **options), KFAC(copy.deepcopy(model), **options, background=True)
    advance(here, 3)
    advance(there, 3)
    assert same(model, there.model)


def through_a_file(state):
    text, tensors = flatten(state)
    path = Path("checkpoint")
    return unflatten(text, unpack(b"".join(pack(tensors)), path), path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 6, 8])
def test_a_run_that_is_resumed_goes_on_bit_for_bit(stop, background, rule, dtype):
    """The stops lie in the cold phase, at its end, amid a decomposition, and after it."""
    model = mlp(33, 17).to(dtype)
    options = {
        "cold_iter": 2,
        "update_interval": 3,
        "lag": 2,
        "damping_rule": rule,
        "background": background,
    }
    straight = KFAC(model, **options)
    advance(straight, stop)
    state = straight.state_dict()
    assert (state["bases"]["pending"] is not None) == (stop == 6)
    assert (state["bases"]["current"] is not None) == (stop > 2)
    resumed = KFAC(mlp(33, 17).to(dtype), **options)
    resumed.load_state_dict(through_a_file(state))
    resumed.model.load_state_dict(model.state_dict())
    for _ in range(8):
        advance(straight, 1)
        advance(resumed, 1)
        assert same(model, resumed.model)
    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), atol=0, rtol=0)


def tensors_in(tree):
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_in(item)


@pytest.mark.parametrize("rule", RULES)
def test_a_state_and_who_loaded_it_share_no_memory(rule):
    options = {"cold_iter": 1, "update_interval": 2, "lag": 1, "damping_rule": rule}
    kfac = KFAC(mlp(), **options)
    advance(kfac, 4)
    state, kept = copy.deepcopy(kfac.state_dict()), copy.deepcopy(kfac.state_dict())
    assert kept["bases"]["pending"]
    other = KFAC(copy.deepcopy(kfac.model), **options)
    other.load_state_dict(state)
    advance(other, 4)
    torch.testing.assert_close(state, kept, atol=0, rtol=0)
    other.load_state_dict(state)
    for tensor in tensors_in(state):
        tensor.zero_()
    torch.testing.assert_close(other.state_dict(), kept, atol=0, rtol=0)


# Health.


def test_health_before_the_first_step_and_after_loading():
    kfac = KFAC(mlp(), cold_iter=1)
    assert kfac.health()["all/predicted_kl"] == 0
    advance(kfac, 3)
    other = KFAC(mlp(), cold_iter=1)
    other.load_state_dict(kfac.state_dict())
    assert other.health()["all/eigenvalue_max"] == kfac.health()["all/eigenvalue_max"]


@pytest.mark.parametrize("make", [mlp, cnn])
def test_predicted_kl_is_half_the_quadratic_form_of_the_whole_step(make):
    model = make()
    kfac = KFAC(model, 0.25, 0.9, cold_iter=0, groups=two_groups(model) if make is mlp else None)
    for _ in range(3):
        capture(kfac, *batch(model))
        gradients_of(model)
        moved = step(kfac)
    parts = {name: 0.5 * quadratic(kfac, name, moved).item() for name in kfac.blocks}
    health = kfac.health()
    if make is mlp:
        assert health["low/predicted_kl"] == pytest.approx(parts["0"])
        assert health["high/predicted_kl"] == pytest.approx(parts["2"])
    else:
        assert health["all/predicted_kl"] == pytest.approx(sum(parts.values()))


@pytest.mark.parametrize("rule", RULES)
def test_eigenvalues_are_those_of_the_dense_blocks(rule):
    model = mlp()
    kfac = KFAC(model, **PLAIN, damping=1e-9, damping_rule=rule)
    capture(kfac, *batch(model, 40))
    gradients_of(model)
    kfac.step()
    spectra = [torch.linalg.eigvalsh(dense(block)) for block in kfac.blocks.values()]
    near = {"rel": 1e-6} if rule == "exact" else {"rel": 0.2}
    health = kfac.health()
    assert health["all/eigenvalue_min"] == pytest.approx(min(s[0].item() for s in spectra), **near)
    assert health["all/eigenvalue_max"] == pytest.approx(max(s[-1].item() for s in spectra), **near)


# When numbers break.


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_samples_than_inputs_and_dead_units_give_finite_steps(dtype, rule):
    model = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 3)).to(dtype)
    model[0].bias.data.fill_(-1e3)
    kfac = KFAC(model, cold_iter=0, damping_rule=rule)
    capture(kfac, torch.randn(3, 50, dtype=dtype), torch.randn(3, 3, dtype=dtype))
    assert not kfac.blocks["0"].g.any()
    gradients_of(model)
    for tensor in step(kfac).values():
        assert tensor.isfinite().all()
        assert tensor.any()
    assert kfac.bases.fallbacks == 0


@pytest.mark.parametrize("rule", RULES)
def test_zero_scores_follow_the_gradient(rule):
    model = mlp()
    kfac = KFAC(model, **PLAIN, damping=0.5, damping_rule=rule)
    x, scores = batch(model)
    capture(kfac, x, 0 * scores)
    gradients = gradients_of(model)
    if rule == "exact":
        torch.testing.assert_close(step(kfac), scaled(gradients, 2.0))
    else:
        assert all(tensor.isfinite().all() for tensor in step(kfac).values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("cold_iter", [0, 5])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, cold_iter):
    model = mlp()
    kfac = KFAC(model, cold_iter=cold_iter)
    capture(kfac, *batch(model))
    gradients_of(model)
    kfac.step()
    before = copies(model), copy.deepcopy(kfac.state_dict())
    model[2].bias.grad[1] = bad
    with pytest.raises(NonFiniteUpdate, match="gradient"):
        kfac.step()
    torch.testing.assert_close((copies(model), kfac.state_dict()), before, atol=0, rtol=0)


def test_a_step_that_overflows_changes_no_parameter():
    model = mlp()
    kfac = KFAC(model, **PLAIN, damping=1e-300)
    x, scores = batch(model)
    capture(kfac, x, 0 * scores)
    gradients_of(model, 1e20)
    before = copies(model)
    with pytest.raises(NonFiniteUpdate, match="natural gradient"):
        kfac.step()
    torch.testing.assert_close(copies(model), before, atol=0, rtol=0)


def breaking(monkeypatch, fails):
    """Let eigh and cholesky fail for matrices of which `fails` is true."""
    for name in "eigh", "cholesky":
        function = getattr(torch.linalg, name)

        def broken(matrix, function=function):
            if fails(matrix):
                raise torch.linalg.LinAlgError("did not converge")
            return function(matrix)

        monkeypatch.setattr(torch.linalg, name, broken)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("background", [False, True])
def test_a_decomposition_that_fails_is_tried_again_in_float64(rule, background, monkeypatch):
    model = mlp().float()
    options = {**PLAIN, "damping": 0.1, "damping_rule": rule, "background": background}
    straight, broken = KFAC(model, **options), KFAC(copy.deepcopy(model), **options)
    x, scores = (tensor.float() for tensor in batch(model))
    for kfac in straight, broken:
        capture(kfac, x, scores)
        torch.manual_seed(1)
        gradients_of(kfac.model)
    before = factors(broken)
    expected = step(straight)
    breaking(monkeypatch, lambda matrix: matrix.dtype == torch.float32)
    torch.testing.assert_close(step(broken), expected, atol=1e-4, rtol=1e-4)
    assert straight.bases.fallbacks == 0
    assert broken.bases.fallbacks == broken.health()["basis/fallbacks"] == 4
    torch.testing.assert_close(factors(broken), before, atol=0, rtol=0)


def test_a_second_try_leaves_the_factors_alone_in_float64_too(monkeypatch):
    model = mlp()
    kfac = KFAC(model, **PLAIN)
    capture(kfac, *batch(model))
    gradients_of(model)
    before = factors(kfac)
    seen = set()
    breaking(monkeypatch, lambda matrix: len(matrix) not in seen and not seen.add(len(matrix)))
    kfac.step()
    assert kfac.bases.fallbacks == len(seen) == 3
    torch.testing.assert_close(factors(kfac), before, atol=0, rtol=0)


def test_a_decomposition_that_is_not_finite_counts_as_failed(monkeypatch):
    model = mlp().float()
    kfac = KFAC(model, **PLAIN)
    capture(kfac, *(tensor.float() for tensor in batch(model)))
    gradients_of(model)
    original = torch.linalg.eigh

    def broken(matrix):
        values, vectors = original(matrix)
        return values, vectors * (math.nan if matrix.dtype == torch.float32 else 1.0)

    monkeypatch.setattr(torch.linalg, "eigh", broken)
    assert all(tensor.isfinite().all() for tensor in step(kfac).values())
    assert kfac.bases.fallbacks == 4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("background", [False, True])
def test_failing_twice_names_the_factor_and_can_be_overcome(rule, background, monkeypatch):
    model = mlp()
    kfac = KFAC(model, **PLAIN, damping_rule=rule, background=background)
    capture(kfac, *batch(model))
    gradients_of(model)
    before = copies(model)
    with monkeypatch.context() as patch:
        breaking(patch, lambda matrix: len(matrix) == 6)
        with pytest.raises(NonFiniteUpdate, match="2: A") as raised:
            kfac.step()
    assert raised.value.details["factor"] == "2: A"
    assert raised.value.details["size"] == 6
    assert raised.value.details["mean_eigenvalue"] == pytest.approx(
        kfac.blocks["2"].a.diagonal().mean().item()
    )
    torch.testing.assert_close(copies(model), before, atol=0, rtol=0)
    assert kfac.bases._pending is None  # one without a result would be waited for
    assert kfac.state_dict()["steps"] == 0
    kfac.step()
    assert kfac.steps == 1


def test_negative_eigenvalues_by_rounding_are_counted():
    model = nn.Sequential(nn.Linear(40, 30)).float()
    kfac = KFAC(model, **PLAIN)
    capture(kfac, torch.randn(3, 40).float(), torch.randn(3, 30).float())
    gradients_of(model)
    kfac.step()
    negative = [(torch.linalg.eigh(f)[0] < 0).sum().item() for f in factors(kfac)["0"]]
    assert min(negative) > 0
    assert kfac.health()["basis/negatives"] == sum(negative)
