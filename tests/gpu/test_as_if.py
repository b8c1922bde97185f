"""Ways that a GPU goes, gone on the CPU."""

import copy

import pytest
import torch
from test_waits import BOX, CURVED, REPLAYING, parts_of

from rlrun.optim import decompose as decomposing
from rlrun.optim.decompose import decompose
from rlrun.optim.errors import NonFiniteUpdate


@pytest.fixture
def batched(monkeypatch):
    monkeypatch.setattr(decomposing, "_in_batches", lambda tasks: True)


def factors():
    rows = torch.randn(5, 40, 12, generator=torch.Generator().manual_seed(0))
    moments = [x.T @ x / 40 for x in rows]
    few = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    return {
        "one": (moments[0], moments[1]),
        "two": (moments[2], 2.0 * torch.eye(7)),
        "three": (moments[3], few.T @ few),  # of rank 3: some eigenvalues are below zero
    }


@pytest.mark.parametrize("exact", [True, False])
def test_factors_of_one_size_are_decomposed_together(exact, monkeypatch, batched):
    batched = decompose(factors(), exact, 0.1, 7)
    monkeypatch.undo()
    alone = decompose(factors(), exact, 0.1, 7)
    assert batched.bases.keys() == alone.bases.keys()
    for name, basis in alone.bases.items():
        for key, tensor in basis.items():
            found = batched.bases[name][key]
            torch.testing.assert_close(found, tensor)
            assert found.is_contiguous()
            assert found.storage_offset() == 0
            assert found.untyped_storage().nbytes() == found.nbytes
    assert int(batched.negatives) == int(alone.negatives)
    assert int(alone.negatives) > 0 or not exact
    assert batched.fallbacks == alone.fallbacks == 0


def test_one_bad_factor_of_a_batch_is_tried_again_alone(monkeypatch, batched):
    original = torch.linalg.eigh
    bad = factors()["two"][0]

    def broken(matrix):
        hit = any(torch.equal(bad, each) for each in matrix.reshape(-1, *matrix.shape[-2:]))
        if hit and matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return original(matrix)

    expected = decompose(factors(), True, 0.1, 7)
    monkeypatch.setattr(torch.linalg, "eigh", broken)
    found = decompose(factors(), True, 0.1, 7)
    assert (found.fallbacks, expected.fallbacks) == (1, 0)
    torch.testing.assert_close(found.bases["two"]["la"], expected.bases["two"]["la"])
    broken_for_good = {"x": (torch.full((4, 4), torch.nan), torch.eye(4))}
    with pytest.raises(NonFiniteUpdate, match="x: A"):
        decompose(broken_for_good, True, 0.1, 7)


@pytest.mark.parametrize("words", [REPLAYING, CURVED], ids=["acer", "acktr"])
def test_what_was_acted_in_is_what_is_learnt_from(words, monkeypatch):
    """With a second buffer for the observations, as on a GPU, but on the CPU."""
    words = [*words, *BOX, "policy=mlp"]
    plain = parts_of(words)
    with monkeypatch.context() as patch:
        patch.setattr("rlrun.data.collector.pinned", lambda device: True)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        there = parts_of(words)
        resumed = parts_of(words)
    seen = []

    def act(observations, *rest):
        seen.append(observations.untyped_storage().data_ptr())
        return there.algorithm.act(observations, *rest)

    for _ in range(4):
        expected, found = plain.collector.collect(plain.algorithm.act), there.collector.collect(act)
        for name, tensor in expected.tensors().items():
            assert torch.equal(getattr(found, name), tensor), name
        assert torch.equal(found.acted_in, expected.observations)
        assert found.observations_on(torch.device("cpu")) is found.acted_in
        assert set(seen) == {found.acted_in.untyped_storage().data_ptr()}
    stopped = []
    there.collector.collect(act, lambda step: not stopped.append(step) and len(stopped) < 3)
    state = copy.deepcopy(there.collector.state_dict())
    assert resumed.collector.load_state_dict(state)
    other = resumed.collector.collect(resumed.algorithm.act)
    whole = there.collector.collect(act)
    assert torch.equal(other.acted_in, whole.acted_in)
    assert torch.equal(other.acted_in, other.observations)
