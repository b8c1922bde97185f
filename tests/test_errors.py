"""What the user has to change: one message, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlrun import config, stored

Command = Callable[..., Any]

TABLE = {
    "unknown key": (["algo.gama=1"], ["algo.gama: unknown key", "did you mean algo.gamma?"]),
    "key nowhere near": (["algo.xyzzy=3"], ["algo.xyzzy: unknown key", "known: gamma, n_steps"]),
    "added key": (["+algo.lrr=3"], ["algo.lrr: unknown key"]),
    "added key that is there": (["+algo.gamma=0.9"], ["+algo.gamma", "leave out the +"]),
    "key without its node": (["gamma=0.9"], ["gamma: unknown key", "did you mean algo.gamma?"]),
    "top level key": (["total_timestep=5"], ["did you mean total_timesteps?"]),
    "key below a value": (["seed.x=3"], ["seed.x: unknown key"]),
    "deleted key": (["~zzz"], ["'zzz' does not exist"]),
    "missing key": (["~env.id"], ["env.id: missing"]),
    "unknown option": (["algo=acr"], ["algo=acr: unknown option", "did you mean acer?"]),
    "option nowhere near": (["lr_schedule=cos"], ["options: constant, double_linear_con"]),
    "unknown experiment": (["experiment=acer/CartPol"], ["did you mean acer/CartPole-v1"]),
    "unknown experiment shown": (["experiment=a", "--cfg", "job"], ["experiment=a: unknown"]),
    "null option": (["algo=null"], ["a group takes the name of an option"]),
    "unknown env": (["env=CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
    "env without version": (["env=PongNoFrameskip"], ["PongNoFrameskip-v4"]),
    "env of a missing module": (["env=no_such_module:X-v0"], ["no_such_module"]),
    "env id as key": (["env.id=CartPol-v1"], ["env=CartPol-v1: ", "CartPole-v1"]),
    "wrong type": (["algo.n_steps=many"], ["algo.n_steps: 'many'", "a whole number of at least 1"]),
    "empty value": (["algo.n_steps="], ["algo.n_steps: ''"]),
    "fraction of a step": (["algo.n_steps=2.5"], ["algo.n_steps: 2.5"]),
    "true is no number": (["algo.gamma=true"], ["algo.gamma: True"]),
    "out of range": (["algo.gamma=1.5"], ["algo.gamma: 1.5", "a number from 0 to 1"]),
    "not finite": (["algo.delta=inf"], ["algo.delta: inf"]),
    "choice": (["policy.activation=gelu"], ["one of tanh, relu, elu"]),
    "list": (["policy.hidden=64"], ["policy.hidden: 64", "a list"]),
    "item of a list": (["policy.hidden=[64,0]"], ["policy.hidden: [64, 0]"]),
    "device": (["device=gpu"], ["device: 'gpu'", "cuda:N"]),
    "all at once": (
        ["seed=-1", "algo.gamma=2", "env.n_envs=0", "policy.hidden=[x]"],
        ["seed: -1", "algo.gamma: 2", "env.n_envs: 0", "policy.hidden: ['x']"],
    ),
    "buffer too small": (["algo.buffer_size=10"], ["algo.buffer_size", "replay_ratio=0"]),
    "replay never starts": (["algo.replay_start=6000"], ["algo.replay_start", "never start"]),
    "no class": (["algo._target_=rlrun.algorithms.acer.nn"], ["algo._target_"]),
    "class that is not there": (["algo._target_=no_pkg.Algo"], ["no_pkg.Algo", "No module named"]),
    "interpolation": (["run.dir=${oops}"], ["run.dir", "oops"]),
    "no value": (["algo"], ["algo: not understood", "KEY=VALUE"]),
    "open bracket": (["policy.hidden=[64"], ["policy.hidden=[64: not understood"]),
    "misspelt verb": (["resum", "outputs"], ["did you mean `rlrun resume"]),
    "values without multirun": (["seed=1,2"], ["seed=1,2", "--multirun"]),
    "range without multirun": (["seed=range(3)"], ["seed=range(3)", "--multirun"]),
    "unknown flag": (["--multirn"], ["--multirn: unknown flag", "did you mean --multirun?"]),
    "no config folder": (["--config-dir", "nowhere"], ["nowhere", "not found"]),
    "no config": (["--config-name", "nowhere"], ["nowhere"]),
    "launcher": (["hydra/launcher=slurmm"], ["hydra/launcher=slurmm: unknown option", "basic"]),
    "resume nothing": (["resume"], ["say which run", "rlrun resume RUN"]),
    "resume nowhere": (["resume", "outputs/x"], ["there is no folder outputs/x"]),
    "resume no run": (["resume", "."], ["is no run", "rlrun list runs"]),
    "evaluate nowhere": (["evaluate", "x", "episodes=3"], ["there is no folder x"]),
    "inspect nothing": (["inspect"], ["say what to inspect"]),
    "inspect no run": (["inspect", "."], ["neither a run nor a checkpoint"]),
    "list what": (["list", "env"], ["did you mean envs?"]),
    "actions that the algorithm cannot do": (["env=Pendulum-v1"], ["Discrete"]),
    "policy that does not fit": (["policy=cnn"], ["policy=cnn", "policy=mlp"]),
}


def assert_told(result: Any, says: list[str], folder: Path, left: list[str]) -> None:
    assert result.code == 2, result.err
    assert result.err.startswith("rlrun: ")
    assert "Traceback" not in result.err + result.out
    for text in says:
        assert text in result.err
    assert len(result.err) < 600
    assert result.out == ""
    assert [path.name for path in folder.rglob("*")] == left


@pytest.mark.parametrize("case", TABLE)
def test_one_message(command: Command, case: str, tmp_path: Path) -> None:
    words, says = TABLE[case]
    assert_told(command(*words), says, tmp_path, left=[])


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is not None, reason="mujoco is installed")
def test_missing_extra(command: Command, tmp_path: Path) -> None:
    assert_told(command("env=HalfCheetah-v5"), ["pip install", "mujoco"], tmp_path, left=[])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"policy": {"_target_": "os.system"}}, ["policy._target_", "refused"]),
        ({"policy": {"_target_": "my_pkg.Policy"}}, ["my_pkg.Policy", "'trust=[my_pkg]'"]),
        ({"seed": -1}, ["seed: -1"]),
        ({"zzz": 1}, ["zzz: unknown key"]),
    ],
)
@pytest.mark.parametrize("verb", ["resume", "evaluate"])
def test_unsound_runs(
    command: Command, tmp_path: Path, verb: str, change: dict[str, Any], says: list[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    path = run / "config.yaml"
    path.write_text(stored.dump(config.compose([]) | change))
    before = path.read_bytes()
    assert_told(command(verb, "run"), says, run, left=["config.yaml"])
    assert path.read_bytes() == before
