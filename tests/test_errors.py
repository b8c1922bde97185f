"""What the user has to change: one message, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun import config, stored
from rlrun.policies.mlp import MlpPolicy

Command = Callable[..., Any]


class Whole(gymnasium.Env[Any, Any]):
    """Takes whole numbers in a box, as a robot with steps does."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-2, 2, (2,), np.int64)


class Bare(MlpPolicy):
    """A network with a parameter in no layer."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def head(self, name: str, latents: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * super().head(name, latents, *inputs)


class Huge(Whole):
    """More actions than any memory holds logits for."""

    action_space = spaces.Discrete(10**13)


class Wide(Whole):
    """More classes of observations than K-FAC can take."""

    observation_space = spaces.Discrete(20_000)
    action_space = spaces.Discrete(2)


class Nothing(Whole):
    """No component of an action."""

    action_space = spaces.Box(-1.0, 1.0, (0,))


gymnasium.register("Whole-v0", entry_point=Whole)
gymnasium.register("Huge-v0", entry_point=Huge)
gymnasium.register("Wide-v0", entry_point=Wide)
gymnasium.register("Nothing-v0", entry_point=Nothing)
ACKTR = ["algo=acktr", "experiment=none"]

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
    "unknown option": (["algo=acr"], ["algo=acr: unknown option", "did you mean acer or acktr?"]),
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
    "launcher": (
        ["hydra/launcher=slurmm"],
        ["hydra/launcher=slurmm: unknown option", "did you mean slurm?"],
    ),
    "resume nothing": (["resume"], ["say which run", "rlrun resume RUN"]),
    "resume nowhere": (["resume", "outputs/x"], ["there is no run and no model outputs/x"]),
    "resume no run": (["resume", "."], ["is no run", "rlrun list runs"]),
    "evaluate nowhere": (["evaluate", "x", "episodes=3"], ["there is no run and no model x"]),
    "inspect nothing": (["inspect"], ["say what to inspect"]),
    "inspect no run": (["inspect", "."], ["neither a run nor a checkpoint"]),
    "list what": (["list", "env"], ["did you mean envs?"]),
    "actions that the algorithm cannot do": (["env=test_errors:Whole-v0"], ["Discrete", "int64"]),
    "policy that does not fit": (["policy=cnn"], ["policy=cnn", "policy=mlp"]),
    "unknown algorithm": (["algo=actkr"], ["algo=actkr: unknown option", "did you mean acktr"]),
    "key of another algorithm": ([*ACKTR, "algo.trust_region=true"], ["trust_region: unknown key"]),
    "lag that is too long": (
        [*ACKTR, "algo.eigen_lag=11"],
        ["algo.eigen_lag: 11 is more than kfac_update=10"],
    ),
    "steps of length zero": ([*ACKTR, "algo.momentum=1.0"], ["algo.momentum: 1"]),
    "no damping": ([*ACKTR, "algo.damping=0"], ["algo.damping: 0", "a number above 0"]),
    "no trust region": ([*ACKTR, "algo.kfac_clip=0"], ["algo.kfac_clip: 0", "above 0"]),
    "damping rule": ([*ACKTR, "algo.damping_rule=svd"], ["damping_rule: 'svd'", "exact, factored"]),
    "factors of convolutions": ([*ACKTR, "algo.conv_factors=sum"], ["one of expand, reduce"]),
    "bias": ([*ACKTR, "algo.bias=none"], ["algo.bias: 'none'", "homogeneous, separate"]),
    "two convolutions": (["policy=cnn", "policy.filters=[32,64]"], ["policy.filters: [32, 64]"]),
    "convolution of nothing": (["policy=cnn", "policy.filters=[8,0,8]"], ["filters: [8, 0, 8]"]),
    "normalise how": (
        ["env.normalize_observations=2"],
        ["normalize_observations: 2", "true or"],
    ),
    "generalised beyond": (["algo=a2c", "algo.gae_lambda=1.5"], ["gae_lambda: 1.5", "or null"]),
    "whole numbers in a box, acktr": (
        [*ACKTR, "env=test_errors:Whole-v0"],
        ["of float32", "int64"],
    ),
    "whole numbers in a box, a2c": (["algo=a2c", "env=test_errors:Whole-v0"], ["of float32"]),
    "more actions than memory": (["env=test_errors:Huge-v0"], ["not enough memory", "Discrete("]),
    "wider than acktr bears": (
        [*ACKTR, "env=test_errors:Wide-v0", "env.normalize_observations=false"],
        ["20000 inputs", "algo=a2c"],
    ),
    "nothing to choose": (["env=test_errors:Nothing-v0"], ["nothing to choose"]),
    "deviation beyond single precision": (["algo.log_std_init=100"], ["algo.log_std_init: 100"]),
    "normalised layer of one": (
        ["policy=lstm", "policy.layer_norm=true", "policy.lstm_size=1", "policy.after=[8,1]"],
        ["policy.lstm_size: 1 with layer_norm", "policy.after: [8, 1] with layer_norm"],
    ),
    "network that acktr cannot train": (
        [*ACKTR, "policy._target_=test_errors.Bare"],
        ["policy: ACKTR cannot train this network", "policy.scale"],
    ),
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
