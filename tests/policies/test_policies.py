"""Networks: shapes, starting weights, and observations that do not fit."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError

HEADS = {"policy": 3, "q": 3}


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


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
    outputs = policy(policy.features(batch))
    assert [tuple(output.shape) for output in outputs] == [(5, 3), (5, 3)]
    assert torch.equal(policy.head("q", policy.features(batch)), outputs[1])


def test_discrete_observations_are_one_hot():
    features = MlpPolicy(spaces.Discrete(3, start=5), HEADS, generator(0, "init")).features
    assert features(torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_towers_share_nothing():
    policy = MlpPolicy(spaces.Box(-1, 1, (4,)), HEADS, generator(0, "init"))
    actor, _ = policy(policy.features(torch.randn(2, 4)))
    actor.sum().backward()
    assert all(p.grad is None for p in policy.towers["q"].parameters())


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 3), (84, 84), (1, 40, 60)])
def test_cnn(shape):
    policy = CnnPolicy(image(*shape), HEADS, generator(0, "init"), features_dim=32)
    pictures = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    features = policy.features(pictures)
    assert 0.0 <= features.min() <= features.max() <= 1.0
    outputs = policy(features)
    assert [tuple(output.shape) for output in outputs] == [(2, 3), (2, 3)]
    assert torch.equal(policy.head("policy", features), outputs[0])


def test_channel_order_does_not_matter():
    first = CnnPolicy(image(3, 84, 84), HEADS, generator(0, "init"))
    last = CnnPolicy(image(84, 84, 3), HEADS, generator(0, "init"))
    pictures = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(
        first(first.features(pictures)), last(last.features(pictures.movedim(1, -1)))
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
    hidden, last = policy.towers["policy"][2], policy.towers["policy"][-1]
    torch.testing.assert_close(hidden.weight.T @ hidden.weight, 2.0 * torch.eye(64))
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(3))
    assert not hidden.bias.any()
    assert math.isclose(policy.towers["q"][0].weight.norm().item(), math.sqrt(8), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("policy", "space", "hint"),
    [
        (CnnPolicy, spaces.Box(-1, 1, (4,)), "policy=mlp"),
        (CnnPolicy, spaces.Box(0, 1, (3, 84, 84)), "uint8"),
        (CnnPolicy, image(3, 30, 84), "ResizeObservation"),
        (MlpPolicy, spaces.Dict(a=spaces.Discrete(2)), "FlattenObservation"),
    ],
)
def test_observations_that_do_not_fit_are_refused(policy, space, hint):
    with pytest.raises(UserError, match=hint):
        policy(space, HEADS, generator(0, "init"))
