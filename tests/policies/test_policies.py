"""Networks: shapes, starting weights, and observations that do not fit."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.policies.base import Head, Segment
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.lstm import LstmPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError, problems

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


def widths_of(layers):
    """Inputs and outputs of each linear layer, in order."""
    found = (m for m in layers.modules() if isinstance(m, torch.nn.Linear))
    return [(m.in_features, m.out_features) for m in found]


def test_shared_layers_and_towers_of_their_own():
    policy = MlpPolicy(
        spaces.Box(-1, 1, (4,)),
        HEADS | {"value": Head(1)},
        generator(0, "init"),
        shared=[9, 8],
        hidden=[7],
        critic_hidden=[6, 5],
        activation="relu",
    )
    assert widths_of(policy.shared) == [(4, 9), (9, 8)]
    assert [type(layer).__name__ for layer in policy.shared] == ["Linear", "ReLU"] * 2
    assert widths_of(policy.heads["policy"]) == [(8, 7), (7, 3)]
    assert widths_of(policy.heads["q"]) == [(8, 6), (6, 5), (5, 3)]
    assert widths_of(policy.heads["value"]) == [(8, 6), (6, 5), (5, 1)]
    actor, critic = outputs_of(policy, torch.randn(2, 4))
    for output in (actor, critic):
        gradients = torch.autograd.grad(
            output.sum(), list(policy.shared.parameters()), retain_graph=True
        )
        assert all(gradient.any() for gradient in gradients)


def test_a_critic_without_layers_beside_a_policy_with_some():
    heads = HEADS | {"advantage": Head(1, 2)}
    policy = MlpPolicy(
        spaces.Box(-1, 1, (4,)), heads, generator(0, "init"), hidden=[7], critic_hidden=[]
    )
    assert widths_of(policy.heads["policy"]) == [(4, 7), (7, 3)]
    assert widths_of(policy.heads["q"]) == [(4, 3)]
    assert widths_of(policy.heads["advantage"]) == [(6, 64), (64, 1)]


def test_towers_behind_a_memory():
    policy = LstmPolicy(
        spaces.Box(-1, 1, (4,)),
        HEADS,
        generator(0, "init"),
        lstm_size=5,
        towers=[7],
        critic_towers=[6, 8],
    )
    assert widths_of(policy.heads["policy"]) == [(5, 7), (7, 3)]
    assert widths_of(policy.heads["q"]) == [(5, 6), (6, 8), (8, 3)]


@pytest.mark.parametrize(
    ("policy", "name", "other"),
    [(MlpPolicy, "critic_hidden", "hidden"), (LstmPolicy, "critic_towers", "towers")],
)
def test_critics_are_built_as_the_policy_is_unless_told_otherwise(policy, name, other):
    space = spaces.Box(-1, 1, (4,))
    same = [
        policy(space, HEADS, generator(0, "init"), **{other: [6], name: widths}).state_dict()
        for widths in (None, [6])
    ]
    assert same[0].keys() == same[1].keys()
    assert all(torch.equal(tensor, same[1][key]) for key, tensor in same[0].items())


def test_the_first_weights_of_plain_towers():
    """They are drawn head by head, layer by layer, and from nothing else."""
    policy = MlpPolicy(spaces.Box(-1, 1, (4,)), HEADS, generator(0, "init"))
    names = [f"heads.{head}.{i}" for head in HEADS for i in (0, 2, 4)]
    assert [k for k in policy.state_dict() if k.endswith("weight")] == [
        f"{n}.weight" for n in names
    ]
    rng = generator(0, "init")
    for name in names:
        weight = policy.state_dict()[f"{name}.weight"]
        gain = 0.01 if name.endswith("4") else math.sqrt(2)
        expected = torch.nn.init.orthogonal_(torch.empty_like(weight), gain, generator=rng)
        assert torch.equal(weight, expected), name


@pytest.mark.parametrize("name", ["shared", "hidden", "critic_hidden"])
def test_a_layer_of_width_1_is_not_normalised(name):
    (found,) = problems(MlpPolicy, {"layer_norm": True, name: [4, 1]}, partial=True)
    assert found.startswith(f"{name}: [4, 1] with layer_norm=true")


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
