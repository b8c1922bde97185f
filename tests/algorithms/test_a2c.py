"""One update of A2C against autograd and the rule of RMSprop, and the bookkeeping around it."""

import copy

import pytest
import torch
from test_advantage import KINDS, SPACES, act, by_hand, envs_of, policy_of, segment

from rlrun.algorithms.a2c import A2C
from rlrun.build import assemble
from rlrun.config import compose
from rlrun.data.rewards import RewardScale
from rlrun.functional import schedules
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.policies.base import Head
from rlrun.schema import settings as settings_of


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(kind="discrete", seed=0, lr_schedule=schedules.linear, **settings):
    rng = torch.Generator().manual_seed(seed)
    return A2C(policy_of(kind, seed), envs_of(kind), rng, lr_schedule, **settings)


def update(algorithm, batch, progress=0.0, log=False):
    return algorithm.update(copy.deepcopy(batch), progress, log)


def weights(algorithm):
    return {name: p.detach().clone() for name, p in algorithm.actor.named_parameters()}


def loss_by_hand(algorithm, batch, vf_coef=0.25, ent_coef=0.01, **settings):
    policy_loss, value_loss, entropy, _, _ = by_hand(algorithm.actor, batch, **settings)
    return policy_loss + vf_coef * value_loss - ent_coef * entropy


@KINDS
@pytest.mark.parametrize(
    ("settings", "by_hand_settings"),
    [
        ({}, {}),
        ({"vf_coef": 2.0, "ent_coef": 0.5}, {"vf_coef": 2.0, "ent_coef": 0.5}),
        ({"gamma": 0.9, "gae_lambda": 0.8}, {"gamma": 0.9, "lambda_": 0.8}),
        ({"normalize_advantage": True}, {"normalize": True}),
        ({"max_grad_norm": None}, {"bound": None}),
        ({"max_grad_norm": 0.01}, {"bound": 0.01}),
        ({"alpha": 0.5, "epsilon": 1e-3}, {"alpha": 0.5, "epsilon": 1e-3}),
    ],
)
def test_three_updates_are_rmsprop_on_the_gradient_of_the_loss(kind, settings, by_hand_settings):
    algorithm = make(kind, learning_rate=0.05, **settings)
    hand = {"bound": 0.5, "alpha": 0.99, "epsilon": 1e-5} | by_hand_settings
    bound, alpha, epsilon = (hand.pop(name) for name in ("bound", "alpha", "epsilon"))
    mean_squares = [torch.ones_like(p) for p in algorithm.parameters]
    clipped = 0
    for seed in range(3):
        batch = segment(algorithm.actor, seed)
        loss = loss_by_hand(algorithm, batch, **hand)
        gradients = torch.autograd.grad(loss, algorithm.parameters)
        norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        clipped += bound is not None and norm > bound
        scale = 1.0 if bound is None else min(1.0, bound / norm)
        progress = 0.2 * seed
        rate = 0.05 * (1.0 - progress)
        expected = []
        for p, g, ms in zip(algorithm.parameters, gradients, mean_squares, strict=True):
            g = scale * g
            ms.copy_(alpha * ms + (1 - alpha) * g * g)
            expected.append(p.detach() - rate * g / (ms + epsilon).sqrt())
        metrics = update(algorithm, batch, progress, log=True)
        # PyTorch divides by the norm plus 1e-6.
        found = [p.detach() for p in algorithm.parameters]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-7)
        assert metrics["loss/total"] == pytest.approx(loss.item())
        assert metrics["optim/grad_norm"] == pytest.approx(norm)
        assert metrics["optim/learning_rate"] == pytest.approx(rate)
    assert clipped == 0 if bound is None else clipped > 0


def test_the_schedule_is_never_left_and_the_rate_never_negative():
    algorithm = make(learning_rate=0.1)
    rates = [
        update(algorithm, segment(algorithm.actor), progress, log=True)["optim/learning_rate"]
        for progress in (0.0, 0.25, 0.999, 1.0, 1.1)
    ]
    assert rates == pytest.approx([0.1, 0.075, 0.0001, 0.0, 0.0])
    assert min(rates) >= 0.0


def test_at_the_end_of_the_schedule_nothing_moves():
    algorithm = make()
    before = weights(algorithm)
    update(algorithm, segment(algorithm.actor), progress=1.0)
    assert_same_weights(algorithm, before)


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


@pytest.mark.parametrize("where", ["rewards", "observations", "final_observations"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(where, value):
    algorithm = make()
    update(algorithm, segment(algorithm.actor))
    batch = segment(algorithm.actor, seed=1)
    getattr(batch, where).view(-1)[0] = value
    before = weights(algorithm)
    mean_squares = copy.deepcopy(algorithm.optimizer.state_dict())
    with pytest.raises(NonFiniteUpdate, match="gradient") as error:
        update(algorithm, batch)
    assert error.value.details["norms"]["gradient"] in ("nan", "inf")
    assert_same_weights(algorithm, before)
    for name, kept in mean_squares.items():
        assert torch.equal(algorithm.optimizer.state_dict()[name], kept)


@KINDS
def test_asking_for_metrics_changes_nothing(kind):
    asked, silent = make(kind), make(kind)
    for seed in range(4):
        assert update(asked, segment(asked.actor, seed), 0.1, log=True)
        assert update(silent, segment(silent.actor, seed), 0.1) == {}
    assert_same_weights(asked, weights(silent))


@KINDS
def test_state_dict_carries_everything(kind):
    algorithm = make(kind, normalize_rewards=True)
    for seed in range(3):
        update(algorithm, segment(algorithm.actor, seed))
    other = make(kind, seed=9, normalize_rewards=True)
    other.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    for seed in range(3, 6):
        first = update(algorithm, segment(algorithm.actor, seed), log=True)
        assert update(other, segment(other.actor, seed), log=True) == first
    assert_same_weights(other, weights(algorithm))


def test_no_generator_is_drawn_from():
    rng = torch.Generator().manual_seed(0)
    algorithm = A2C(policy_of("discrete"), envs_of("discrete"), rng)
    before = rng.get_state(), torch.get_rng_state()
    update(algorithm, segment(algorithm.actor), log=True)
    assert torch.equal(rng.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


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
        assert A2C.heads(SPACES[kind], {})["value"] == Head(1)


CHANGES = {
    "gamma": "0.9",
    "n_steps": "7",
    "vf_coef": "1.0",
    "ent_coef": "0.1",
    "max_grad_norm": "null",
    "learning_rate": "1e-3",
    "alpha": "0.9",
    "epsilon": "1e-2",
    "gae_lambda": "0.9",
    "normalize_advantage": "true",
    "normalize_rewards": "true",
    "log_std_init": "-0.5",
}
PENDULUM = ["algo=a2c", "env=Pendulum-v1", "experiment=none", "env.n_envs=3", "policy.hidden=[8]"]


def trained(*words, updates=4):
    """Weights after a few updates in the environment itself."""
    torch.set_default_dtype(torch.float32)
    parts = assemble(compose([*PENDULUM, *words]))
    parts.collector.reset()
    for i in range(updates):
        rollout = parts.collector.collect(parts.algorithm.act)
        parts.algorithm.update(rollout, i / 10, log=False)
    parts.collector.envs.close()
    return weights(parts.algorithm)


def test_every_setting_is_alive():
    assert CHANGES.keys() == settings_of(A2C).keys()
    base = trained()
    assert all(torch.equal(base[name], again) for name, again in trained().items())
    dead = [
        name
        for name, value in CHANGES.items()
        if all(torch.equal(base[k], w) for k, w in trained(f"algo.{name}={value}").items())
    ]
    assert dead == []
    assert any(not torch.equal(base[k], w) for k, w in trained("lr_schedule=constant").items())


def assert_same_weights(algorithm, expected):
    for name, p in algorithm.actor.named_parameters():
        assert torch.equal(p, expected[name]), name
