"""A module of the user's own as encoder: what it gets, its start, and every algorithm with it."""

import copy
import functools
import itertools
import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun import config, schema, stored
from rlrun.algorithms import segments
from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acer import ACER
from rlrun.algorithms.acktr import ACKTR
from rlrun.data.collector import Collector
from rlrun.envs import make_vec
from rlrun.functional.schedules import constant
from rlrun.optim.kfac import KFAC
from rlrun.policies.base import Head, Segment
from rlrun.policies.encoder import EncoderPolicy, policy_maker
from rlrun.policies.mlp import MlpPolicy
from rlrun.policies.moments import normalize
from rlrun.run.rng import generator
from rlrun.schema import UserError
from rlrun.spaces import example, pack
from tests.tasks import Every

HEADS = {"policy": Head(3), "value": Head(1)}
VECTOR = spaces.Box(-1, 1, (4,))
HERE = __name__


class Wide(nn.Module):
    """Reads vectors."""

    def __init__(self, observation_space, width: schema.PositiveInt = 8, depth=1):
        super().__init__()
        sizes = [observation_space.shape[0]] + [width] * depth
        layers = itertools.starmap(nn.Linear, itertools.pairwise(sizes))
        self.layers = nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers))

    def forward(self, features):
        return self.layers(features)


class Conv(nn.Module):
    """Reads pictures."""

    def __init__(self, observation_space):
        super().__init__()
        channels, height, width = observation_space.shape
        size = 2 * ((height - 3) // 2 + 1) * ((width - 3) // 2 + 1)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(size, 8), nn.ReLU()
        )

    def forward(self, features):
        return self.layers(features)


class Each(nn.Module):
    """Reads every entry by a module of its own."""

    def __init__(self, observation_space):
        super().__init__()
        made = {
            name.replace(".", "-"): (Conv if len(entry.shape) == 3 else Wide)(entry)
            for name, entry in observation_space.spaces.items()
        }
        self.parts = nn.ModuleDict(made)

    def forward(self, features):
        found = [self.parts[name.replace(".", "-")](part) for name, part in features.items()]
        return torch.cat(found, 1)


class Spy(nn.Module):
    """Keeps the space and the features that it got."""

    def __init__(self, observation_space):
        super().__init__()
        self.space = observation_space

    def forward(self, features):
        self.features = features
        parts = features.values() if isinstance(features, dict) else [features]
        return torch.cat([part.flatten(1) for part in parts], 1)


def made(encoder, space=VECTOR, seed=0, **settings):
    return EncoderPolicy(space, HEADS, generator(seed, "init"), encoder=encoder, **settings)


def outputs_of(policy, observations):
    n = len(observations)
    segment = Segment.step(torch.zeros(n, 0), torch.ones(n, dtype=torch.bool))
    latents, _ = policy.encode(policy.features(observations), segment)
    return [policy.head(name, latents) for name in HEADS]


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# What the module gets.


def test_vectors_and_classes():
    policy = made(Spy, spaces.Box(-1, 1, (2, 3)))
    values = torch.randn(5, 2, 3)
    outputs_of(policy, values)
    assert torch.equal(policy.encoder.features, values.flatten(1))
    assert policy.encoder.space.shape == (6,)
    policy = made(Spy, spaces.Discrete(3, start=5))
    outputs_of(policy, torch.tensor([7, 5]))
    assert policy.encoder.features.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert policy.encoder.space.shape == (3,)


@pytest.mark.parametrize("shape", [(3, 10, 12), (10, 12, 3), (10, 12)])
def test_pictures_have_their_channels_first_and_end_at_1(shape):
    policy = made(Spy, spaces.Box(0, 255, shape, np.uint8))
    pictures = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    outputs_of(policy, pictures)
    expected = pictures.movedim(-1, 1) if shape[-1] == 3 else pictures.reshape(2, -1, 10, 12)
    torch.testing.assert_close(policy.encoder.features, expected / 255)
    assert policy.encoder.space.shape == tuple(expected.shape[1:])
    assert (policy.encoder.space.low.max(), policy.encoder.space.high.min()) == (0, 1)


def test_entries_go_by_their_path():
    space = spaces.Dict(
        robot=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)]),
        camera=spaces.Box(0, 255, (8, 9, 1), np.uint8),
    )
    space.seed(0)
    rows = [space.sample() for _ in range(4)]
    batch = {
        "camera": np.stack([row["camera"] for row in rows]),
        "robot": tuple(np.stack([row["robot"][i] for row in rows]) for i in range(2)),
    }
    policy = made(Spy, space)
    outputs_of(policy, torch.from_numpy(pack(space, batch)))
    found = policy.encoder.features
    assert list(found) == list(policy.encoder.space) == ["robot.0", "robot.1", "camera"]
    expected = torch.from_numpy(batch["camera"]).movedim(-1, 1) / 255
    torch.testing.assert_close(found["camera"], expected)
    assert torch.equal(found["robot.0"], torch.from_numpy(batch["robot"][0]))
    assert found["robot.1"].argmax(1).tolist() == batch["robot"][1].tolist()
    for name, box in policy.encoder.space.items():
        assert found[name].shape[1:] == box.shape


@pytest.mark.parametrize("kind", ["vector", "dict", "tuple"])
def test_normalised_vectors(kind):
    space = Every.OBSERVATIONS[kind]
    policy = made(Spy, space)
    policy.features = normalize(policy.features, space)
    space.seed(0)
    rows = [space.sample() for _ in range(50)]
    batch = gymnasium.vector.utils.concatenate(
        space, rows, gymnasium.vector.utils.create_empty_array(space, 50)
    )
    packed = torch.from_numpy(pack(space, batch))
    policy.observe(packed)
    outputs_of(policy, packed)
    seen = policy.encoder.features
    vector = {"vector": lambda: seen, "dict": lambda: seen["vector"], "tuple": lambda: seen["0"]}
    mean, deviation = vector[kind]().mean(0), vector[kind]().std(0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones(3), atol=1e-4, rtol=0)


# Its start.


def test_heads_read_what_comes_out_of_it():
    policy = made(
        functools.partial(Wide, width=6, depth=2), hidden=[5], critic_hidden=[7], activation="relu"
    )
    widths = {
        name: [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)]
        for name, head in policy.heads.items()
    }
    assert widths == {"policy": [(6, 5), (5, 3)], "value": [(6, 7), (7, 1)]}
    assert isinstance(policy.heads["policy"][1], nn.ReLU)
    latents = torch.randn(2, 6)
    observations = torch.randn(2, 4)
    expected = policy.heads["value"](policy.encoder(observations))
    assert torch.equal(outputs_of(policy, observations)[1], expected)
    assert policy.head("policy", latents).shape == (2, 3)


def test_its_weights_come_from_the_seed_and_from_nothing_else():
    torch.manual_seed(1)
    policy = made(Wide)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = made(Wide)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(policy, again)
    other = made(Wide, seed=1)
    assert not torch.equal(next(policy.encoder.parameters()), next(other.encoder.parameters()))
    # The heads do not depend on how much the module drew.
    deeper = made(functools.partial(Wide, depth=3))
    assert same(policy.heads, deeper.heads)


def test_layers_that_learn_their_shape_late():
    class Lazy(nn.Sequential):
        def __init__(self, observation_space):
            super().__init__(nn.LazyConv2d(2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))

    space = spaces.Box(0, 255, (9, 10, 3), np.uint8)
    policy, again = made(Lazy, space), made(Lazy, space)
    assert policy.heads["value"][0].in_features == 6
    assert same(policy, again)


def test_the_trial_teaches_it_nothing():
    class Counting(Wide):
        def forward(self, features):
            if self.training:
                raise AssertionError("an example is nothing to learn from")
            return super().forward(features)

    policy = made(Counting)
    assert all(module.training for module in policy.modules())
    assert all(p.grad is None for p in policy.parameters())


def test_state_goes_from_one_to_another():
    one, other = made(Wide), made(Wide, seed=1)
    observations = torch.randn(3, 4)
    assert not torch.equal(outputs_of(one, observations)[0], outputs_of(other, observations)[0])
    other.load_state_dict(one.state_dict())
    assert torch.equal(outputs_of(one, observations)[0], outputs_of(other, observations)[0])


# What does not fit.


class Unflat(nn.Conv2d):
    def __init__(self, observation_space):
        super().__init__(observation_space.shape[0], 2, 3)


class Pair(Wide):
    def forward(self, features):
        return super().forward(features), None


class Mean(Wide):
    def forward(self, features):
        return super().forward(features).mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("encoder", "space", "hint"),
    [
        (Unflat, spaces.Box(0, 255, (9, 9, 1), np.uint8), r"\[2, 2, 7, 7\].*\[2, L\].*Flatten"),
        (Pair, VECTOR, "into tuple"),
        (Mean, VECTOR, r"two observations, \[2, 4\], into \[1, 8\]"),
        (lambda space: torch.zeros(3), VECTOR, "made a Tensor; allowed: a torch.nn.Module"),
        (functools.partial(Wide, widht=3), VECTOR, r"policy\.encoder\.widht.*did you mean"),
        (functools.partial(Wide, width=0), VECTOR, r"policy\.encoder\.width: 0 is not allowed"),
        (Wide, spaces.Text(3), "TransformObservation"),
    ],
)
def test_modules_that_do_not_fit_are_refused(encoder, space, hint):
    with pytest.raises(UserError, match=hint):
        made(encoder, space)


def test_an_error_inside_tells_what_the_module_was_given():
    class Narrow(Wide):
        def forward(self, features):
            return super().forward(features[:, :3])

    with pytest.raises(RuntimeError) as error:
        made(Narrow)
    assert error.value.__notes__ == ["Narrow was tried with two observations: [2, 4]"]


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(8)])
def test_layers_that_act_otherwise_than_they_learn_are_refused(layer):
    class Moody(Wide):
        def __init__(self, observation_space, ready=False):
            super().__init__(observation_space)
            self.moody = layer.train(not ready)

        def forward(self, features):
            return self.moody(super().forward(features))

    with pytest.raises(UserError, match=rf"moody is a {type(layer).__name__}.*LayerNorm"):
        made(Moody)
    ready = made(functools.partial(Moody, ready=True))
    assert not ready.encoder.moody.training


# By name.


def node_of(**node):
    return config.instantiate(node, "policy")


def test_a_module_is_wrapped_and_a_policy_is_not():
    make = policy_maker(node_of(_target_=f"{HERE}.Wide", width=6))
    policy = make(VECTOR, HEADS, generator(0, "init"))
    assert type(policy) is EncoderPolicy
    assert type(policy.encoder) is Wide
    assert same(policy, made(functools.partial(Wide, width=6)))
    plain = functools.partial(MlpPolicy, hidden=[3])
    assert policy_maker(plain) is plain
    function = functools.partial(lambda *_: None)
    assert policy_maker(function) is function


def test_settings_of_a_module_are_checked():
    with pytest.raises(UserError, match=r"policy\.widht: unknown key; did you mean policy\.width"):
        node_of(_target_=f"{HERE}.Wide", widht=6)
    with pytest.raises(UserError, match=r"policy\.width: 0 is not allowed"):
        node_of(_target_=f"{HERE}.Wide", width=0)


EXPLICIT = {
    "_target_": "rlrun.policies.encoder.EncoderPolicy",
    "encoder": {"_target_": f"{HERE}.Wide", "_partial_": True, "width": 6},
    "hidden": [5],
    "critic_hidden": [7, 7],
    "activation": "elu",
    "layer_norm": True,
}


def test_a_module_with_settings_of_the_policy():
    policy = policy_maker(node_of(**EXPLICIT))(VECTOR, HEADS, generator(0, "init"))
    settings = {name: EXPLICIT[name] for name in list(EXPLICIT)[2:]}
    assert same(policy, made(functools.partial(Wide, width=6), **settings))
    nested = EXPLICIT["encoder"] | {"widht": 3}
    make = policy_maker(node_of(**EXPLICIT | {"encoder": nested}))
    with pytest.raises(UserError, match=r"policy\.encoder\.widht: unknown key"):
        make(VECTOR, HEADS, generator(0, "init"))
    with pytest.raises(UserError, match=r"policy\.hidden: \[1\] with layer_norm"):
        node_of(**EXPLICIT | {"hidden": [1]})
    with pytest.raises(UserError, match=r"policy\.encoder: missing"):
        policy_maker(node_of(_target_="rlrun.policies.encoder.EncoderPolicy"))


@pytest.mark.parametrize("node", [EXPLICIT, {"_target_": f"{HERE}.Wide", "width": 6}])
def test_a_stored_module_needs_trust(tmp_path, node):
    whole = config.check(config.compose(["env=CartPole-v1"]) | {"policy": node})
    assert all(whole["policy"][name] == value for name, value in node.items())
    path = tmp_path / "config.yaml"
    path.write_text(stored.dump(whole))
    with pytest.raises(UserError, match=r"test_encoder\.Wide is refused"):
        stored.load(path, [])
    assert config.check(stored.load(path, [HERE.partition(".")[0]])) == whole


# With every algorithm.

ALGORITHMS = {
    "acer": functools.partial(ACER, buffer_size=12, replay_start=4, replay_ratio=1.0, n_steps=4),
    "acktr": functools.partial(ACKTR, kfac_update=1, cold_iter=1, n_steps=4),
    "a2c": functools.partial(A2C, n_steps=4),
}
ENCODERS = {"vector": Wide, "image": Conv, "dict": Each, "tuple": Each, "discrete": Wide}


def parts_of(algo, observation, action, normalized=False, encoder=None):
    kwargs = {"observation": observation, "action": action}
    envs = make_vec("tests.tasks:Every-v0", 2, 0, kwargs)
    make = ALGORITHMS[algo]
    policy = EncoderPolicy(
        envs.observation_space,
        make.func.heads(envs.action_space, schema.completed(make.func, make.keywords)),
        generator(0, "init"),
        encoder=encoder or ENCODERS[observation],
    )
    if normalized:
        policy.features = normalize(policy.features, envs.observation_space)
    algorithm = make(policy, envs, generator(0, "replay"), constant)
    sizes = algorithm.n_steps, algorithm.n_statistics, algorithm.state_size
    collector = Collector(envs, *sizes, False, generator(0, "action"))
    return algorithm, collector


def learn(algorithm, collector, updates=4):
    collector.reset()
    for update in range(updates):
        rollout = collector.collect(algorithm.act)
        metrics = algorithm.update(rollout, update / 10, log=True)
        assert all(map(math.isfinite, metrics.values())), metrics
    collector.envs.close()


def policy_of(algorithm):
    return algorithm.actor.policy


def assert_learns(*case, **settings):
    algorithm, collector = parts_of(*case, **settings)
    before = copy.deepcopy(policy_of(algorithm).encoder)
    state = torch.get_rng_state()
    learn(algorithm, collector)
    assert torch.equal(torch.get_rng_state(), state)
    policy = policy_of(algorithm)
    for (name, p), old in zip(policy.encoder.named_parameters(), before.parameters(), strict=True):
        assert not torch.equal(p, old), name
    again, collector = parts_of(*case, **settings)
    learn(again, collector)
    assert same(policy, policy_of(again))
    fresh = parts_of(*case, **settings)[0]
    fresh.load_state_dict(algorithm.state_dict())
    assert same(policy, policy_of(fresh))


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("observation", ENCODERS)
def test_it_learns(algo, observation):
    action = {"image": "box", "dict": "multidiscrete"}.get(observation, "discrete")
    assert_learns(algo, observation, action)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_it_learns_from_normalised_observations(algo):
    assert_learns(algo, "dict", "discrete", normalized=True)


def test_the_average_policy_has_an_encoder_of_its_own():
    algorithm, collector = parts_of("acer", "vector", "discrete")
    learn(algorithm, collector)
    average = algorithm.average.policy
    assert average.features is algorithm.actor.policy.features
    assert not same(average.encoder, algorithm.actor.policy.encoder)


class Scaled(Wide):
    """Has a parameter that K-FAC knows nothing of."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features):
        return self.scale * super().forward(features)


def test_acktr_says_which_layers_it_can_train():
    with pytest.raises(UserError, match=r"Use Linear, Conv2d and LayerNorm.*algo=a2c"):
        parts_of("acktr", "vector", "discrete", encoder=Scaled)
    for algo in ("acer", "a2c"):
        learn(*parts_of(algo, "vector", "discrete", encoder=Scaled), updates=1)


class Twice(Wide):
    """Calls one layer twice with all rows."""

    def forward(self, features):
        half = super().forward(features)
        return half + super().forward(10.0 * features)


class Folded(Wide):
    """Its layer sees the rows in another shape and order."""

    def forward(self, features):
        both = super().forward(torch.cat([torch.zeros_like(features), features]))
        return both[len(features) :]


@pytest.mark.parametrize("encoder", [Wide, Twice, Folded])
def test_curvature_is_of_the_states_acted_in_whatever_an_encoder_does_with_its_rows(encoder):
    algorithm, collector = parts_of("acktr", "vector", "discrete", encoder=encoder)
    collector.reset()
    for _ in range(3):  # so that there are episodes that were cut
        rollout = collector.collect(algorithm.act)
    collector.envs.close()
    actor = copy.deepcopy(algorithm.actor)
    rng = algorithm.rng.get_state()
    algorithm.update(rollout, 0.0, log=False)

    alone = KFAC(actor, sharing="reduce")
    algorithm.rng.set_state(rng)
    with alone.capture() as backward:
        statistics, values = actor(*segments.acted_in(rollout))
        scores = algorithm._scores(statistics, values, rollout.actions.flatten(0, 1))
        backward((statistics, values), scores)
    found = algorithm.optimizer.parts
    for name, part in alone.parts.items():
        for kind, expected in part.statistics.items():
            torch.testing.assert_close(found[name].statistics[kind], expected, msg=f"{name} {kind}")


def test_an_example_is_of_the_space():
    """What the module is tried with is what `seen` says."""
    for space in Every.OBSERVATIONS.values():
        policy = made(Spy, space)
        seen = policy.encoder.features
        outputs_of(policy, example(space))
        one = policy.encoder.features
        for each in (seen, one):
            if isinstance(each, dict):
                shapes = {name: tuple(part.shape[1:]) for name, part in each.items()}
                assert shapes == {name: box.shape for name, box in policy.encoder.space.items()}
            else:
                assert tuple(each.shape[1:]) == policy.encoder.space.shape
