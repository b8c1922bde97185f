"""Nothing in an update waits for a GPU, as far as the CPU can tell."""

import pytest
import torch
from pretend import Device, pretended

from rlrun.build import assemble
from rlrun.config import check, compose
from rlrun.functional.distributions.factored import _cells
from rlrun.functional.distributions.joint import _radices
from rlrun.run.store import flatten

COMMON = [
    "experiment=none",
    "env.n_envs=2",
    "algo.n_steps=4",
    "threads=1",
    "device=cpu",
]
EVERY = [*COMMON, "env=tests.tasks:Every-v0"]
BOX = [*EVERY, "env.kwargs={observation: vector, action: bounded_box}"]
FACTORS = [*EVERY, "env.kwargs={observation: dict, action: multidiscrete}"]
PONG = [
    *COMMON,
    "env=PongNoFrameskip-v4",
    "env.kwargs={max_num_frames_per_episode: 40}",
    "policy.features_dim=16",
]
REPLAYING = ["algo=acer", "algo.buffer_size=40", "algo.replay_start=4", "algo.replay_ratio=3.0"]
CURVED = ["algo=acktr", "algo.cold_iter=1", "algo.kfac_update=100"]
SCALED = ["env.normalize_observations=true", "algo.normalize_rewards=true"]
RUNS = {
    "acer": [*REPLAYING, *PONG],
    "acer, boxes": [*REPLAYING, *BOX, *SCALED, "policy=mlp"],
    "acer, factors": [*REPLAYING, *FACTORS, "policy=mlp"],
    "acer, sampled factors": [*REPLAYING, *FACTORS, "policy=mlp", "algo.joint_actions=0"],
    "acer, memory": [*REPLAYING, *BOX, "policy=lstm", "policy.lstm_size=8"],
    "acktr": [*CURVED, *PONG, "algo.damping_rule=factored"],
    "acktr, boxes": [*CURVED, *BOX, *SCALED, "policy=mlp", "algo.vf_kfac_clip=0.1"],
    "acktr, inverses": [*CURVED, *FACTORS, "policy=mlp", "algo.damping_rule=factored"],
    "acktr, memory": [*CURVED, *BOX, "policy=lstm", "policy.lstm_size=8", "policy.layer_norm=true"],
    "a2c": ["algo=a2c", *PONG],
    "a2c, boxes": ["algo=a2c", *BOX, *SCALED, "policy=mlp"],
    "a2c, memory": ["algo=a2c", *FACTORS, "policy=lstm", "policy.lstm_size=8"],
}
UPDATES = 6
"""Before the one that is watched; K-FAC has decomposed by then, and memories are filled."""


def parts_of(words):
    parts = assemble(check(compose(words)))
    parts.algorithm.actor._recall = None  # it is for the CPU
    parts.collector.reset()
    return parts


def finite_check(algorithm):
    return algorithm.optimizer.require_finite


def on_the_device(algorithm):
    """The tensors that lie on a GPU, where one learns."""
    state = algorithm.state_dict()
    for host in ("reward_scale", "memory", "rng"):
        state.pop(host, None)
    yield from (t for t in flatten(state)[1].values() if isinstance(t, torch.Tensor))
    if algorithm.memory is not None:
        yield algorithm.memory._frames
    cpu = torch.device("cpu")
    distribution = algorithm.actor.distribution
    if sizes := getattr(distribution, "sizes", None):
        yield from (_cells(sizes, cpu), *_radices(sizes, cpu))
    yield from getattr(getattr(algorithm, "estimator", None), "bounds", None) or ()


def watched_update(parts, monkeypatch, log):
    algorithm = parts.algorithm
    for update in range(UPDATES):
        algorithm.update(parts.collector.collect(algorithm.act), update / 10, log=False)
    finite_check(algorithm).deferred = True
    rollout = parts.collector.collect(algorithm.act)
    device = Device()
    device.put(*on_the_device(algorithm))
    with pretended(monkeypatch, device):
        algorithm.update(rollout, 0.5, log)
    return device


@pytest.mark.parametrize("case", RUNS)
def test_an_update_waits_for_nothing(case, monkeypatch):
    device = watched_update(parts_of(RUNS[case]), monkeypatch, log=False)
    assert device.there
    assert device.waits == []


@pytest.mark.parametrize("case", [case for case in RUNS if case.startswith("acer")])
def test_metrics_of_acer_are_fetched_at_once(case, monkeypatch):
    parts = parts_of(RUNS[case])
    monkeypatch.setattr(parts.algorithm, "settle", lambda: None)
    assert watched_update(parts, monkeypatch, log=True).waits == ["tolist"]


def test_the_watch_sees_what_waits(monkeypatch):
    device = Device()
    x, host = device.put(torch.arange(6.0)), torch.ones(6)
    mask = device.put(torch.tensor([True, False] * 3))
    with pretended(monkeypatch, device):
        for wait in (
            lambda: (x + 1).sum().item(),
            lambda: bool((x > 3).any()),
            lambda: x[mask],
            lambda: x[torch.tensor([1, 2])],
            lambda: x + host,
            lambda: (2 * x).tolist(),
            lambda: x.nonzero(),
        ):
            device.waits.clear()
            wait()
            assert device.waits
        device.waits.clear()
        assert host.sum().item() == 6
        x[mask.long()] * torch.tensor(2.0)
        assert device.waits == []
