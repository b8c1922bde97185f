"""One update of ACKTR against autograd and dense Fisher matrices, and the bookkeeping around it."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_advantage import KINDS, SPACES, act, apart, as_torch, by_hand, envs_of, policy_of, segment
from torch import nn
from torch.distributions import Normal, kl_divergence

from rlrun.algorithms import acktr, segments
from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acktr import ACKTR
from rlrun.build import assemble
from rlrun.config import compose
from rlrun.data.rewards import RewardScale
from rlrun.functional import schedules
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError, problems
from rlrun.schema import settings as settings_of

PLAIN = {"momentum": 0.0, "cold_iter": 0, "kfac_clip": math.inf, "kfac_update": 1}
"""Each step is the natural gradient by the factors of now, as long as the learning rate says."""


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(kind="discrete", seed=0, lr_schedule=schedules.linear, n_envs=3, **settings):
    policy, envs = policy_of(kind, seed), envs_of(kind, n_envs)
    return ACKTR(policy, envs, generator(seed, "replay"), lr_schedule, **settings)


def update(algorithm, batch, progress=0.0, log=False):
    return algorithm.update(copy.deepcopy(batch), progress, log)


def weights(algorithm):
    return {name: p.detach().clone() for name, p in algorithm.actor.named_parameters()}


def factors(algorithm):
    blocks = algorithm.optimizer.blocks
    return {name: (b.a.clone(), b.g.clone()) for name, b in blocks.items()}


def normalized(kind):
    """Advantages have mean 0 and deviation 1 for actions in boxes, and for no others."""
    return kind == "box"


def gradient_by_hand(algorithm, batch, vf_coef=0.25, ent_coef=0.01, **settings):
    network = algorithm.actor
    kind = "discrete" if network.log_std is None else "box"
    settings = {"normalize": normalized(kind)} | settings
    policy_loss, value_loss, entropy, _, _ = by_hand(network, batch, **settings)
    loss = policy_loss + vf_coef * value_loss - ent_coef * entropy
    named = dict(network.named_parameters())
    return loss, dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def gradient_of_update(algorithm, batch):
    """What reaches the optimiser, by name."""
    found = {}
    step = algorithm.optimizer.step
    algorithm.optimizer.step = lambda lr: found.update(
        {name: p.grad.clone() for name, p in algorithm.actor.named_parameters()}
    )
    metrics = update(algorithm, batch, log=True)
    algorithm.optimizer.step = step
    return metrics, found


# The gradient.


@KINDS
@pytest.mark.parametrize(
    ("settings", "hand"),
    [
        ({}, {}),
        ({"vf_coef": 2.0, "ent_coef": 0.5}, {"vf_coef": 2.0, "ent_coef": 0.5}),
        ({"vf_coef": 0.0, "ent_coef": 0.0}, {"vf_coef": 0.0, "ent_coef": 0.0}),
        ({"gamma": 0.9, "gae_lambda": 0.8}, {"gamma": 0.9, "lambda_": 0.8}),
        ({"vf_fisher_coef": 5.0}, {}),
        ({"max_grad_norm": 1e-3, "warm_max_grad_norm": 1e-3}, {}),
    ],
)
def test_the_gradient_is_that_of_the_loss(kind, settings, hand):
    """Policy loss, value loss without a half, entropy; no clipping before the optimiser."""
    algorithm = make(kind, **settings)
    batch = segment(algorithm.actor)
    loss, expected = gradient_by_hand(algorithm, batch, **hand)
    metrics, found = gradient_of_update(algorithm, batch)
    torch.testing.assert_close(found, expected)
    assert metrics["loss/total"] == pytest.approx(loss.item())


def test_rewards_are_scaled_for_learning_alone():
    scaled, plain = make(normalize_rewards=True, gamma=0.9), make(gamma=0.9)
    scale = RewardScale(0.9, 3)
    for seed in range(3):
        batch = segment(plain.actor, seed)
        batch.rewards *= 100.0
        raw = batch.rewards.clone()
        scaled.update(batch, 0.0, log=False)
        assert torch.equal(batch.rewards, raw)
        scale.observe(batch)
        batch.rewards = scale.scaled(batch.rewards)
        plain.update(batch, 0.0, log=False)
        assert_same_weights(scaled, weights(plain))


# The Fisher matrix.


def log_likelihood(algorithm, batch, noise, coef):
    """log p(a, v | s) of sampled actions and values, and what each layer saw and gave."""
    network = algorithm.actor
    x = network.policy.features(batch.observations[:-1].flatten(0, 1))
    seen, given, outputs = [], [], []
    for tower in network.policy.heads.values():
        h = x
        for layer in tower:
            if isinstance(layer, nn.Linear):
                seen.append(h.detach())
            h = layer(h)
            if isinstance(layer, nn.Linear):
                given.append(h)
        outputs.append(h)
    if network.log_std is None:
        distribution = torch.distributions.Categorical(logits=outputs[0])
    else:
        normal = Normal(outputs[0], network.log_std.detach().exp())
        distribution = torch.distributions.Independent(normal, 1)
    sigma = 1.0 / (2.0 * coef)
    values = outputs[1].squeeze(-1)
    v = values.detach() + sigma * noise
    log_p = distribution.log_prob(batch.actions.flatten(0, 1)).sum()
    return log_p + Normal(values, sigma).log_prob(v).sum(), seen, given


def dense_blocks(algorithm, batch, rng_state, coef):
    """`G (x) A` of each layer, from the scores of every single sample."""
    n = batch.rewards.numel()
    noise = torch.randn(n, generator=torch.Generator().set_state(rng_state))
    log_p, seen, given = log_likelihood(algorithm, batch, noise, coef)
    blocks = []
    for h, g in zip(seen, torch.autograd.grad(log_p, given), strict=True):
        a = torch.cat([h, torch.ones(n, 1)], 1)
        mean_a = torch.stack([torch.outer(row, row) for row in a]).mean(0)
        mean_g = torch.stack([torch.outer(row, row) for row in g]).mean(0)
        blocks.append((mean_a, mean_g))
    return blocks


def natural_by_hand(algorithm, gradients, blocks, damping):
    """`(G (x) A + damping I)^-1` times the gradient, with the matrices written out."""
    layers = [
        name for name, module in algorithm.actor.named_modules() if isinstance(module, nn.Linear)
    ]
    steps = {}
    for name, (a, g) in zip(layers, blocks, strict=True):
        matrix = torch.cat([gradients[f"{name}.weight"], gradients[f"{name}.bias"].unsqueeze(1)], 1)
        dense = torch.kron(g, a)
        dense += damping * torch.eye(len(dense))
        step = torch.linalg.solve(dense, matrix.flatten()).view_as(matrix)
        steps[f"{name}.weight"], steps[f"{name}.bias"] = step[:, :-1], step[:, -1]
    if "log_std" in gradients:
        steps["log_std"] = gradients["log_std"] / (2.0 + damping)
    return steps


@KINDS
@pytest.mark.parametrize(("coef", "damping", "progress"), [(1.0, 0.01, 0.0), (0.5, 0.3, 0.25)])
def test_the_step_is_the_gradient_by_the_inverse_of_dense_fisher_blocks(
    kind, coef, damping, progress
):
    algorithm = make(
        kind, **PLAIN, learning_rate=0.2, damping=damping, vf_fisher_coef=coef, stats_decay=0.7
    )
    kept = None
    for seed in range(2):
        batch = segment(algorithm.actor, seed)
        _, gradients = gradient_by_hand(algorithm, batch)
        now = dense_blocks(algorithm, batch, algorithm.rng.get_state(), coef)
        if kept is None:
            kept = now
        else:
            kept = [
                (0.7 * a + 0.3 * b, 0.7 * g + 0.3 * h)
                for (a, g), (b, h) in zip(kept, now, strict=True)
            ]
        steps = natural_by_hand(algorithm, gradients, kept, damping)
        rate = 0.2 * (1.0 - progress)
        expected = {name: p - rate * steps[name] for name, p in weights(algorithm).items()}
        update(algorithm, batch, progress)
        torch.testing.assert_close(weights(algorithm), expected, rtol=1e-6, atol=1e-8)


def observe_curvature(algorithm, observations, segment, actions):
    with algorithm.optimizer.capture(rows=len(actions)) as backward:
        outputs = algorithm.actor(observations, segment)
        backward(outputs, algorithm._scores(*outputs, actions))


def many_samples(algorithm, n=40_000):
    """Actions in one and the same state."""
    g = torch.Generator().manual_seed(1)
    observations = torch.randn(1, 4, generator=g).expand(n, 4)
    actions, statistics, _ = act(algorithm.actor, observations, g)
    observe_curvature(algorithm, observations, apart(n), actions)
    blocks = algorithm.optimizer.blocks
    return (blocks[f"policy.heads.{name}.2"].g for name in ("policy", "value")), statistics[0]


def test_sampled_scores_have_the_fisher_matrix_of_a_softmax_for_second_moment():
    (policy, _), logits = many_samples(make())
    pi = logits.softmax(-1)
    expected = torch.diag(pi) - torch.outer(pi, pi)
    torch.testing.assert_close(policy, expected, atol=0.005, rtol=0)
    assert expected.diagonal().min() > 0.05


def test_sampled_scores_have_the_fisher_matrix_of_a_gaussian_for_second_moment():
    (policy, _), statistics = many_samples(make("box", log_std_init=-0.4))
    expected = torch.diag((-2.0 * statistics[2:]).exp())
    torch.testing.assert_close(policy, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("coef", [0.5, 1.0, 3.0])
def test_sampled_scores_of_the_value_have_variance_four_coef_squared(coef):
    (_, value), _ = many_samples(make(vf_fisher_coef=coef))
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(4.0 * coef**2, rel=0.03)


@KINDS
def test_the_fisher_pass_leaves_gradients_and_draws_the_noise_of_the_values_alone(kind):
    algorithm = make(kind)
    batch = segment(algorithm.actor)
    for p in algorithm.actor.parameters():
        p.grad = torch.full_like(p, 7.0)
    expected = torch.Generator().set_state(algorithm.rng.get_state())
    torch.randn(batch.rewards.numel(), generator=expected)
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())
    start = weights(algorithm)
    observe_curvature(algorithm, *segments.acted_in(batch), batch.actions.flatten(0, 1))
    assert all((p.grad == 7.0).all() for p in algorithm.actor.parameters())
    assert all(p.requires_grad for p in algorithm.actor.parameters())
    assert_same_weights(algorithm, start)
    assert torch.equal(algorithm.rng.get_state(), expected.get_state())
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


@KINDS
def test_a_whole_update_draws_no_more_than_that(kind):
    algorithm = make(kind, cold_iter=0, normalize_rewards=True)
    batch = segment(algorithm.actor)
    expected = torch.Generator().set_state(algorithm.rng.get_state())
    torch.randn(batch.rewards.numel(), generator=expected)
    before = torch.get_rng_state()
    update(algorithm, batch, log=True)
    assert torch.equal(algorithm.rng.get_state(), expected.get_state())
    assert torch.equal(torch.get_rng_state(), before)


@KINDS
def test_factors_know_neither_rewards_nor_coefficients_of_the_loss(kind):
    """Scores are those of the samples: no advantage, no loss weighs them."""
    first, second = make(kind), make(kind, vf_coef=9.0, ent_coef=3.0, gamma=0.1)
    batch = segment(first.actor)
    update(first, batch)
    batch.rewards *= -50.0
    update(second, batch)
    for name, (a, g) in factors(first).items():
        assert torch.equal(a, second.optimizer.blocks[name].a)
        assert torch.equal(g, second.optimizer.blocks[name].g)


# The length of a step.


@KINDS
def test_the_learning_rate_of_each_update_follows_the_schedule_and_is_never_negative(kind):
    for schedule in (schedules.linear, schedules.middle_drop, schedules.double_linear_con):
        algorithm = make(kind, lr_schedule=schedule, learning_rate=0.1)
        rates, step = [], algorithm.optimizer.step
        algorithm.optimizer.step = lambda lr, rates=rates, step=step: (rates.append(lr), step(lr))
        progresses = [0.0, 0.2, 0.5, 0.9, 1.0, 1.5]
        logged = [
            update(algorithm, segment(algorithm.actor, i), p, log=True)["optim/learning_rate"]
            for i, p in enumerate(progresses)
        ]
        assert rates == logged == pytest.approx([0.1 * schedule(p) for p in progresses])
        assert min(rates) >= 0.0


@KINDS
def test_at_the_end_of_the_schedule_nothing_moves(kind):
    algorithm = make(kind, cold_iter=1)
    for seed in range(3):
        update(algorithm, segment(algorithm.actor, seed))
    before = weights(algorithm)
    update(algorithm, segment(algorithm.actor, 9), progress=1.0)
    assert_same_weights(algorithm, before)


@pytest.mark.parametrize(
    ("settings", "rate", "bound"),
    [
        ({}, 0.25, 0.5),
        ({"max_grad_norm": 0.02}, 0.25, 0.02),
        ({"max_grad_norm": None}, 0.25, math.inf),
        ({"cold_learning_rate": 0.7}, 0.7, 0.5),
        ({"cold_learning_rate": 0.7, "learning_rate": 0.1}, 0.7, 0.5),
    ],
)
def test_the_first_updates_follow_the_clipped_gradient(settings, rate, bound):
    algorithm = make(cold_iter=2, momentum=0.6, warm_max_grad_norm=1e-6, **settings)
    buffers = {name: torch.zeros_like(p) for name, p in weights(algorithm).items()}
    for seed in range(2):
        batch = segment(algorithm.actor, seed)
        _, gradients = gradient_by_hand(algorithm, batch)
        norm = torch.cat([g.flatten() for g in gradients.values()]).norm().item()
        expected = {}
        for name, p in weights(algorithm).items():
            buffers[name] = 0.6 * buffers[name] + min(1.0, bound / norm) * gradients[name]
            expected[name] = p - 0.75 * rate * 0.4 * buffers[name]
        update(algorithm, batch, progress=0.25)
        torch.testing.assert_close(weights(algorithm), expected)
    before = weights(algorithm)
    update(algorithm, segment(algorithm.actor, 5))
    moved = torch.cat([(p - before[n]).flatten() for n, p in weights(algorithm).items()])
    assert 0.0 < moved.norm() < 1e-4  # the other bound, and the preconditioner


def measured(before, after, observations, coef):
    """KL of actions and of values between two networks, means over the states."""
    with torch.no_grad():
        (old, old_values), (new, new_values) = (as_torch(n, observations) for n in (before, after))
        sigma = torch.tensor(1.0 / (2.0 * coef))
        values = kl_divergence(Normal(old_values, sigma), Normal(new_values, sigma))
        return kl_divergence(old, new).mean().item(), values.mean().item()


@KINDS
@pytest.mark.parametrize(("coef", "every"), [(0.5, 1), (1.0, 1), (2.0, 1), (1.0, 2)])
def test_the_logged_kl_is_that_between_the_networks_before_and_after(
    kind, coef, every, monkeypatch
):
    """In all environments, or in some where there are many states."""
    algorithm = make(kind, cold_iter=1, vf_fisher_coef=coef)
    for seed in range(4):
        batch = segment(algorithm.actor, seed)
        monkeypatch.setattr(acktr, "MEASURED", batch.rewards.numel() / every)
        before = make(kind).actor
        before.load_state_dict(algorithm.actor.state_dict())
        metrics = update(algorithm, batch, log=True)
        states = batch.observations[:-1, ::every].flatten(0, 1)
        policy, value = measured(before, algorithm.actor, states, coef)
        assert metrics["trust_region/policy_kl"] == pytest.approx(policy, rel=1e-5)
        assert metrics["trust_region/value_kl"] == pytest.approx(value, rel=1e-5)
        assert metrics["trust_region/kl"] == pytest.approx(policy + value, rel=1e-5)
        assert min(policy, value) > 1e-9


def test_the_curvature_is_looked_at_only_closely():
    ours, others = (make(cold_iter=1) for _ in range(2))
    batch = segment(ours.actor, 0)
    closely = ours.update(copy.deepcopy(batch), 0.0, True, True)
    short = others.update(copy.deepcopy(batch), 0.0, True, False)
    assert short == {name: closely[name] for name in short}
    left = {name.partition("/")[0] for name in closely.keys() - short.keys()}
    assert {"trust_region", "kfac_policy", "kfac_basis"} <= left
    torch.testing.assert_close(weights(ours), weights(others), rtol=0, atol=0)
    assert others.update(batch, 0.0, False, True) == {}


def predicted_by_measured(kind, hidden, updates=25):
    """Ratios of the two, of the last ten of a few updates: `[10, 2]`, policy and value."""
    policy, envs = policy_of(kind, hidden=hidden), envs_of(kind, n_envs=200)
    algorithm = ACKTR(policy, envs, generator(0, "replay"), kfac_update=1, vf_kfac_clip=0.001)
    ratios = []
    for seed in range(updates):
        metrics = update(algorithm, segment(algorithm.actor, seed, n_envs=200), log=True)
        ratios.append(
            [
                metrics[f"kfac_{group}/predicted_kl"] / metrics[f"trust_region/{group}_kl"]
                for group in ("policy", "value")
            ]
        )
    return np.array(ratios[-10:])


@KINDS
def test_predicted_and_measured_kl_agree_where_the_factors_are_exact(kind, monkeypatch):
    """One layer, whose scores do not depend on its inputs: but for sampling nothing is left out."""
    monkeypatch.setattr(acktr, "MEASURED", 10**6)
    logs = np.log(predicted_by_measured(kind, hidden=()))
    assert np.abs(logs).max() < math.log(1.2)
    assert np.abs(logs.mean(0)).max() < math.log(1.1)


@KINDS
def test_predicted_and_measured_kl_agree_in_their_order_of_magnitude(kind):
    """Two layers that move together: blocks do not see what they do to each other."""
    assert np.abs(np.log(predicted_by_measured(kind, hidden=(6,)))).max() < math.log(10.0)


@KINDS
def test_a_step_stays_inside_the_trust_region(kind):
    settings = PLAIN | {"kfac_clip": 1e-3, "learning_rate": 10.0}
    algorithm = make(kind, **settings, damping=1e-6)
    for seed in range(3):
        metrics = update(algorithm, segment(algorithm.actor, seed), log=True)
        predicted = metrics["kfac_policy/predicted_kl"] + metrics["kfac_value/predicted_kl"]
        # Where damping is next to nothing, twice the predicted KL is the bound itself.
        assert 0.3 * 1e-3 < 2.0 * predicted < 1e-3 * (1.0 + 1e-9)
        assert metrics["kfac_policy/step_scale"] < 1.0
        assert metrics["kfac_policy/step_scale"] == metrics["kfac_value/step_scale"]


def after_one(vf_coef, **settings):
    algorithm = make(**PLAIN | {"kfac_clip": 1e-3}, vf_coef=vf_coef, learning_rate=10.0, **settings)
    metrics = update(algorithm, segment(algorithm.actor), log=True)
    return weights(algorithm), metrics


def test_with_budgets_of_their_own_the_actor_does_not_pay_for_the_error_of_the_critic():
    (small, _), (large, metrics) = (after_one(x, vf_kfac_clip=0.004) for x in (0.25, 250.0))
    actor = {name for name in small if "value" not in name}
    assert len(actor) == 4
    assert all(torch.equal(small[name], large[name]) for name in actor)
    assert metrics["kfac_policy/step_scale"] != metrics["kfac_value/step_scale"]
    assert 2.0 * metrics["kfac_policy/predicted_kl"] < 0.001
    assert 0.001 < 2.0 * metrics["kfac_value/predicted_kl"] < 0.004
    (small, _), (large, _) = (after_one(x) for x in (0.25, 250.0))
    start = weights(make())
    for name in actor:
        assert (large[name] - start[name]).norm() < 0.1 * (small[name] - start[name]).norm()


# The optimiser is the one that was asked for.


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, {"lr": 0.25, "momentum": 0.9, "damping": 0.01, "kl_clip": 0.001}),
        ({}, {"stats_decay": 0.99, "interval": 10, "cold_iter": 10, "lag": 0}),
        ({}, {"cold_lr": 0.25, "cold_max_grad_norm": 0.5, "max_grad_norm": math.inf}),
        ({}, {"exact": True, "_pool": None}),
        ({"learning_rate": 0.1}, {"lr": 0.1, "cold_lr": 0.1}),
        ({"learning_rate": 0.1, "cold_learning_rate": 2.0}, {"lr": 0.1, "cold_lr": 2.0}),
        ({"momentum": 0.3, "damping": 0.2}, {"momentum": 0.3, "damping": 0.2}),
        ({"stats_decay": 0.9, "kfac_update": 4}, {"stats_decay": 0.9, "interval": 4}),
        ({"kfac_clip": 0.1}, {"kl_clip": 0.1}),
        ({"vf_kfac_clip": 0.2}, {"kl_clip": {"policy": 0.001, "value": 0.2}}),
        ({"cold_iter": 3}, {"cold_iter": 3}),
        ({"max_grad_norm": None}, {"cold_max_grad_norm": math.inf, "max_grad_norm": math.inf}),
        ({"warm_max_grad_norm": 2.0}, {"cold_max_grad_norm": 0.5, "max_grad_norm": 2.0}),
        ({"eigen_lag": 3}, {"lag": 3}),
        ({"damping_rule": "factored"}, {"exact": False}),
        ({"async_eigen_decomp": True, "kfac_update": 6}, {"lag": 6}),
        ({"async_eigen_decomp": True, "kfac_update": 6, "eigen_lag": 0}, {"lag": 0}),
    ],
)
def test_settings_reach_the_optimiser(settings, found):
    optimizer = make(**settings).optimizer
    settled = vars(optimizer) | vars(optimizer.bases)
    assert {name: settled[name] for name in found} == found
    assert (optimizer.bases._pool is not None) == settings.get("async_eigen_decomp", False)


def test_biases_are_part_of_the_weight_or_apart_from_it():
    together, apart = make().optimizer, make(bias="separate").optimizer
    assert len(apart.blocks) == 2 * len(together.blocks) == 8
    assert all(block.homogeneous for block in together.blocks.values())


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_convolutions_are_expanded_or_reduced(sharing):
    algorithm = picture_learner(conv_factors=sharing)
    assert {block.sharing for block in algorithm.optimizer.blocks.values()} == {sharing}


def picture_learner(**settings):
    envs = SimpleNamespace(
        n_envs=2,
        observation_space=spaces.Box(0, 255, (1, 40, 40), np.uint8),
        action_space=spaces.Discrete(3),
        frame_stack=1,
    )
    heads = ActorCritic.heads(envs.action_space)
    policy = CnnPolicy(
        envs.observation_space, heads, generator(0, "init"), filters=(2, 3, 4), features_dim=5
    )
    policy.features.register_forward_hook(lambda module, args, output: output.double())
    return ACKTR(policy, envs, generator(0, "replay"), **settings)


def names_of(algorithm):
    names = {id(p): name for name, p in algorithm.actor.named_parameters()}
    groups = algorithm.optimizer.groups
    return {group: {names[id(p)] for p in members} for group, members in groups.items()}


@KINDS
def test_towers_are_groups_of_their_own(kind):
    groups = names_of(make(kind))
    assert groups["value"] == {name for name in weights(make(kind)) if "heads.value" in name}
    assert len(groups["value"]) == 4
    assert ("log_std" in groups["policy"]) == (kind == "box")
    assert len(groups["policy"]) == 4 + (kind == "box")


def test_a_trunk_that_both_use_belongs_to_the_policy():
    groups = names_of(picture_learner(vf_kfac_clip=0.1))
    assert groups["value"] == {"policy.heads.value.0.weight", "policy.heads.value.0.bias"}
    assert len(groups["policy"]) == 4 * 2 + 2


def test_looking_for_the_groups_leaves_no_gradients():
    algorithm = make()
    assert all(p.grad is None for p in algorithm.actor.parameters())


# What cannot be trained.


class Normed(MlpPolicy):
    """With parameters in a layer that K-FAC does not know."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heads["policy"].insert(1, nn.GroupNorm(4, 64))


class Scaled(MlpPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(()))

    def head(self, name, latents, *inputs):
        return self.scale * super().head(name, latents, *inputs)


@pytest.mark.parametrize(("cls", "says"), [(Normed, "heads.policy.1.weight"), (Scaled, "scale")])
def test_networks_with_other_layers_are_refused_by_name(cls, says):
    envs = envs_of("discrete")
    heads = ActorCritic.heads(envs.action_space)
    policy = cls(envs.observation_space, heads, generator(0, "init")).double()
    policy.features.register_forward_hook(lambda module, args, output: output.double())
    with pytest.raises(UserError, match="policy: ACKTR cannot train this network") as error:
        ACKTR(policy, envs, generator(0, "replay"))
    assert says in str(error.value)
    assert "Use Linear, Conv2d and LayerNorm layers alone, or algo=a2c" in str(error.value)


def test_conflicts_between_settings():
    def wrong(**values):
        return problems(ACKTR, values, partial=True)

    assert not wrong(eigen_lag=10, kfac_update=10)
    assert not wrong(kfac_update=1, async_eigen_decomp=True)
    (told,) = wrong(eigen_lag=11, kfac_update=10)
    assert told == "eigen_lag: 11 is more than kfac_update=10; lower it"
    # Of what a constant gradient moves by, the share 1 - momentum comes at once.
    assert not wrong(momentum=0.999)
    assert wrong(momentum=1.0)[0].startswith("momentum: 1 ")


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("where", ["observations", "rewards", "final_observations"])
def test_numbers_that_are_not_finite_change_no_weight(where, warm, value, log):
    algorithm = make(cold_iter=1)
    for seed in range(2 if warm else 0):
        update(algorithm, segment(algorithm.actor, seed))
    batch = segment(algorithm.actor, seed=9)
    getattr(batch, where).view(-1)[0] = value
    before, statistics = weights(algorithm), factors(algorithm)
    optimizer = copy.deepcopy(algorithm.optimizer.state_dict())
    with pytest.raises(NonFiniteUpdate, match="not finite") as error:
        update(algorithm, batch, log=log)
    assert {"nan", "inf"} & set(error.value.details["norms"].values())
    assert_same_weights(algorithm, before)
    after = algorithm.optimizer.state_dict()
    assert after["steps"] == optimizer["steps"]
    for name, buffer in optimizer["buffers"].items():
        assert torch.equal(after["buffers"][name], buffer)
    for name, kept in factors(algorithm).items():
        assert all(torch.isfinite(factor).all() for factor in kept)
        if where == "observations":
            assert all(map(torch.equal, kept, statistics[name]))


def test_weights_that_are_not_finite_are_told():
    algorithm = make()
    batch = segment(algorithm.actor)
    next(algorithm.actor.parameters()).data[0, 0] = math.nan
    with pytest.raises(NonFiniteUpdate, match="heads"):
        update(algorithm, batch)


# Bookkeeping.


@KINDS
def test_asking_for_metrics_changes_nothing(kind):
    settings = {"cold_iter": 2, "kfac_update": 3, "normalize_rewards": True}
    asked, silent = make(kind, **settings), make(kind, **settings)
    for seed in range(6):
        metrics = update(asked, segment(asked.actor, seed), 0.1, log=True)
        assert all(map(math.isfinite, metrics.values()))
        assert update(silent, segment(silent.actor, seed), 0.1) == {}
    assert_same_weights(asked, weights(silent))


def without_clock(metrics):
    return {name: x for name, x in metrics.items() if not name.startswith("time/")}


@KINDS
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("updates", [1, 4, 6, 7])
def test_state_dict_carries_everything(kind, background, updates):
    """At 6 of them a decomposition is in the making, begun but not in use."""
    settings = {
        "cold_iter": 2,
        "kfac_update": 3,
        "eigen_lag": 2,
        "async_eigen_decomp": background,
        "normalize_rewards": True,
    }
    algorithm = make(kind, **settings)
    for seed in range(updates):
        update(algorithm, segment(algorithm.actor, seed))
    other = make(kind, seed=9, **settings)
    state = copy.deepcopy(algorithm.state_dict())
    assert (state["optimizer"]["bases"]["pending"] is not None) == (updates in (6, 7))
    other.load_state_dict(state)
    for seed in range(updates, updates + 6):
        first = update(algorithm, segment(algorithm.actor, seed), log=True)
        second = update(other, segment(other.actor, seed), log=True)
        assert without_clock(first) == without_clock(second)
    assert_same_weights(other, weights(algorithm))


@KINDS
@pytest.mark.parametrize("rule", ["exact", "factored"])
@pytest.mark.parametrize("lag", [0, 2, 3])
def test_decomposing_beside_the_training_changes_no_bit(kind, rule, lag):
    settings = {"cold_iter": 2, "kfac_update": 3, "damping_rule": rule, "eigen_lag": lag}
    beside, between = make(kind, async_eigen_decomp=True, **settings), make(kind, **settings)
    for seed in range(10):
        for each in (beside, between):
            update(each, segment(each.actor, seed))
    assert_same_weights(beside, weights(between))


def test_actions_are_those_of_the_network():
    for kind in SPACES:
        algorithm = make(kind)
        observations = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        found, expected = (
            act(each, observations, torch.Generator().manual_seed(1))
            for each in (algorithm, algorithm.actor)
        )
        assert all(map(torch.equal, found, expected))
        assert algorithm.n_statistics == found.statistics.shape[-1]
        assert algorithm.state_size == found.state.shape[-1] == 0
        greedy, expected = (
            act(each, observations, None).actions for each in (algorithm, algorithm.actor)
        )
        assert torch.equal(greedy, expected)
        assert torch.equal(greedy, algorithm.actor.distribution.mode(found.statistics))


# Every setting, in the environments themselves.

CHANGES = {
    "gamma": "0.9",
    "n_steps": "7",
    "ent_coef": "0.1",
    "vf_coef": "1.0",
    "vf_fisher_coef": "0.5",
    "learning_rate": "0.1",
    "max_grad_norm": "0.1",
    "kfac_clip": "0.01",
    "kfac_update": "2",
    "async_eigen_decomp": "true",
    "gae_lambda": "0.9",
    "momentum": "0.5",
    "damping": "0.1",
    "damping_rule": "factored",
    "stats_decay": "0.9",
    "cold_iter": "3",
    "cold_learning_rate": "0.1",
    "warm_max_grad_norm": "0.1",
    "eigen_lag": "1",
    "conv_factors": "expand",
    "bias": "separate",
    "vf_kfac_clip": "0.01",
    "normalize_rewards": "true",
    "log_std_init": "-0.5",
}
COMMON = [
    "algo=acktr",
    "experiment=none",
    "env.n_envs=3",
    "algo.n_steps=5",
    "algo.cold_iter=2",
    "algo.kfac_update=3",
]
PENDULUM = [*COMMON, "env=Pendulum-v1", "policy.hidden=[8]"]
CATCH = [
    *COMMON,
    "env=tests.tasks:Catch-v0",
    "policy=cnn",
    "policy.filters=[2,3,4]",
    "policy.features_dim=8",
    "threads=1",
]


def trained(words, updates=9):
    """Weights after a few updates in the environment itself."""
    torch.set_default_dtype(torch.float32)
    parts = assemble(compose(words))
    parts.collector.reset()
    for i in range(updates):
        rollout = parts.collector.collect(parts.algorithm.act)
        parts.algorithm.update(rollout, i / 20, log=False)
    parts.collector.envs.close()
    return weights(parts.algorithm)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_every_setting_is_alive():
    assert CHANGES.keys() == settings_of(ACKTR).keys()
    base = trained(PENDULUM)
    assert same(base, trained(PENDULUM))
    dead = [
        name
        for name, value in CHANGES.items()
        if name != "conv_factors" and same(base, trained([*PENDULUM, f"algo.{name}={value}"]))
    ]
    assert dead == []
    for word in ("lr_schedule=constant", "env.normalize_observations=true", "seed=1"):
        assert not same(base, trained([*PENDULUM, word]))
    # Of convolutions there are none.
    assert same(base, trained([*PENDULUM, "algo.conv_factors=expand"]))
    lagging = [*PENDULUM, "algo.eigen_lag=2"]
    assert same(trained(lagging), trained([*lagging, "algo.async_eigen_decomp=true"]))


def test_settings_of_pictures_are_alive():
    base = trained(CATCH)
    assert same(base, trained(CATCH))
    for name in ("conv_factors", "vf_kfac_clip", "bias"):
        assert not same(base, trained([*CATCH, f"algo.{name}={CHANGES[name]}"]))


def assert_same_weights(algorithm, expected):
    for name, p in algorithm.actor.named_parameters():
        assert torch.equal(p, expected[name]), name


def test_a_step_of_length_zero_has_no_kl_though_the_moments_move(command):
    words = ["algo=acktr", "experiment=none", "env.normalize_observations=true", "log_interval=1"]
    result = command(*words, "total_timesteps=1600", "eval.episodes=0", "logger=files", "threads=1")
    assert result.code == 0
    (path,) = Path("outputs").glob("*/*/*/metrics.jsonl")
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["optim/learning_rate"] == 0
    assert last["trust_region/policy_kl"] == pytest.approx(0, abs=1e-12)
    assert last["trust_region/value_kl"] == 0


class Idle(MlpPolicy):
    """With a layer that nothing depends on."""

    def __init__(self, *runtime, **settings):
        super().__init__(*runtime, **settings)
        self.idle = nn.Linear(2, 2)


@pytest.mark.parametrize("kind", [ACKTR, A2C])
def test_a_parameter_that_serves_nothing_is_refused_until_it_is_frozen(kind):
    space = spaces.Box(-1, 1, (3,))
    envs = SimpleNamespace(n_envs=2, observation_space=space, action_space=spaces.Discrete(2))
    policy = Idle(space, kind.heads(envs.action_space, {}), generator(0, "init")).float()
    with pytest.raises(UserError, match=r"no head depends on policy\.idle\.weight"):
        kind(policy, envs, generator(0, "replay"))
    policy.idle.requires_grad_(False)
    kind(policy, envs, generator(0, "replay"))
