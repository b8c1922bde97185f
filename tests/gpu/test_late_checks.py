"""Updates that break are told late, as on a GPU, and nothing that came of them is used or written.

The CPU looks at once; here it is told to do as a GPU does.
"""

import copy
import json

import pytest
import torch
from kill_soak import run_folder
from test_waits import BOX, CURVED, REPLAYING, finite_check, parts_of

from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acer import ACER
from rlrun.algorithms.acktr import ACKTR
from rlrun.optim.errors import FiniteCheck, NonFiniteUpdate
from rlrun.run.store import flatten

ALGORITHMS = {
    "acer": (ACER, [*REPLAYING, *BOX, "policy=mlp"]),
    "acktr": (ACKTR, [*CURVED, *BOX, "policy=mlp"]),
    "a2c": (A2C, ["algo=a2c", *BOX, "policy=mlp"]),
}
EACH = pytest.mark.parametrize("algo", ALGORITHMS)


@pytest.fixture(autouse=True)
def late(monkeypatch):
    monkeypatch.setattr("rlrun.optim.errors.pinned", lambda device: True)


def broken_after(algo, updates, log=False):
    parts = parts_of(ALGORITHMS[algo][1])
    for update in range(updates):
        parts.algorithm.update(parts.collector.collect(parts.algorithm.act), update / 10, log)
    before = copy.deepcopy(parts.algorithm.state_dict())
    rollout = parts.collector.collect(parts.algorithm.act)
    rollout.rewards[2, 1] = float("nan")
    return parts, rollout, before


@EACH
@pytest.mark.parametrize("updates", [0, 3])
def test_neither_acts_nor_is_saved(algo, updates):
    parts, rollout, before = broken_after(algo, updates)
    algorithm, envs = parts.algorithm, parts.collector.envs
    assert finite_check(algorithm).deferred
    algorithm.update(rollout, 0.5, log=False)  # nobody has looked
    turn = envs.turn
    for told in (lambda: parts.collector.collect(algorithm.act), algorithm.state_dict) * 2:
        with pytest.raises(NonFiniteUpdate, match="gradient") as error:
            told()
        assert error.value.details["norms"]["gradient"] == "nan"
    assert envs.turn == turn
    algorithm.load_state_dict(before)
    assert all(torch.isfinite(p).all() for p in algorithm.actor.parameters())
    assert parts.collector.collect(algorithm.act) is not None
    expected, found = (flatten(state)[1] for state in (before, algorithm.state_dict()))
    assert all(
        torch.equal(torch.as_tensor(found[k]), torch.as_tensor(v)) for k, v in expected.items()
    )


@EACH
def test_metrics_of_a_broken_update_are_not_shown(algo):
    parts, rollout, _ = broken_after(algo, 3)
    with pytest.raises(NonFiniteUpdate, match="gradient"):
        parts.algorithm.update(rollout, 0.5, log=True)


@EACH
def test_a_late_look_changes_nothing(algo, monkeypatch):
    late = parts_of(ALGORITHMS[algo][1])
    monkeypatch.undo()
    once = parts_of(ALGORITHMS[algo][1])
    assert (finite_check(late.algorithm).deferred, finite_check(once.algorithm).deferred) == (1, 0)
    for parts in late, once:
        for update in range(5):
            rollout = parts.collector.collect(parts.algorithm.act)
            parts.algorithm.update(rollout, update / 10, log=update == 3)
    states = [flatten(parts.algorithm.state_dict()) for parts in (late, once)]
    assert states[0][0] == states[1][0]
    for name, tensor in states[0][1].items():
        assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(states[1][1][name])), name


@EACH
@pytest.mark.parametrize("at", [20, 21], ids=["before an evaluation", "before a checkpoint"])
def test_a_run_that_breaks_writes_nothing_of_it(command, tmp_path, monkeypatch, algo, at):
    cls, words = ALGORITHMS[algo]
    words = [word for word in words if not word.startswith("device")]
    settings = ["total_timesteps=240", "checkpoint.every_steps=8", "eval.every_steps=160"]
    more = ["device=cpu", "eval.episodes=2", "log_interval=1000", "logger=files"]
    update, updates = cls.update, []

    def broken(self, rollout, progress, log, *closely):
        updates.append(log)
        if len(updates) == at:
            rollout.rewards[2, 1] = float("nan")
        return update(self, rollout, progress, log, *closely)

    monkeypatch.setattr(cls, "update", broken)
    assert command(*words, *settings, *more).code == 3
    folder = run_folder(tmp_path)
    told = json.loads((folder / "diagnostic.json").read_text())
    assert told["step"] == at * 8
    assert told["details"]["norms"]["gradient"] == "nan"
    assert max((folder / "checkpoints").iterdir()).name == f"step-{(at - 1) * 8:09d}"
    evaluations = (folder / "evaluations.jsonl").read_text().splitlines()
    assert len(evaluations) == (at > 20)


def test_only_so_many_wait():
    check = FiniteCheck(torch.device("cpu"))
    good, bad = {"gradient": torch.tensor(1.0)}, {"gradient": torch.tensor(float("inf"))}
    check(good)
    check(bad)
    for _ in range(FiniteCheck._MOST - 2):
        check(good)
    check(good)  # looks at the first
    with pytest.raises(NonFiniteUpdate, match="inf"):
        check(good)
    with pytest.raises(NonFiniteUpdate, match="inf"):
        check.settle()
    check.forget()
    check.settle()
