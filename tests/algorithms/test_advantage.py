"""Targets and losses that ACKTR and A2C share, against plain loops and torch.distributions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Independent, Normal

from rlrun.algorithms import advantage
from rlrun.data.rollout import Rollout
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.base import Segment
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator

ENVS, STEPS, FEATURES = 3, 5, 4
SPACES = {"discrete": spaces.Discrete(3), "box": spaces.Box(-1, 1, (2,), np.float32)}
KINDS = pytest.mark.parametrize("kind", SPACES)


def envs_of(kind, n_envs=ENVS):
    return SimpleNamespace(
        n_envs=n_envs,
        observation_space=spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32),
        action_space=SPACES[kind],
        frame_stack=1,
    )


def policy_of(kind, seed=0, hidden=(6,), noise=0.5, **settings):
    """Towers in the default precision, far from uniform."""
    envs = envs_of(kind)
    heads = ActorCritic.heads(envs.action_space)
    space, init = envs.observation_space, generator(seed, "init")
    policy = MlpPolicy(space, heads, init, hidden=list(hidden), **settings)
    draws = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        parameter.data.add_(noise * torch.randn(parameter.shape, generator=draws))
    dtype = torch.get_default_dtype()
    policy.features.register_forward_hook(lambda module, args, output: output.to(dtype))
    return policy


def apart(n):
    """`n` observations that have nothing to do with each other, for a network without memory."""
    return Segment.step(torch.zeros(n, 0), torch.ones(n, dtype=torch.bool))


def act(learner, observations, rng):
    """Actions, statistics and state for these observations, each on its own."""
    n = len(observations)
    return learner.act(observations, torch.ones(n, dtype=torch.bool), torch.zeros(n, 0), rng)


def segment(network, seed=0, steps=STEPS, n_envs=ENVS, ends=True):
    """A segment whose actions the network has drawn, with ends of both kinds."""
    g = torch.Generator().manual_seed(seed)
    observations = torch.randn(steps + 1, n_envs, FEATURES, generator=g)
    actions, behaviour, _ = act(network, observations[:-1].flatten(0, 1), g)
    index = [[0, 2], [2, 1], [steps - 1, 2]] if ends else []
    final_index = torch.tensor(index, dtype=torch.int64).view(-1, 2)
    truncated = torch.zeros(steps, n_envs, dtype=torch.bool)
    truncated[final_index[:, 0], final_index[:, 1]] = True
    terminated = torch.zeros(steps, n_envs, dtype=torch.bool)
    terminated[1:2, 0] = ends
    return Rollout(
        observations=observations,
        actions=actions.view(steps, n_envs, *actions.shape[1:]),
        rewards=torch.randn(steps, n_envs, generator=g),
        behaviour=behaviour.view(steps, n_envs, -1),
        terminated=terminated,
        truncated=truncated,
        reset=torch.zeros(steps + 1, n_envs, dtype=torch.bool),
        state=torch.zeros(n_envs, 0),
        final_observations=torch.randn(len(index), FEATURES, generator=g),
        final_index=final_index,
    )


def as_torch(network, observations):
    """The distribution of the actions by PyTorch, and the values."""
    features = network.policy.features(observations)
    outputs, values = (network.policy.heads[name](features) for name in ("policy", "value"))
    if network.log_std is None:
        return Categorical(logits=outputs), values.squeeze(-1)
    return Independent(Normal(outputs, network.log_std.exp()), 1), values.squeeze(-1)


def by_hand(network, batch, gamma=0.99, lambda_=1.0, normalize=False):
    """Policy loss, value loss, entropy, and advantages `[T, B]`, by loops over the steps."""
    steps, n_envs = batch.rewards.shape
    distribution, values = as_torch(network, batch.observations[:-1].flatten(0, 1))
    old = values.detach().view(steps, n_envs)
    with torch.no_grad():
        last = as_torch(network, batch.observations[-1])[1]
        finals = [as_torch(network, x.unsqueeze(0))[1].item() for x in batch.final_observations]
    bootstrap = dict(zip(map(tuple, batch.final_index.tolist()), finals, strict=True))
    advantages = torch.zeros(steps, n_envs)
    for b in range(n_envs):
        carry, following = 0.0, last[b].item()
        for t in reversed(range(steps)):
            if batch.terminated[t, b]:
                carry, following = 0.0, 0.0
            elif batch.truncated[t, b]:
                carry, following = 0.0, bootstrap[t, b]
            error = batch.rewards[t, b].item() + gamma * following - old[t, b].item()
            carry = error + gamma * lambda_ * carry
            advantages[t, b], following = carry, old[t, b].item()
    returns = (advantages + old).flatten()
    weights = advantages.flatten()
    if normalize:
        mean = sum(weights.tolist()) / len(weights)
        variance = sum((x - mean) ** 2 for x in weights.tolist()) / len(weights)
        weights = (weights - mean) / (math.sqrt(variance) + 1e-8)
    log_probs = distribution.log_prob(batch.actions.flatten(0, 1))
    return (
        -(weights * log_probs).mean(),
        (returns - values).square().mean(),
        distribution.entropy().mean(),
        weights.view(steps, n_envs),
        returns.view(steps, n_envs),
    )


def network_of(kind, seed=0, log_std_init=-0.3):
    return ActorCritic(policy_of(kind, seed), SPACES[kind], log_std_init)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@KINDS
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, None), (0.9, 0.95), (0.9, 0.0), (1.0, 1.0)])
def test_losses_are_those_by_hand(double, kind, normalize, gamma, lambda_):
    network = network_of(kind)
    batch = segment(network)
    terms = advantage.learn_terms(network, batch, gamma, lambda_, normalize)
    whole = 1.0 if lambda_ is None else lambda_
    policy_loss, value_loss, entropy, advantages, returns = by_hand(
        network, batch, gamma, whole, normalize
    )
    torch.testing.assert_close(terms.advantages, advantages.flatten())
    torch.testing.assert_close(terms.returns, returns.flatten())
    torch.testing.assert_close(terms.policy_loss, policy_loss)
    torch.testing.assert_close(terms.value_loss, value_loss)
    torch.testing.assert_close(terms.entropy, entropy)
    for ours, theirs in zip(terms[4:], (policy_loss, value_loss, entropy), strict=True):
        if ours is terms.entropy and kind == "box":
            continue  # no weights of the network are in it
        parameters = list(network.policy.parameters())
        found, expected = (
            torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            for loss in (ours, theirs)
        )
        torch.testing.assert_close(found, expected)


@KINDS
def test_no_gradient_flows_through_targets_and_advantages(double, kind):
    network = network_of(kind)
    terms = advantage.learn_terms(network, segment(network), 0.99, 0.95, False)
    assert not terms.returns.requires_grad
    assert not terms.advantages.requires_grad
    critic = list(network.policy.heads["value"].parameters())
    assert torch.autograd.grad(terms.policy_loss, critic, allow_unused=True) == (None,) * 4


@KINDS
def test_statistics_and_values_are_of_the_states_that_were_acted_in(double, kind):
    network = network_of(kind)
    batch = segment(network)
    terms = advantage.learn_terms(network, batch, 0.99, None, False)
    statistics, values = network(batch.observations[:-1].flatten(0, 1), apart(STEPS * ENVS))
    torch.testing.assert_close(terms.statistics, statistics)
    torch.testing.assert_close(terms.values, values)
    torch.testing.assert_close(terms.statistics, batch.behaviour.flatten(0, 1))


@KINDS
@pytest.mark.parametrize("normalize", [False, True])
def test_returns_less_the_old_values_are_the_advantages(double, kind, normalize):
    """Normalising weighs the policy's loss only; the targets of the critic stay."""
    network = network_of(kind)
    terms = advantage.learn_terms(network, segment(network), 0.99, 0.95, normalize)
    raw = terms.returns - terms.values
    if normalize:
        raw = (raw - raw.mean()) / raw.std(correction=0)
        torch.testing.assert_close(terms.advantages.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(terms.advantages, raw, rtol=1e-6, atol=1e-7)


@KINDS
def test_a_truncation_is_worth_its_last_observation_and_a_termination_nothing(double, kind):
    network = network_of(kind)
    batch = segment(network)
    terms = advantage.learn_terms(network, batch, 0.9, 0.0, False)
    returns = terms.returns.view(STEPS, ENVS)
    finals = network(batch.final_observations, apart(3))[1]
    for k, (t, b) in enumerate(batch.final_index.tolist()):
        torch.testing.assert_close(returns[t, b], batch.rewards[t, b] + 0.9 * finals[k])
    torch.testing.assert_close(returns[1, 0], batch.rewards[1, 0])


@KINDS
def test_a_segment_without_truncations(double, kind):
    network = network_of(kind)
    batch = segment(network, ends=False)
    terms = advantage.learn_terms(network, batch, 0.9, None, False)
    torch.testing.assert_close(terms.returns.view(STEPS, ENVS), by_hand(network, batch, 0.9)[4])


def test_a_single_sample_is_normalised_to_zero(double):
    network = network_of("discrete")
    batch = segment(network, steps=1, n_envs=1, ends=False)
    terms = advantage.learn_terms(network, batch, 0.9, None, True)
    assert terms.advantages.tolist() == [0.0]


@KINDS
def test_metrics_by_hand(double, kind):
    network = network_of(kind)
    batch = segment(network)
    terms = advantage.learn_terms(network, batch, 0.99, None, True)
    metrics = advantage.health(network, terms, torch.tensor(1.25))
    policy_loss, value_loss, entropy, _, returns = by_hand(network, batch, normalize=True)
    values = network(batch.observations[:-1].flatten(0, 1), apart(STEPS * ENVS))[1].detach()
    errors = (returns.flatten() - values).numpy()
    expected = {
        "loss/total": 1.25,
        "loss/policy": policy_loss.item(),
        "loss/value": value_loss.item(),
        "loss/explained_variance": 1.0 - np.var(errors) / np.var(returns.numpy()),
        "policy/entropy": entropy.item(),
        "policy/value": values.mean().item(),
        "policy/advantage": errors.mean(),
    }
    if kind == "box":
        expected["policy/std"] = math.exp(-0.3)
    assert metrics == pytest.approx(expected)
