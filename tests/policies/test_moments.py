"""Running moments against those of all rows at once, and observations scaled by them."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acer import ACER
from rlrun.algorithms.acktr import ACKTR
from rlrun.build import assemble
from rlrun.config import compose
from rlrun.data.rollout import Rollout
from rlrun.evaluation import play_episodes
from rlrun.policies.base import Head
from rlrun.policies.layers import ImageFeatures, VectorFeatures, features_of, split_features
from rlrun.policies.mlp import MlpPolicy
from rlrun.policies.moments import Normalized, RunningMoments, normalize
from rlrun.run.rng import generator
from rlrun.run.signals import StopRequest
from rlrun.schema import UserError, completed
from rlrun.spaces import pack

SIZE = 3


def rows_of(n, seed=0, scale=(1.0, 20.0, 0.05), shift=(0.0, -300.0, 1.0)):
    noise = torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed))
    return noise * torch.tensor(scale) + torch.tensor(shift)


def observed(*pieces):
    moments = RunningMoments(SIZE)
    for piece in pieces:
        moments.observe(piece)
    return moments


def assert_moments_of(moments, rows):
    assert moments.count == len(rows)
    exact = rows.double()
    torch.testing.assert_close(moments.mean, exact.mean(0).float())
    variance = exact.var(0, correction=0).float()
    torch.testing.assert_close(moments.variance, variance, rtol=1e-4, atol=0)


@pytest.mark.parametrize("sizes", [[1000], [1, 1, 998], [500, 500], [7] * 142 + [6], [999, 1]])
def test_they_are_those_of_all_rows_however_they_come_in_pieces(sizes):
    rows = rows_of(1000)
    assert_moments_of(observed(*rows.split(sizes)), rows)


def test_pieces_of_other_means_add_their_spread():
    """What lies between the means of the pieces is part of the variance."""
    pieces = [rows_of(50, seed, shift=(10.0 * seed, 0.0, 0.0)) for seed in range(6)]
    assert_moments_of(observed(*pieces), torch.cat(pieces))


def test_before_anything_is_observed_they_are_those_of_a_standard_normal():
    rows = rows_of(5).clamp(-9, 9)
    torch.testing.assert_close(RunningMoments(SIZE).normalized(rows), rows)


def test_the_first_rows_leave_nothing_of_the_start():
    moments = observed(torch.full((1, SIZE), 5.0))
    assert moments.mean.tolist() == [5.0] * SIZE
    assert moments.variance.tolist() == [0.0] * SIZE


def test_normalised_rows_have_mean_0_and_variance_1():
    rows = rows_of(1000)
    normalized = observed(rows).normalized(rows)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(SIZE), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.var(0, correction=0), torch.ones(SIZE), atol=1e-3, rtol=0)
    assert normalized.abs().max() < 10.0


def test_normalised_values_are_cut_off_at_ten_deviations():
    moments = observed(torch.tensor([[-1.0] * SIZE, [1.0] * SIZE]))
    rows = torch.tensor([[9.9, 10.1, 1e9], [-9.9, -10.1, -1e9]])
    expected = torch.tensor([[9.9, 10.0, 10.0], [-9.9, -10.0, -10.0]])
    torch.testing.assert_close(moments.normalized(rows), expected)


def test_what_never_varies_stays_finite():
    moments = observed(torch.zeros(100, SIZE))
    rows = torch.tensor([[0.0, 1e-30, 1.0]])
    assert torch.isfinite(moments.normalized(rows)).all()
    assert moments.normalized(rows)[0, 0] == 0.0


def test_bytes_and_doubles_are_taken_as_they_are():
    rows = torch.randint(0, 256, (100, SIZE), dtype=torch.uint8)
    assert_moments_of(observed(rows), rows)
    assert_moments_of(observed(rows.double()), rows)


def test_only_observe_changes_them():
    moments = observed(rows_of(10))
    before = copy.deepcopy(moments.state_dict())
    for _ in range(2):
        moments.normalized(rows_of(10, seed=1))
    assert_equal_states(moments.state_dict(), before)


def test_they_are_saved_and_restored():
    moments, other = observed(rows_of(10)), observed(rows_of(7, seed=1))
    other.load_state_dict(copy.deepcopy(moments.state_dict()))
    for each in (moments, other):
        each.observe(rows_of(13, seed=2))
    assert_equal_states(other.state_dict(), moments.state_dict())
    assert not list(moments.parameters())


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# In a network, and in the algorithms.


def policy_of(space, heads=None, normalize=True, **settings):
    heads = heads or {"policy": Head(2), "value": Head(1)}
    policy = MlpPolicy(space, heads, generator(0, "init"), **settings)
    if normalize:
        policy.features = Normalized(policy.features, math.prod(space.shape))
    return policy


def test_a_network_reads_normalised_observations():
    space = spaces.Box(-np.inf, np.inf, (SIZE,))
    scaled, plain = policy_of(space), policy_of(space, normalize=False)
    rows = rows_of(100)
    scaled.observe(rows)
    plain.observe(rows)  # nothing to learn from it
    expected = observed(rows).normalized(rows)
    assert torch.equal(scaled.features(rows), expected)
    assert torch.equal(plain.features(rows), rows)
    for head in ("policy", "value"):
        assert torch.equal(scaled.head(head, scaled.features(rows)), plain.head(head, expected))


def test_observations_of_more_dimensions_are_scaled_number_by_number():
    policy = policy_of(spaces.Box(-1, 1, (2, 3)))
    batch = torch.randn(50, 2, 3)
    policy.observe(batch)
    flat = batch.flatten(1)
    assert torch.equal(policy.features(batch), policy.features.moments.normalized(flat))
    assert policy.features.moments.mean.shape == (6,)


@pytest.mark.parametrize("env", ["tests.tasks:Identity-v0", "tests.tasks:Catch-v0"])
def test_classes_and_pictures_are_refused(env):
    policy = "cnn" if "Catch" in env else "mlp"
    config = compose([f"env={env}", f"policy={policy}", "env.normalize_observations=true"])
    with pytest.raises(UserError, match=r"env\.normalize_observations: only for"):
        assemble(config)


SPACE = spaces.Dict(
    {
        "bits": spaces.MultiBinary(2),
        "camera": spaces.Box(0, 255, (8, 9), np.uint8),
        "class": spaces.Discrete(3),
        "doubles": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "inner": spaces.Tuple(
            [spaces.Box(-99, 99, (2,), np.int64), spaces.Box(0, 1, (2,), np.bool_)]
        ),
    }
)


def packed(n, seed=0):
    """Rows of `SPACE` as the system shows them, and the numbers in them."""
    rng = np.random.default_rng(seed)
    doubles = rng.normal(5.0, 30.0, (n, 2, 2))
    integers = rng.integers(-99, 99, (n, 2))
    rows = {
        "bits": rng.integers(0, 2, (n, 2)),
        "camera": rng.integers(0, 256, (n, 8, 9)),
        "class": rng.integers(0, 3, n),
        "doubles": doubles,
        "inner": (integers, rng.integers(0, 2, (n, 2))),
    }
    numbers = torch.from_numpy(doubles).flatten(1), torch.from_numpy(integers)
    return torch.from_numpy(pack(SPACE, rows)), numbers


def test_every_vector_of_a_dict_is_scaled_by_moments_of_its_own():
    features, plain = (features_of(SPACE, pictures=True) for _ in range(2))
    assert normalize(features, SPACE) is features
    kinds = [type(part) for part in features.parts]
    others = [VectorFeatures, ImageFeatures, VectorFeatures]
    assert kinds == [*others, Normalized, Normalized, VectorFeatures]
    batches = [packed(20, seed) for seed in range(3)]
    for rows, _ in batches:
        features.observe(rows)
    for i, part in ((0, features.parts[3]), (1, features.parts[4])):
        moments_of = torch.cat([numbers[i] for _, numbers in batches]).float()
        assert_moments_of_any(part.moments, moments_of)
    rows, numbers = packed(7, seed=9)
    shown, expected = (split_features(both(rows), plain.shapes) for both in (features, plain))
    for i in (0, 1, 2, 5):
        assert torch.equal(shown[i], expected[i])
    for i, j in ((3, 0), (4, 1)):
        moments = features.parts[i].moments
        assert torch.equal(shown[i], moments.normalized(numbers[j].float()))
    assert features.shapes == plain.shapes


def assert_moments_of_any(moments, rows):
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.variance, rows.var(0, correction=0), rtol=1e-4, atol=0)


def test_a_policy_shows_its_observations_to_the_entries():
    policy = MlpPolicy(SPACE, {"value": Head(1)}, generator(0, "init"))
    rows, _ = packed(20)
    policy.observe(rows)  # nothing to learn from it
    policy.features = normalize(policy.features, SPACE)
    policy.observe(rows)
    counts = [part.moments.count for part in policy.features.parts if isinstance(part, Normalized)]
    assert counts == [20] * 3  # without convolutions, the camera is a vector like any other
    saved = [name for name in policy.state_dict() if "moments" in name]
    assert len(saved) == 9


class OwnFeatures(torch.nn.Module):
    def forward(self, observations):
        return observations[:, :2] ** 2


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_vectors_of_other_features_are_wrapped_whole(dtype):
    space = spaces.Box(0, 200, (4,), dtype)
    for features, size in ((OwnFeatures(), 2), (features_of(space, False), 4)):
        wrapped = normalize(features, space)
        assert isinstance(wrapped, Normalized)
        assert wrapped.features is features
        assert wrapped.moments.mean.shape == (size,)


@pytest.mark.parametrize(
    ("space", "pictures", "says"),
    [
        (spaces.Discrete(3), False, r"not for Discrete\(3\)"),
        (spaces.MultiBinary(3), False, "not for MultiBinary"),
        (spaces.MultiDiscrete([3]), False, "not for MultiDiscrete"),
        (spaces.Box(0, 1, (3,), np.bool_), False, "not for Box"),
        (spaces.Box(0, 255, (8, 8), np.uint8), True, "not for pictures"),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.MultiBinary(2)), False, r"\(a, b\)"),
        (spaces.Tuple([spaces.Box(0, 255, (8, 8), np.uint8)]), True, r"\(0\)"),
        (spaces.Tuple([spaces.Box(0, 1, (3,), np.bool_)]), False, r"\(0\)"),
    ],
)
def test_where_there_is_nothing_to_scale_it_is_said(space, pictures, says):
    with pytest.raises(UserError, match=r"env\.normalize_observations: only for.*" + says):
        normalize(features_of(space, pictures), space)


def test_features_of_ones_own_for_entries_are_refused():
    with pytest.raises(UserError, match="not for Dict"):
        normalize(OwnFeatures(), SPACE)


def learner(kind):
    space = spaces.Box(-np.inf, np.inf, (SIZE,))
    envs = SimpleNamespace(
        n_envs=2, observation_space=space, action_space=spaces.Discrete(2), frame_stack=1
    )
    settings = {"n_steps": 4} | (
        {"replay_start": 0, "replay_ratio": 3.0, "buffer_size": 40} if kind is ACER else {}
    )
    heads = kind.heads(envs.action_space, completed(kind, settings))
    policy = policy_of(space, heads, hidden=[4])
    return kind(policy, envs, generator(0, "replay"), **settings), policy


def segment(algorithm, seed):
    g = torch.Generator().manual_seed(seed)
    observations = rows_of(5 * 2, seed).view(5, 2, SIZE)
    no = torch.zeros(4, 2, dtype=torch.bool)
    acted = algorithm.act(observations[:-1].flatten(0, 1), no.flatten(), torch.empty(8, 0), g)
    return Rollout(
        observations=observations,
        actions=acted.actions.view(4, 2),
        rewards=torch.randn(4, 2, generator=g),
        behaviour=acted.statistics.view(4, 2, -1),
        terminated=no,
        truncated=no,
        reset=torch.zeros(5, 2, dtype=torch.bool),
        state=torch.empty(2, 0),
        final_observations=torch.empty(0, SIZE),
        final_index=torch.empty(0, 2, dtype=torch.int64),
    )


@pytest.mark.parametrize("kind", [ACER, ACKTR, A2C])
def test_every_algorithm_observes_a_fresh_segment_once_and_after_it_has_learnt(kind, monkeypatch):
    algorithm, policy = learner(kind)
    moments = policy.features.moments
    seen = []
    for seed in range(4):
        batch = segment(algorithm, seed)
        counts = []
        policy.features.register_forward_hook(
            lambda *_, counts=counts: counts.append(int(moments.count))
        )
        algorithm.update(batch, 0.0, log=False)
        # All of the learning, replay included, saw it with the eyes that had collected it.
        assert set(counts) == {len(seen)}
        seen += batch.observations[1:].flatten(0, 1)
        assert_moments_of(moments, torch.stack(seen))


@pytest.mark.parametrize("algo", ["acer", "acktr", "a2c"])
def test_acting_and_evaluation_leave_the_moments_as_they_are(algo):
    words = [f"algo={algo}", "experiment=none", "env.normalize_observations=true"]
    config = compose(
        [*words, "env.n_envs=2", "algo.n_steps=4", "env.kwargs={max_episode_steps: 9}"]
    )
    parts = assemble(config)
    parts.collector.reset()
    network = (parts.algorithm.actor).policy
    moments = network.features.moments
    for _ in range(3):
        rollout = parts.collector.collect(parts.algorithm.act)
        parts.algorithm.update(rollout, 0.0, log=True)
    assert moments.count == 24
    before = copy.deepcopy(moments.state_dict())
    parts.collector.collect(parts.algorithm.act)
    play_episodes(config, parts, "eval", 3, True, StopRequest())
    assert_equal_states(moments.state_dict(), before)
    parts.collector.envs.close()


@pytest.mark.parametrize("kind", [ACER, ACKTR, A2C])
def test_the_moments_are_part_of_the_state_of_an_algorithm(kind):
    algorithm, policy = learner(kind)
    for seed in range(3):
        algorithm.update(segment(algorithm, seed), 0.0, log=False)
    other, again = learner(kind)
    if algorithm.memory is not None:
        first, end = algorithm.memory.first, algorithm.memory.end
        other.memory.restore(first, end, algorithm.memory.export(first, end))
    other.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    assert_equal_states(again.features.state_dict(), policy.features.state_dict())
    observations = rows_of(6, seed=9)
    reset, state = torch.zeros(6, dtype=torch.bool), torch.empty(6, 0)
    first, second = (each.act(observations, reset, state, None) for each in (algorithm, other))
    assert torch.equal(first.statistics, second.statistics)
