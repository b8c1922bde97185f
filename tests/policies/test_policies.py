"""Networks: shapes, starting weights, and observations that do not fit."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.policies.base import Head, Segment
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError

HEADS = {"policy": Head(3), "q": Head(3)}


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def outputs_of(policy, observations):
    """Both heads on a batch of observations that are steps of as many environments."""
    n = len(observations)
    segment = Segment.step(torch.zeros(n, policy.state_size), torch.ones(n, dtype=torch.bool))
    latents, _ = policy.encode(policy.features(observations), segment)
    return [policy.head(name, latents) for name in HEADS]


@pytest.mark.parametrize(
    ("space", "batch"),
    [
        (spaces.Box(-1, 1, (4,)), torch.randn(5, 4)),
        (spaces.Box(-1, 1, (2, 3)), torch.randn(5, 2, 3)),
        (spaces.Discrete(7, start=2), torch.tensor([2, 8, 4, 3, 2])),
    ],
)
def test_mlp(space, batch):
    policy = MlpPolicy(space, HEADS, generator(0, "init"))
    assert [output.shape for output in outputs_of(policy, batch)] == [(5, 3), (5, 3)]


def test_discrete_observations_are_one_hot():
    features = MlpPolicy(spaces.Discrete(3, start=5), HEADS, generator(0, "init")).features
    assert features(torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_towers_share_nothing():
    policy = MlpPolicy(spaces.Box(-1, 1, (4,)), HEADS, generator(0, "init"))
    actor, _ = outputs_of(policy, torch.randn(2, 4))
    actor.sum().backward()
    assert all(p.grad is None for p in policy.heads["q"].parameters())


@pytest.mark.parametrize("hidden", [[8], []])
def test_heads_with_inputs_read_both(hidden):
    heads = {"policy": Head(3), "advantage": Head(1, 2)}
    policy = MlpPolicy(spaces.Box(-1, 1, (4,)), heads, generator(0, "init"), hidden=hidden)
    latents = torch.randn(5, 4, requires_grad=True)
    inputs = torch.randn(5, 2, requires_grad=True)
    output = policy.head("advantage", latents, inputs)
    assert output.shape == (5, 1)
    mixed = torch.autograd.grad(output.sum(), latents, create_graph=True)[0]
    (interaction,) = torch.autograd.grad(mixed.square().sum(), inputs)
    assert interaction.abs().sum() > 0  # no sum of a part for each


def test_layer_norm_precedes_each_activation():
    policy = MlpPolicy(
        spaces.Box(-1, 1, (4,)), HEADS, generator(0, "init"), hidden=[8, 8], layer_norm=True
    )
    names = [type(layer).__name__ for layer in policy.heads["q"]]
    assert names == ["Linear", "LayerNorm", "Tanh"] * 2 + ["Linear"]


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 3), (84, 84), (1, 40, 60)])
def test_cnn(shape):
    policy = CnnPolicy(image(*shape), HEADS, generator(0, "init"), features_dim=32)
    pictures = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    features = policy.features(pictures)
    assert 0.0 <= features.min() <= features.max() <= 1.0
    assert [output.shape for output in outputs_of(policy, pictures)] == [(2, 3), (2, 3)]


def test_channel_order_does_not_matter():
    first = CnnPolicy(image(3, 84, 84), HEADS, generator(0, "init"))
    last = CnnPolicy(image(84, 84, 3), HEADS, generator(0, "init"))
    pictures = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(
        outputs_of(first, pictures), outputs_of(last, pictures.movedim(1, -1))
    )


def test_starting_weights_are_orthogonal_and_come_from_the_generator_alone():
    torch.manual_seed(1)
    policy = MlpPolicy(spaces.Box(-1, 1, (4,)), HEADS, generator(0, "init"))
    torch.manual_seed(2)
    again = MlpPolicy(spaces.Box(-1, 1, (4,)), HEADS, generator(0, "init"))
    other = MlpPolicy(spaces.Box(-1, 1, (4,)), HEADS, generator(1, "init"))
    for a, b in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(policy.parameters()), next(other.parameters()))
    hidden, last = policy.heads["policy"][2], policy.heads["policy"][-1]
    torch.testing.assert_close(hidden.weight.T @ hidden.weight, 2.0 * torch.eye(64))
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(3))
    assert not hidden.bias.any()
    assert math.isclose(policy.heads["q"][0].weight.norm().item(), math.sqrt(8), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("policy", "space", "hint"),
    [
        (CnnPolicy, spaces.Box(-1, 1, (4,)), "policy=mlp"),
        (CnnPolicy, spaces.Box(0, 1, (3, 84, 84)), "uint8"),
        (CnnPolicy, image(3, 6, 84), "ResizeObservation"),
        (MlpPolicy, image(36, 40), "policy=cnn"),
        (MlpPolicy, spaces.Dict(a=spaces.Text(2)), "TransformObservation"),
    ],
)
def test_observations_that_do_not_fit_are_refused(policy, space, hint):
    with pytest.raises(UserError, match=hint):
        policy(space, HEADS, generator(0, "init"))
