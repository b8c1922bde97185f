"""The LSTM: its cell, its way along a segment, and the states that segments begin with."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun.algorithms import advantage
from rlrun.build import assemble
from rlrun.config import check, compose
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.base import Head, Segment
from rlrun.policies.cnn import CnnPolicy
from rlrun.policies.cnn_encoder import CnnEncoder
from rlrun.policies.lstm import LstmCell, LstmPolicy
from rlrun.policies.mlp import MlpPolicy
from rlrun.run.rng import generator
from tests.tasks import Every

VECTOR = spaces.Box(-1, 1, (3,))
ACTIONS = spaces.Discrete(4)
HEADS = ActorCritic.heads(ACTIONS)
T, B, SIZE = 6, 3, 5
NORMS = pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer_norm"])


def rng_of(seed=0):
    return torch.Generator().manual_seed(seed)


def disturb(module, scale=0.3, seed=0):
    """Far from the initial weights, of which many are 0 or 1."""
    noise = rng_of(seed)
    for p in module.parameters():
        p.data += scale * torch.randn(p.shape, generator=noise, dtype=p.dtype)
    return module


def make(space=VECTOR, disturbed=True, **settings):
    small = {"lstm_size": SIZE, "before": [7], "filters": (2, 2, 2), "features_dim": 7}
    policy = LstmPolicy(space, HEADS, generator(0, "init"), **(small | settings))
    return (disturb(policy) if disturbed else policy).double()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# The cell.


def cell_of(inputs=3, size=SIZE, layer_norm=False, forget_bias=0.5):
    return LstmCell(inputs, size, layer_norm, forget_bias, rng_of(0))


def test_it_is_the_cell_of_torch():
    """There the gates are `i, f, g, o` and the biases two."""
    ours, theirs = disturb(cell_of()).double(), nn.LSTMCell(3, SIZE).double()
    rows = torch.arange(4 * SIZE).view(4, SIZE)[[0, 1, 3, 2]].flatten()
    weight, bias = ours.gates.weight.data[rows], ours.gates.bias.data[rows]
    theirs.weight_ih.data, theirs.weight_hh.data = weight[:, :3], weight[:, 3:]
    theirs.bias_ih.data, theirs.bias_hh.data = 0.25 * bias, 0.75 * bias
    x = torch.randn(4, 3, generator=rng_of(1)).double()
    cell, hidden = torch.randn(2, 4, SIZE, generator=rng_of(2)).double()
    state = torch.cat([cell, hidden], 1)
    for _ in range(3):
        state = ours(x, state)
        hidden, cell = theirs(x, (hidden, cell))
        close(state, torch.cat([cell, hidden], 1))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_a_cell_of_one_unit_by_hand():
    cell = cell_of(1, 1).double()
    cell.gates.weight.data[:] = torch.tensor([[1.0, 2], [-1, 0.5], [0.5, -2], [2, 1]])
    cell.gates.bias.data[:] = torch.tensor([0.1, 0.2, -0.3, 0.4], dtype=torch.float64)
    x, c, h = 0.5, 0.25, -1.0
    i, f = sigmoid(x + 2 * h + 0.1), sigmoid(-x + 0.5 * h + 0.2)
    o, g = sigmoid(0.5 * x - 2 * h - 0.3), math.tanh(2 * x + h + 0.4)
    c = f * c + i * g
    found = cell(torch.tensor([[x]]).double(), torch.tensor([[0.25, -1.0]]).double())
    assert found.tolist()[0] == pytest.approx([c, o * math.tanh(c)], abs=1e-12)


def normed(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * layer.weight + (0.0 if layer.bias is None else layer.bias)


def test_with_layer_norm_both_maps_and_the_cell_are_normalised():
    cell = disturb(cell_of(layer_norm=True)).double()
    x = torch.randn(4, 3, generator=rng_of(1)).double()
    c, h = torch.randn(2, 4, SIZE, generator=rng_of(2)).double()
    gates = normed(x @ cell.input.weight.T, cell.norm_input)
    gates = gates + normed(h @ cell.hidden.weight.T, cell.norm_hidden)
    i, f, o, g = (gates[:, k * SIZE : (k + 1) * SIZE] for k in range(4))
    expected = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    shown = torch.sigmoid(o) * torch.tanh(normed(expected, cell.norm_cell))
    close(cell(x, torch.cat([c, h], 1)), torch.cat([expected, shown], 1))
    # One bias is enough for a sum.
    assert {name for name, _ in cell.named_parameters() if name.endswith("bias")} == {
        "norm_input.bias",
        "norm_cell.bias",
    }


@NORMS
@pytest.mark.parametrize("inputs", [3, 4 * SIZE, 4 * SIZE + 3])
def test_the_parts_of_the_initial_weight_are_orthogonal_each_by_itself(inputs, layer_norm):
    cell = cell_of(inputs, layer_norm=layer_norm)
    if layer_norm:
        parts = cell.input.weight, cell.hidden.weight
        for layer in (cell.norm_input, cell.norm_hidden, cell.norm_cell):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
    else:
        parts = cell.gates.weight[:, :inputs], cell.gates.weight[:, inputs:]
        assert (parts[0].T @ parts[1]).abs().max() > 0.05
    for part in parts:
        product = part.T @ part if part.shape[1] <= len(part) else part @ part.T
        torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)
    forgetting = torch.zeros(4 * SIZE)
    forgetting[SIZE : 2 * SIZE] = 0.5
    for name, p in cell.named_parameters():
        if name in ("gates.bias", "norm_input.bias"):
            assert torch.equal(p, forgetting)
        else:
            assert not name.endswith("bias") or not p.any()


@NORMS
def test_a_high_forget_bias_keeps_the_cell(layer_norm):
    cell = cell_of(layer_norm=layer_norm, forget_bias=20.0)
    cell.get_parameter("norm_input.weight" if layer_norm else "gates.weight").data.mul_(0.0)
    if layer_norm:
        cell.norm_hidden.weight.data.mul_(0.0)
    state = torch.randn(2, 2 * SIZE, generator=rng_of(1))
    torch.testing.assert_close(cell(torch.zeros(2, 3), state)[:, :SIZE], state[:, :SIZE])


def test_the_generator_alone_decides_the_initial_weights():
    first, other = (
        LstmPolicy(VECTOR, HEADS, generator(seed, "init"), lstm_size=SIZE) for seed in (0, 1)
    )
    torch.manual_seed(5)
    again = LstmPolicy(VECTOR, HEADS, generator(0, "init"), lstm_size=SIZE)
    weights = [dict(policy.named_parameters()) for policy in (first, again, other)]
    for name, p in weights[0].items():
        assert torch.equal(p, weights[1][name])
        assert name.endswith("bias") or not torch.equal(p, weights[2][name])


# The way along a segment.


def data(seed=0):
    """Features, and how they follow: at every step but the first one environment is reset."""
    features = torch.randn(T, B, 3, generator=rng_of(seed)).double()
    state = torch.randn(B, 2 * SIZE, generator=rng_of(seed + 1)).double()
    reset = torch.zeros(T, B, dtype=torch.bool)
    for t in range(1, T):
        reset[t, t % B] = True
    reset[0, 2] = True
    return features, state, reset


def unroll(policy, features, state, reset, finals=(), index=()):
    """Latents `[T, B, L]`, those of the final observations `[K, L]`, and the last state."""
    steps, n_envs = reset.shape
    rows = features.flatten(0, 1)
    if len(finals):
        rows = torch.cat([rows, finals])
    where = torch.tensor(index, dtype=torch.int64).view(-1, 2)
    latents, state = policy.encode(rows, Segment(state, reset, where))
    acted = steps * n_envs
    return latents[:acted].unflatten(0, (steps, n_envs)), latents[acted:], state


@NORMS
def test_a_segment_is_the_cell_step_by_step(layer_norm):
    policy = make(layer_norm=layer_norm, after=[4])
    features, state, reset = data()
    latents, _, last = unroll(policy, features, state, reset)
    for env in range(B):
        now = state[env : env + 1]
        for t in range(T):
            now = torch.zeros_like(now) if reset[t, env] else now
            now = policy.cell(policy.encoder(features[t, env : env + 1]), now)
            close(latents[t, env], policy.after(now[:, SIZE:])[0])
        close(last[env], now[0])


@NORMS
@pytest.mark.parametrize("cut", range(1, T))
def test_chunks_that_carry_the_state_on_are_the_whole(cut, layer_norm):
    policy = make(layer_norm=layer_norm)
    features, state, reset = data()
    latents, _, last = unroll(policy, features, state, reset)
    first, _, between = unroll(policy, features[:cut], state, reset[:cut])
    second, _, end = unroll(policy, features[cut:], between, reset[cut:])
    close(torch.cat([first, second]), latents)
    close(end, last)
    # Without the state it would not be.
    other, _, _ = unroll(policy, features[cut:], torch.zeros_like(between), reset[cut:])
    assert reset[cut].any()
    assert not reset[cut].all()
    assert torch.equal(other[0, reset[cut]], second[0, reset[cut]])
    assert (other[0] != second[0]).any(-1)[~reset[cut]].all()


@NORMS
@pytest.mark.parametrize("start", range(T))
def test_nothing_from_before_a_reset_matters(start, layer_norm):
    policy = make(layer_norm=layer_norm)
    features, state, reset = data()
    reset[:, 1] = False
    changed, other = features.clone(), state.clone()
    changed[:start, 1] += 3.0
    other[1] -= 2.0
    for there in (True, False):
        reset[start, 1] = there
        latents, _, last = unroll(policy, features, state, reset)
        found, _, end = unroll(policy, changed, other, reset)
        differs = (found != latents).any(-1)
        assert not differs[:, [0, 2]].any()  # nor does it leak into other environments
        assert differs[:start, 1].all()
        if there:
            assert not differs[start:, 1].any()
            assert torch.equal(end, last)
        else:
            assert differs[start:, 1].all()
            assert (end != last).any(-1).tolist() == [False, True, False]


def test_nothing_from_after_a_step_matters():
    policy = make()
    features, state, reset = data()
    changed = features.clone()
    changed[3:] += 1.0
    latents, _, _ = unroll(policy, features, state, reset)
    found, _, _ = unroll(policy, changed, state, reset)
    assert torch.equal(found[:3], latents[:3])
    assert (found[3:] != latents[3:]).any(-1).all()


TRUNCATED = [(2, 0), (0, 1), (4, 2), (3, 1), (5, 1)]
"""The last steps of an episode that began before the segment, of one that began so and has one
step here, of one that began inside, of two that follow each other in one environment."""


@NORMS
def test_a_last_observation_follows_the_steps_of_its_own_episode(layer_norm):
    policy = make(layer_norm=layer_norm)
    features, state, reset = data()
    for t, env in TRUNCATED:
        if t + 1 < T:
            reset[t + 1, env] = True
    reset[1:3, 0] = False
    reset[2:4, 1] = False
    finals = torch.randn(len(TRUNCATED), 3, generator=rng_of(7)).double()
    latents, found, last = unroll(policy, features, state, reset, finals, TRUNCATED)
    lengths = []
    for k, (t, env) in enumerate(TRUNCATED):
        starts = [s for s in range(t + 1) if reset[s, env]]
        begin = starts[-1] if starts else 0
        episode = torch.cat([features[begin : t + 1, env], finals[k : k + 1]]).unsqueeze(1)
        alone = torch.zeros(len(episode), 1, dtype=torch.bool)
        before = state[env : env + 1] * (0.0 if starts else 1.0)
        expected, _, _ = unroll(policy, episode, before, alone)
        close(found[k], expected[-1, 0])
        fresh, _, _ = unroll(policy, finals[k].view(1, 1, 3), torch.zeros_like(before), alone[:1])
        assert (found[k] - fresh[0, 0]).abs().max() > 1e-3
        lengths.append((len(episode) - 1, bool(starts)))
    assert lengths == [(3, False), (1, False), (3, True), (3, True), (2, True)]
    # The rest does not see them.
    plain, none, end = unroll(policy, features, state, reset)
    assert len(none) == 0
    close(latents, plain)
    close(last, end)


@NORMS
def test_acting_step_by_step_gives_the_statistics_of_the_segment(layer_norm):
    policy = make(layer_norm=layer_norm).float()
    network = ActorCritic(policy, ACTIONS)
    features, state, reset = data()
    observations, state = features.float(), state.float()
    statistics, _ = network(observations.flatten(0, 1), Segment(state, reset, torch.empty(0, 2)))
    _, last = policy.encode(observations.flatten(0, 1), Segment(state, reset, torch.empty(0, 2)))
    now, rng, rows = state, rng_of(), []
    for t in range(T):
        acted = network.act(observations[t], reset[t], now, rng)
        now = acted.state
        rows.append(acted.statistics)
        assert now.shape == (B, 2 * SIZE)
        assert not now.requires_grad
    torch.testing.assert_close(torch.cat(rows), statistics.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(now, last.detach(), rtol=0, atol=1e-6)


def test_the_size_of_the_state():
    assert make().state_size == 2 * SIZE
    image = Every.OBSERVATIONS["image"]
    for policy, shape in [
        (MlpPolicy(VECTOR, HEADS, rng_of()), (3,)),
        (CnnPolicy(image, HEADS, rng_of(), filters=(2, 2, 2), features_dim=4), image.shape),
    ]:
        assert policy.state_size == 0
        state = torch.zeros(B, 0)
        features = policy.features(torch.zeros(B, *shape, dtype=torch.uint8))
        latents, after = policy.encode(features, Segment.step(state, torch.ones(B).bool()))
        assert after is state
        assert len(latents) == B
    for algo, size in [("acer", 4 * 8), ("acktr", 2 * 8), ("a2c", 2 * 8)]:
        parts = parts_of(algo)
        assert parts.algorithm.state_size == size
        rollout = parts.collector.collect(parts.algorithm.act)
        assert rollout.state.shape == (3, size)
        parts.collector.envs.close()


# Its layers.


@pytest.mark.parametrize("kind", ["image", "dict"])
def test_pictures_go_through_convolutions(kind):
    space = Every.OBSERVATIONS[kind]
    policy = make(space)
    assert isinstance(policy.encoder, CnnEncoder)
    assert len(policy.encoder.pictures) == 1
    assert policy.cell.gates.in_features == 7 + SIZE
    cnn = CnnPolicy(space, HEADS, generator(0, "init"), filters=(2, 2, 2), features_dim=7)
    lstm = make(space, disturbed=False).float()
    for ours, theirs in zip(lstm.encoder.parameters(), cnn.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    _, state, reset = data()
    shape = lstm.features.shapes[0] if kind == "image" else (lstm.features.size,)
    features = torch.rand(T, B, *shape, generator=rng_of(3))
    latents, _, _ = unroll(lstm, features, state.float(), reset)
    encoded = cnn.encoder(features.flatten(0, 1)).unflatten(0, (T, B))
    now = state.float()
    for t in range(T):
        now = lstm.cell(encoded[t], now * ~reset[t].unsqueeze(1))
        torch.testing.assert_close(latents[t], now[:, SIZE:], rtol=0, atol=1e-5)


def layers(module):
    return [
        (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else type(layer)
        for layer in module
    ]


def test_layers_around_the_lstm():
    bare = make(before=[])
    assert layers(bare.encoder) == layers(bare.after) == []
    assert bare.cell.gates.in_features == 3 + SIZE
    assert layers(bare.heads["policy"]) == [(SIZE, 4)]
    full = make(before=[8, 7], after=[6], towers=[9], activation="relu")
    assert layers(full.encoder) == [(3, 8), nn.ReLU, (8, 7), nn.ReLU]
    assert full.cell.gates.in_features == 7 + SIZE
    assert layers(full.after) == [(SIZE, 6), nn.ReLU]
    assert layers(full.heads["policy"]) == [(6, 9), nn.ReLU, (9, 4)]
    assert layers(full.heads["value"]) == [(6, 9), nn.ReLU, (9, 1)]
    assert unroll(full, *data())[0].shape == (T, B, 6)


def test_layer_norm_goes_before_every_activation():
    policy = make(before=[8], after=[6], towers=[9], layer_norm=True)
    assert layers(policy.encoder) == [(3, 8), nn.LayerNorm, nn.Tanh]
    assert layers(policy.after) == [(SIZE, 6), nn.LayerNorm, nn.Tanh]
    assert layers(policy.heads["policy"]) == [(6, 9), nn.LayerNorm, nn.Tanh, (9, 4)]
    assert not hasattr(policy.cell, "gates")


def test_a_head_that_reads_an_action_combines_it_with_the_latents():
    heads = {"policy": Head(2), "advantage": Head(1, 2)}
    policy = LstmPolicy(VECTOR, heads, rng_of(), lstm_size=SIZE)
    assert layers(policy.heads["advantage"]) == [(SIZE + 2, 64), nn.Tanh, (64, 1)]
    latents, actions = torch.zeros(4, 6, SIZE), torch.zeros(4, 6, 2)
    assert policy.head("advantage", latents, actions).shape == (4, 6, 1)


@NORMS
def test_the_gradient_flows_back_through_time_until_a_reset(layer_norm):
    policy = make(layer_norm=layer_norm)
    features, state, reset = data()
    reset[:] = False
    reset[3, 1] = True
    features.requires_grad_()
    state.requires_grad_()
    latents, _, last = unroll(policy, features, state, reset)
    for output in (latents[-1], last):
        by_features, by_state = torch.autograd.grad(
            output.sum(), [features, state], retain_graph=True
        )
        assert by_features.any(-1)[:, [0, 2]].all()
        assert by_features.any(-1)[:, 1].tolist() == [False] * 3 + [True] * 3
        assert by_state.any(-1).tolist() == [True, False, True]
    # What follows a truncation pulls on the steps before it, and on no others.
    final = torch.randn(1, 3, generator=rng_of(3)).double()
    _, value, _ = unroll(policy, features, state, reset, final, [(2, 1)])
    (by_features,) = torch.autograd.grad(value.sum(), [features])
    assert by_features.any(-1).nonzero().tolist() == [[0, 1], [1, 1], [2, 1]]


@NORMS
@pytest.mark.parametrize("towers", [[], [6]])
def test_what_only_the_value_depends_on(towers, layer_norm):
    policy = make(layer_norm=layer_norm, after=[4], towers=towers).float()
    network = ActorCritic(policy, ACTIONS)
    names = {p: name for name, p in network.named_parameters()}
    acting, valuing = ({names[p] for p in group} for group in network.split(VECTOR))
    assert valuing == {name for name in names.values() if name.startswith("policy.heads.value.")}
    assert acting == set(names.values()) - valuing
    assert any(name.startswith("policy.cell.") for name in acting)


# The states that segments begin with.


def parts_of(algo, *words, **kwargs):
    """A learner that acts far from uniformly, in episodes of 5 or 7 steps; segments have 4."""
    config = compose(
        [
            f"algo={algo}",
            "policy=lstm",
            "env=tests.tasks:Every-v0",
            "experiment=none",
            "env.n_envs=3",
            "algo.n_steps=4",
            "policy.lstm_size=8",
            "policy.before=[8]",
            "threads=1",
            "device=cpu",
            *words,
        ]
    )
    config["env"]["kwargs"] = kwargs
    parts = assemble(check(config))
    parts.collector.reset()
    network = parts.algorithm.actor
    disturb(network.policy, 0.8)
    if algo == "acer":
        disturb(parts.algorithm.average.policy, 0.8, seed=1)
    return parts


ACER = ["algo.replay_start=4", "algo.buffer_size=12", "algo.learning_rate=0.01", "algo.alpha=0.9"]
SPACES = pytest.mark.parametrize("action", ["discrete", "bounded_box", "multidiscrete"])


def learner(*words, **kwargs):
    parts = parts_of("acer", *ACER, *words, **kwargs)
    return parts.algorithm, parts.collector


def watch(monkeypatch, owner, name, record):
    """Show `record` the arguments and the result of every call of a method of `owner`."""
    original = getattr(owner, name)

    def spy(*args, **kwargs):
        result = original(*args, **kwargs)
        record(args, result)
        return result

    monkeypatch.setattr(owner, name, spy)


@SPACES
@pytest.mark.parametrize("words", [[], ["policy.layer_norm=true"]], ids=["plain", "layer_norm"])
def test_on_fresh_segments_importance_is_one(monkeypatch, action, words):
    """By the states that they were collected with, which zeros in their place would not do."""
    algorithm, collector = learner(*words, action=action)
    seen = []
    watch(
        monkeypatch,
        algorithm.estimator,
        "estimates",
        lambda args, found: seen.append((args[2].detach(), args[3].behaviour, found.rho)),
    )

    def learnt(state):
        """What an update from here would see, at a rate of 0."""
        seen.clear()
        algorithm._learn(replace(rollout, state=state), 0.0, log=False)
        return seen[0][2]

    ended = truncated = 0
    for i in range(6):
        rollout = collector.collect(algorithm.act)
        ended += int(rollout.terminated.sum() + rollout.truncated.sum())
        truncated += len(rollout.final_index)
        if i:
            assert not rollout.reset[0].all()
            for wrong in (
                torch.zeros_like(rollout.state),
                rollout.state.roll(algorithm.state_size // 2, 1),  # that of the average
                rollout.state.roll(1, 0),  # that of another environment
            ):
                assert (learnt(wrong) - 1).abs().max() > 1e-3
        seen.clear()
        metrics = algorithm.update(rollout, 0.0, log=True)
        statistics, behaviour, rho = seen[0]
        assert (statistics[: len(rho)] - behaviour.flatten(0, 1)).abs().max() < 1e-6
        # Ratios of probabilities have an epsilon of 1e-6 below the line.
        least = behaviour.min() if action != "bounded_box" else math.inf
        assert (rho - 1).abs().max() < 1e-5 + 1e-6 / least
        assert metrics["importance/mean"] == pytest.approx(rho.mean().item(), abs=1e-6)
    assert ended
    assert truncated
    collector.envs.close()


@SPACES
def test_the_average_looks_on_with_a_state_of_its_own(monkeypatch, action):
    """What it says of a fresh segment is what it would have said on the way, all by itself."""
    algorithm, collector = learner(action=action)
    average = algorithm.average
    state = torch.zeros(3, average.policy.state_size)
    looking, learning = [], []

    def look(observations, reset, both, rng):
        nonlocal state
        acted = average.act(observations, reset, state, None)
        state = acted.state
        looking.append(acted.statistics)
        found = algorithm.act(observations, reset, both, rng)
        assert torch.equal(found.state[:, state.shape[1] :], state)
        return found

    watch(monkeypatch, average, "statistics", lambda args, found: learning.append(found))
    for _ in range(6):
        before = state
        looking.clear()
        rollout = collector.collect(look)
        assert torch.equal(rollout.state[:, before.shape[1] :], before)
        assert not before.any() or not torch.equal(rollout.state[:, : before.shape[1]], before)
        learning.clear()
        algorithm.update(rollout, 0.0, log=False)
        torch.testing.assert_close(learning[0], torch.cat(looking), rtol=0, atol=1e-5)
    collector.envs.close()


def test_a_replayed_segment_begins_with_the_states_that_are_stored_with_it(monkeypatch):
    algorithm, collector = learner("algo.replay_ratio=3")
    states, sampled, begun = [], [], {"own": [], "average": []}
    for name, actor in (("own", algorithm.actor), ("average", algorithm.average)):
        watch(
            monkeypatch,
            actor.policy,
            "encode",
            lambda args, _, name=name: begun[name].append(args[1].state.clone()),
        )
    watch(monkeypatch, algorithm.memory, "sample", lambda _, found: sampled.append(found))
    half = algorithm.state_size // 2
    for update in range(8):
        rollout = collector.collect(algorithm.act)
        states.append(rollout.state.clone())
        sampled.clear()
        for calls in begun.values():
            calls.clear()
        algorithm.update(rollout, 0.0, log=False)
        assert torch.equal(begun["own"][0], states[-1][:, :half])
        assert torch.equal(begun["average"][0], states[-1][:, half:])
        assert len(begun["own"]) == len(begun["average"]) == 1 + len(sampled)
        for k, (_, ages) in enumerate(sampled, 1):
            expected = torch.stack([states[update - age][b] for b, age in enumerate(ages)])
            assert torch.equal(begun["own"][k], expected[:, :half])
            assert torch.equal(begun["average"][k], expected[:, half:])
    # The memory holds three; whichever is asked for, of whichever environment.
    rng = rng_of()
    for _ in range(5):
        ages = torch.randint(3, (3,), generator=rng)
        found = algorithm.memory.read(algorithm.memory.end - 1 - ages).state
        expected = torch.stack([states[-1 - age][b] for b, age in enumerate(ages.tolist())])
        assert torch.equal(found, expected)
    assert len({tuple(row) for state in states[-3:] for row in state.tolist()}) == 9
    collector.envs.close()


# The others.


@pytest.mark.parametrize("algo", ["a2c", "acktr"])
def test_statistics_of_a_fresh_segment_are_those_it_was_drawn_from(algo):
    parts = parts_of(algo)
    for i in range(5):
        rollout = parts.collector.collect(parts.algorithm.act)
        network, zero = parts.algorithm.actor, torch.zeros_like(rollout.state)
        found, forgetful = (
            advantage.learn_terms(network, batch, 0.99, None, False).statistics
            for batch in (rollout, replace(rollout, state=zero))
        )
        behaviour = rollout.behaviour.flatten(0, 1)
        torch.testing.assert_close(found.detach(), behaviour, rtol=0, atol=1e-5)
        assert i == 0 or (forgetful - behaviour).abs().max() > 1e-2
        parts.algorithm.update(rollout, 0.0, log=False)
    parts.collector.envs.close()


def means_by_hand(policy, rollout):
    """Means of the outer products of `[x; 1]`, `x`, `h` and `[x; h; 1]`, one state at a time."""
    size, rows = policy.state_size // 2, []
    for env in range(rollout.reset.shape[1]):
        state = rollout.state[env]
        for t in range(len(rollout.actions)):
            state = torch.zeros_like(state) if rollout.reset[t, env] else state
            x = policy.encoder(policy.features(rollout.observations[t, env].unsqueeze(0)))
            rows.append((x[0], state[size:]))
            state = policy.cell(x, state.unsqueeze(0))[0]
    one = torch.ones(1)

    def mean(vectors):
        return torch.stack([torch.outer(v, v) for v in vectors]).mean(0)

    return {
        "input": mean(x for x, _ in rows),
        "hidden": mean(h for _, h in rows),
        "gates": mean(torch.cat([x, h, one]) for x, h in rows),
    }


@NORMS
@pytest.mark.parametrize("action", ["discrete", "bounded_box"])
def test_acktr_takes_the_factors_of_the_cell_over_all_steps(layer_norm, action):
    words = ["algo.cold_iter=0", "algo.kfac_update=1", f"policy.layer_norm={layer_norm}"]
    parts = parts_of("acktr", *words, action=action)
    algorithm, collector = parts.algorithm, parts.collector
    inside = False
    while not inside:  # with a memory from before, and an episode that begins on the way
        rollout = collector.collect(algorithm.act)
        inside = bool(rollout.reset[1:-1].any() and rollout.state.any())
    policy, named = algorithm.actor.policy, dict(algorithm.actor.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    with torch.no_grad():
        expected = means_by_hand(policy, rollout)
    metrics = algorithm.update(rollout, 0.0, log=True)
    for name in ("input", "hidden") if layer_norm else ("gates",):
        found = algorithm.optimizer.blocks[f"policy.cell.{name}"].a
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-5)
    assert all(map(math.isfinite, metrics.values()))
    for _ in range(2):
        rollout = collector.collect(algorithm.act)
        algorithm.update(rollout, 0.0, log=False)
    assert [name for name, p in named.items() if torch.equal(p, before[name])] == []
    for part in algorithm.optimizer.parts.values():
        for statistic in part.statistics.values():
            assert statistic.isfinite().all()
            assert statistic.any()
    assert ("policy.cell.norm_cell" in algorithm.optimizer.diagonals) == layer_norm
    collector.envs.close()


def test_observations_of_every_kind_are_remembered():
    for kind in Every.OBSERVATIONS:
        words = ["policy.filters=[2,2,2]", "policy.features_dim=8"]
        parts = parts_of("a2c", *words, observation=kind)
        rollout = parts.collector.collect(parts.algorithm.act)
        assert not rollout.state.any()
        rollout = parts.collector.collect(parts.algorithm.act)
        assert rollout.state.any(-1).all()
        assert np.isfinite(rollout.state.numpy()).all()
        parts.collector.envs.close()
