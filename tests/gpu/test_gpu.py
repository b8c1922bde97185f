"""What holds on a GPU alone: `pytest -m gpu` on a machine that has one."""

import copy

import pytest
import torch
from gymnasium import spaces
from test_waits import BOX, COMMON, CURVED, PONG, REPLAYING, SCALED, finite_check

from rlrun.build import assemble
from rlrun.config import check, compose
from rlrun.data.replay import ReplayMemory
from rlrun.optim.decompose import decompose
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.store import flatten

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here"),
]
CARTPOLE = [*COMMON, "env=CartPole-v1", "env.kwargs={max_episode_steps: 10}", "policy=mlp"]
RUNS = {
    "acer": [*REPLAYING, *PONG],
    "acer, vectors": [*REPLAYING, *CARTPOLE],
    "acer, boxes": [*REPLAYING, *BOX, *SCALED, "policy=mlp"],
    "acer, memory": [*REPLAYING, *BOX, "policy=lstm", "policy.lstm_size=8"],
    "acktr": [*CURVED, *PONG],
    "acktr, boxes": [*CURVED, *BOX, *SCALED, "policy=mlp", "algo.vf_kfac_clip=0.1"],
    "acktr, memory": [*CURVED, *BOX, "policy=lstm", "policy.lstm_size=8"],
    "a2c": ["algo=a2c", *PONG],
    "a2c, vectors": ["algo=a2c", *CARTPOLE],
}
EACH = pytest.mark.parametrize("case", RUNS)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """The same bits twice, and those of the CPU nearly."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def parts_of(words, device="cuda"):
    words = [word for word in words if not word.startswith("device=")]
    parts = assemble(check(compose([*words, f"device={device}"])))
    parts.collector.reset()
    return parts


def learn(parts, updates, begin=0):
    for update in range(begin, begin + updates):
        rollout = parts.collector.collect(parts.algorithm.act)
        parts.algorithm.update(rollout, update / 20, log=False)
    return tensors(parts)


def tensors(parts):
    found = flatten(parts.algorithm.state_dict())[1]
    return {name: torch.as_tensor(value).cpu() for name, value in found.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@EACH
def test_updates_agree_with_those_of_the_cpu(case):
    """On the same segments: what is sampled may differ where a probability does in its last bit."""
    there, here = parts_of(RUNS[case]), parts_of(RUNS[case], "cpu")
    for update in range(4):
        rollout = here.collector.collect(here.algorithm.act)
        segment = copy.deepcopy(rollout)
        here.algorithm.update(rollout, update / 20, log=False)
        there.algorithm.update(segment, update / 20, log=False)
        found = there.algorithm.actor.state_dict()
        for name, tensor in here.algorithm.actor.state_dict().items():
            torch.testing.assert_close(found[name].cpu(), tensor, atol=2e-4, rtol=2e-3)


@EACH
def test_an_update_waits_for_nothing(case):
    parts = parts_of(RUNS[case])
    learn(parts, 6)
    rollout = parts.collector.collect(parts.algorithm.act)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts.algorithm.update(rollout, 0.5, log=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    parts.algorithm.settle()


@EACH
def test_the_frames_that_are_acted_in_are_those_that_are_learnt_from(case):
    parts = parts_of(RUNS[case])
    for update in range(5):
        rollout = parts.collector.collect(parts.algorithm.act)
        assert rollout.acted_in.is_cuda
        assert rollout.observations.is_pinned()
        batch = rollout.to(parts.device)
        assert batch.observations is rollout.acted_in
        for name, tensor in rollout.tensors().items():
            assert torch.equal(getattr(batch, name).cpu(), tensor), name
        parts.algorithm.update(rollout, update / 20, log=False)


@pytest.mark.parametrize("case", [case for case in RUNS if case.startswith("acer")])
def test_where_the_frames_of_replay_lie_changes_nothing(case):
    settings = {place: f"algo.replay_device={place}" for place in ("auto", "device", "cpu")}
    found = {place: parts_of([*RUNS[case], word]) for place, word in settings.items()}
    assert {p: x.algorithm.memory._frames.device.type for p, x in found.items()} == {
        "auto": "cuda",
        "device": "cuda",
        "cpu": "cpu",
    }
    learnt = {place: learn(parts, 8) for place, parts in found.items()}
    assert_equal(learnt["device"], learnt["cpu"])
    assert_equal(learnt["auto"], learnt["cpu"])


def test_frames_without_room_stay_with_the_host(monkeypatch):
    shape = spaces.Box(0, 255, (4, 84, 84), "uint8")
    where = 250, 20, 16, 6, 0, shape, spaces.Discrete(6), 4, torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 34))
    memory = ReplayMemory(*where)
    assert memory._frames.device.type == "cpu"


@EACH
def test_saved_on_a_gpu_and_loaded_there_goes_on_exactly(case, tmp_path):
    straight = parts_of(RUNS[case])
    learn(straight, 5)
    state = {
        "algorithm": straight.algorithm.state_dict(),
        "collector": straight.collector.state_dict(),
    }
    memory = straight.algorithm.memory
    path = Checkpointer(tmp_path, keep=1).save(1, state, memory, meta={})
    resumed = parts_of(RUNS[case])
    state, _ = Checkpointer(tmp_path, keep=1).load(path, resumed.algorithm.memory)
    resumed.algorithm.load_state_dict(state["algorithm"])
    assert resumed.collector.load_state_dict(state["collector"])
    assert_equal(learn(resumed, 5, 5), learn(straight, 5, 5))


@pytest.mark.parametrize("rule", ["exact", "factored"])
def test_decomposing_beside_the_training_changes_no_bit(rule):
    words = ["algo=acktr", "algo.cold_iter=1", "algo.kfac_update=3", "algo.eigen_lag=2", *PONG]
    words = [*words, f"algo.damping_rule={rule}"]
    beside, between = (parts_of([*words, f"algo.async_eigen_decomp={x}"]) for x in (True, False))
    assert_equal(learn(beside, 12), learn(between, 12))


@pytest.mark.parametrize("exact", [True, False])
def test_factors_of_one_size_are_decomposed_together(exact):
    rows = torch.randn(6, 40, 24, generator=torch.Generator().manual_seed(0))
    moments = [(x.T @ x / 40).cuda() for x in rows]
    wide = torch.eye(30).cuda()
    factors = {"a": (moments[0], moments[1]), "b": (moments[2], wide), "c": tuple(moments[3:5])}
    found = decompose(factors, exact, 0.1, 7)
    for name, (a, g) in factors.items():
        basis = found.bases[name]
        for factor, key in ((a, "a"), (g, "g")):
            if exact:
                q = basis[f"q{key}"]
                torch.testing.assert_close(q * basis[f"l{key}"] @ q.T, factor, atol=1e-4, rtol=1e-4)
        if not exact:
            alone = decompose({name: (a.cpu(), g.cpu())}, exact, 0.1, 7).bases[name]
            for key, tensor in alone.items():
                torch.testing.assert_close(basis[key].cpu(), tensor, atol=1e-4, rtol=1e-3)
        assert all(tensor.is_contiguous() for tensor in basis.values())
        assert all(tensor.storage_offset() == 0 for tensor in basis.values())


@EACH
def test_a_broken_update_is_told_before_it_is_acted_on_or_saved(case):
    parts = parts_of(RUNS[case])
    learn(parts, 3)
    rollout = parts.collector.collect(parts.algorithm.act)
    rollout.rewards[1, 1] = float("nan")
    assert finite_check(parts.algorithm).deferred
    parts.algorithm.update(rollout, 0.5, log=False)
    for told in (lambda: parts.collector.collect(parts.algorithm.act), parts.algorithm.state_dict):
        with pytest.raises(NonFiniteUpdate, match="gradient"):
            told()
