"""A2C and ACKTR: stopped and resumed equals undisturbed, and what a breakdown leaves behind."""

import json
from pathlib import Path

import pytest
import test_exact
import torch
from kill_soak import compare
from test_exact import train, weights

from rlrun.algorithms.a2c import A2C
from rlrun.algorithms.acktr import ACKTR
from rlrun.optim.kfac import KFAC

stop_at = test_exact.stop_at

COMMON = [
    "experiment=none",
    "env.n_envs=3",
    "algo.n_steps=5",
    "env.kwargs={max_episode_steps: 25}",  # so that truncations are among it
    "total_timesteps=600",  # 40 updates
    "eval.episodes=2",
    "eval.every_steps=200",
    "log_interval=3",
    "logger=files",
    "policy.hidden=[16]",
    "threads=1",
]
A2C_ = ["algo=a2c", *COMMON, "algo.normalize_rewards=true"]
ACKTR_ = ["algo=acktr", *COMMON, "algo.cold_iter=3", "algo.kfac_update=4"]
ASYNC = [*ACKTR_, "algo.async_eigen_decomp=true"]
PENDULUM = ["env=Pendulum-v1", "env.normalize_observations=true", "algo.normalize_rewards=true"]
PICTURES = [
    "algo=acktr",
    "env=tests.tasks:Catch-v0",
    "policy=cnn",
    "policy.filters=[2,3,4]",
    "policy.features_dim=8",
    "algo.conv_factors=reduce",
    "algo.cold_iter=2",
    "algo.kfac_update=3",
    "algo.n_steps=4",
    "env.n_envs=2",
    "total_timesteps=96",
    "eval.episodes=2",
    "log_interval=2",
    "logger=files",
    "threads=1",
]
RUNS = {
    "a2c": (A2C_, [20]),
    "a2c in a box": ([*A2C_, *PENDULUM, "algo.normalize_advantage=true"], [17]),
    "acktr": (ACKTR_, [1, 20]),
    "acktr in a box": ([*ACKTR_, *PENDULUM], [15]),
    # One decomposition is begun after 3 updates and used at once; the next ones after 7, 11, ...,
    # used four later: it stops before, between and after these.
    "acktr, asynchronous": (ASYNC, [3, 7, 9, 11]),
    "acktr, asynchronous, short lag": ([*ASYNC, "algo.eigen_lag=2"], [8]),
    "acktr, factored": ([*ACKTR_, "algo.damping_rule=factored"], [13]),
    "acktr, two budgets": ([*ACKTR_, "algo.vf_kfac_clip=0.01", "algo.bias=separate"], [13]),
    "acktr, pictures": (PICTURES, [6]),
}


@pytest.mark.parametrize("case", RUNS)
def test_stopped_and_resumed_equals_undisturbed(command, stop_at, tmp_path, case):
    words, updates = RUNS[case]
    straight, _ = train(command, tmp_path / "straight", *words)
    for update in updates:
        stop_at(update)
        train(command, tmp_path / "stopped", *words, code=143)
    resumed, _ = train(command, tmp_path / "stopped", *words)
    assert compare(straight, resumed) == []
    manifest = json.loads((resumed / "manifest.json").read_text())
    assert manifest["grade"] == "exact"
    assert len(manifest["parts"]) == len(updates) + 1


def test_runs_were_stopped_with_a_decomposition_in_the_making(
    command, stop_at, tmp_path, monkeypatch
):
    """Otherwise the cases above would say nothing of it."""
    taken = []
    state_dict = KFAC.state_dict

    def spy(self):
        state = state_dict(self)
        taken.append(state["bases"]["pending"] is not None)
        return state

    monkeypatch.setattr(KFAC, "state_dict", spy)
    stop_at(9)
    train(command, tmp_path, *ASYNC, "eval.episodes=0", code=143)
    assert taken == [True]


@pytest.mark.parametrize("rule", ["exact", "factored"])
def test_decomposing_beside_the_training_changes_no_bit_of_a_run(command, tmp_path, rule):
    words = [*ACKTR_, f"algo.damping_rule={rule}", "algo.eigen_lag=3"]
    runs = [
        train(command, tmp_path / name, *words, f"algo.async_eigen_decomp={value}")[0]
        for name, value in (("beside", "true"), ("between", "false"))
    ]
    first, second = map(weights, runs)
    assert first == second
    assert compare(*runs) == []


@pytest.mark.parametrize("words", [A2C_, [*ASYNC, *PENDULUM]], ids=["a2c", "acktr"])
def test_watching_changes_nothing(command, tmp_path, words):
    plain, _ = train(command, tmp_path / "plain", *words)
    watching = ["checkpoint.every_steps=45", "log_interval=1", "eval.deterministic=false"]
    watched, _ = train(command, tmp_path / "watched", *words, *watching)
    assert weights(plain) == weights(watched)


def test_a_run_in_a_box_is_evaluated(command, tmp_path):
    folder, _ = train(command, tmp_path, *ACKTR_, *PENDULUM)
    for word in ("true", "false"):
        done = command("evaluate", str(folder), "episodes=3", f"deterministic={word}")
        assert done.code == 0, done.err
    assert len(json.loads((folder / "evaluation.json").read_text())["returns"]) == 3


# Breakdowns.

FAULTY = [word for word in COMMON if not word.startswith("env.kwargs")]
FAULTY += ["env=tests.tasks:Faulty-v0", "eval.episodes=0"]


@pytest.mark.parametrize("algo", ["a2c", "acktr"])
@pytest.mark.parametrize("fault", ["reward", "observation"])
def test_an_environment_that_breaks_leaves_a_diagnostic(command, tmp_path, algo, fault):
    words = [*FAULTY, f"algo={algo}", f"env.kwargs={{fault: {fault}}}"]
    folder, result = train(command, tmp_path, *words, code=3)
    told = json.loads((folder / "diagnostic.json").read_text())
    assert told.keys() == {"reason", "step", "details"}
    assert "environment 0" in told["reason"]
    assert told["step"] == 2 * 3  # the third step of the three environments broke
    outcome = json.loads((folder / "result.json").read_text())
    assert outcome["status"] == "failed"
    assert outcome["reason"] == told["reason"]
    for text in (told["reason"], "diagnostic.json"):
        assert text in (folder / "run.log").read_text()
    assert "diagnostic.json" in (result.out + result.err).replace("\n", "")
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(
    ("cls", "words"), [(A2C, A2C_), (ACKTR, [*ASYNC, *PENDULUM])], ids=["a2c", "acktr"]
)
def test_numbers_that_are_not_finite_leave_the_checkpoint_before(
    command, tmp_path, monkeypatch, cls, words
):
    """The rewards of update 21 are; the run goes on from before it as if nothing had happened."""
    words = [*words, "checkpoint.every_steps=75", "eval.every_steps=null", "eval.episodes=0"]
    straight, _ = train(command, tmp_path / "straight", *words)
    update, updates = cls.update, []

    def broken(self, rollout, progress, log, *closely):
        updates.append(log)
        if len(updates) == 21:
            rollout.rewards[2, 1] = float("nan")
        return update(self, rollout, progress, log, *closely)

    monkeypatch.setattr(cls, "update", broken)
    folder, result = train(command, tmp_path / "broken", *words, code=3)
    told = json.loads((folder / "diagnostic.json").read_text())
    assert "not finite" in told["reason"]
    assert told["step"] == 21 * 15
    assert told["details"]["norms"]["gradient"] == "nan"
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    assert "not finite" in result.out + result.err
    assert "Traceback" not in result.out + result.err

    last = max((folder / "checkpoints").iterdir())
    assert last.name.endswith("300")
    inspected = command("inspect", str(folder))
    assert inspected.code == 0, inspected.err
    assert "300" in inspected.out
    assert all(torch.isfinite(tensor).all() for tensor in floats(last))

    done = command("resume", str(folder))
    assert done.code == 0, done.err
    assert compare(straight, folder) == []


def floats(checkpoint: Path):
    """All that is learnt; the bounds of a space may well be infinite."""
    import safetensors.torch

    tensors = safetensors.torch.load_file(checkpoint / "tensors.safetensors")
    learnt = [name for name in tensors if not name.startswith("interface")]
    assert learnt
    return [tensors[name] for name in learnt if tensors[name].is_floating_point()]


def test_a_factor_that_cannot_be_decomposed_is_named(command, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr("rlrun.functional.kronecker.eigenbasis", broken)
    folder, _ = train(command, tmp_path, *ACKTR_, code=3)
    told = json.loads((folder / "diagnostic.json").read_text())
    assert "policy.heads.policy.0: A" in told["reason"]
    assert told["details"]["factor"] == "policy.heads.policy.0: A"
    assert told["details"]["size"] == 5
