"""A policy and a value on one network: what acts is what is learnt from."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.functional.distributions import Categorical, Gaussian
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.base import Head, Segment
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from rlrun.schema import UserError

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
PICTURE = spaces.Box(0, 255, (1, 40, 40), np.uint8)
BOX = spaces.Box(-1, 1, (2, 3), np.float32)
KINDS = pytest.mark.parametrize("actions", [spaces.Discrete(4), BOX], ids=["discrete", "box"])


def make(actions, observations=VECTOR, log_std_init=0.0, cls=MlpPolicy, **settings):
    policy = cls(observations, ActorCritic.heads(actions), generator(0, "init"), **settings)
    noise = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():  # far from uniform
        parameter.data.add_(0.5 * torch.randn(parameter.shape, generator=noise))
    return ActorCritic(policy, actions, log_std_init)


def observations_of(n=11, seed=0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def both(network, observations):
    """Statistics and values of observations that have nothing to do with each other."""
    n = len(observations)
    return network(observations, Segment.step(torch.zeros(n, 0), torch.ones(n, dtype=torch.bool)))


def latents_of(network, observations):
    n = len(observations)
    segment = Segment.step(torch.zeros(n, 0), torch.ones(n, dtype=torch.bool))
    return network.policy.encode(network.policy.features(observations), segment)[0]


def act(network, observations, rng):
    n = len(observations)
    return network.act(observations, torch.ones(n, dtype=torch.bool), torch.zeros(n, 0), rng)


def heads_by_hand(network, observations):
    """What the two towers make of vectors."""
    features = network.policy.features(observations)
    return [network.policy.heads[name](features) for name in ("policy", "value")]


@pytest.mark.parametrize(
    ("space", "outputs"),
    [
        (spaces.Discrete(4, start=2), 4),
        (spaces.Box(-1, 1, (3,), np.float32), 3),
        (spaces.Box(-1, 1, (2, 3), np.float64), 6),
        (spaces.Box(-1, 1, (), np.float32), 1),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), 2),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]), 14),
        (spaces.MultiBinary(3), 6),
        (spaces.MultiBinary((2, 3)), 12),
    ],
)
def test_heads(space, outputs):
    assert ActorCritic.heads(space) == {"policy": Head(outputs), "value": Head(1)}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (3,), np.uint8),
        spaces.Box(-5, 5, (3,), np.int64),
        spaces.Box(-1, 1, (3,), np.float16),
        spaces.Text(3),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Dict(a=spaces.Discrete(2)),
    ],
)
def test_other_spaces_are_refused_by_name(space):
    with pytest.raises(UserError, match="MultiBinary spaces and in Box spaces of float32") as error:
        ActorCritic.heads(space)
    assert str(space)[:10] in str(error.value)


def test_discrete_actions_are_categorical():
    network = make(spaces.Discrete(4))
    observations = observations_of()
    statistics, values = both(network, observations)
    logits, value = heads_by_hand(network, observations)
    assert network.distribution == Categorical()
    assert network.log_std is None
    assert network.n_statistics == 4
    assert torch.equal(statistics, logits)
    assert torch.equal(values, value[:, 0])


def test_actions_in_boxes_are_gaussian_with_one_deviation_for_all_states():
    network = make(BOX, log_std_init=-0.7)
    network.log_std.data += 0.1 * torch.arange(6)
    observations = observations_of()
    statistics, values = both(network, observations)
    means, value = heads_by_hand(network, observations)
    assert network.distribution == Gaussian()
    assert network.n_statistics == 12
    assert torch.equal(statistics[:, :6], means)
    assert torch.equal(statistics[:, 6:], network.log_std.expand(11, 6))
    assert torch.equal(values, value[:, 0])


@pytest.mark.parametrize("start", [0.0, -1.5])
def test_the_deviation_starts_where_it_is_told_and_is_learnt(start):
    network = make(BOX, log_std_init=start)
    assert torch.equal(network.log_std, torch.full((6,), start))
    assert "log_std" in dict(network.named_parameters())
    both(network, observations_of())[0][:, 6:].sum().backward()
    assert torch.equal(network.log_std.grad, torch.full((6,), 11.0))


@KINDS
def test_statistics_alone_are_those_of_both(actions):
    network = make(actions)
    observations = observations_of()
    latents = latents_of(network, observations)
    assert torch.equal(network.statistics(latents), both(network, observations)[0])


@KINDS
def test_a_critic_of_a_tower_of_its_own_is_not_in_the_statistics(actions):
    network = make(actions)
    network.statistics(latents_of(network, observations_of())).sum().backward()
    assert all(p.grad is None for p in network.policy.heads["value"].parameters())
    assert all(p.grad is not None for p in network.policy.heads["policy"].parameters())


@KINDS
def test_pictures(actions):
    network = make(actions, PICTURE, cls=CnnPolicy, filters=(3, 4, 5), features_dim=6)
    pictures = torch.randint(0, 256, (7, 1, 40, 40), dtype=torch.uint8)
    statistics, values = both(network, pictures)
    assert statistics.shape == (7, network.n_statistics)
    assert values.shape == (7,)
    torch.testing.assert_close(network.statistics(latents_of(network, pictures)), statistics)


def test_filters_are_the_widths_of_the_convolutions():
    network = make(spaces.Discrete(4), PICTURE, cls=CnnPolicy, filters=(3, 4, 5), features_dim=6)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [3, 4, 5]
    assert [c.in_channels for c in convolutions] == [1, 3, 4]
    assert [p.shape for p in network.policy.heads["value"].parameters()] == [(1, 6), (1,)]


def test_the_default_filters_are_those_of_the_nature_network():
    heads = ActorCritic.heads(spaces.Discrete(4))
    policy = CnnPolicy(spaces.Box(0, 255, (4, 84, 84), np.uint8), heads, generator(0, "init"))
    assert [m.out_channels for m in policy.modules() if isinstance(m, torch.nn.Conv2d)] == [
        32,
        64,
        64,
    ]
    assert policy.encoder.output[0].in_features == 64 * 7 * 7


@KINDS
def test_actions_are_drawn_from_the_statistics_that_come_with_them(actions):
    network = make(actions)
    observations = observations_of()
    drawn, statistics, _ = act(network, observations, torch.Generator().manual_seed(3))
    assert torch.equal(statistics, both(network, observations)[0])
    again = network.distribution.sample(statistics, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again)
    assert not drawn.requires_grad
    assert not statistics.requires_grad
    assert drawn.shape == ((11,) if isinstance(actions, spaces.Discrete) else (11, 6))


@KINDS
def test_greedy_actions_are_the_most_probable_ones(actions):
    network = make(actions)
    observations = observations_of()
    statistics = both(network, observations)[0].detach()
    expected = statistics.argmax(-1) if isinstance(actions, spaces.Discrete) else statistics[:, :6]
    assert torch.equal(act(network, observations, None).actions, expected)


@KINDS
def test_acting_draws_from_the_given_generator_alone(actions):
    network = make(actions)
    rng = torch.Generator().manual_seed(3)
    before, given = torch.get_rng_state(), rng.get_state()
    act(network, observations_of(), None)
    assert torch.equal(rng.get_state(), given)
    act(network, observations_of(), rng)
    assert not torch.equal(rng.get_state(), given)
    assert torch.equal(torch.get_rng_state(), before)


def test_actions_of_many_states_have_the_moments_of_the_gaussian():
    network = make(spaces.Box(-1, 1, (2,), np.float32), log_std_init=math.log(0.3))
    observations = observations_of(1).expand(20_000, -1)
    actions, statistics, _ = act(network, observations, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actions.mean(0), statistics[0, :2], atol=0.01, rtol=0)
    torch.testing.assert_close(actions.std(0), torch.full((2,), 0.3), atol=0.01, rtol=0)


@KINDS
def test_all_of_it_is_saved(actions):
    network, other = make(actions, log_std_init=0.5), make(actions)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(network.state_dict())
    outputs = (both(each, observations_of()) for each in (network, other))
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)
