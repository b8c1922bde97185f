"""Whole models that are small, and everything that is in them as one number."""

import hashlib
from collections.abc import Mapping

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from rlrun import A2C, ACER, ACKTR, make_vec_env
from tests import tasks

KINDS = {"acer": ACER, "acktr": ACKTR, "a2c": A2C}
SETTINGS = {
    "acer": {"n_steps": 5, "buffer_size": 60, "replay_start": 10, "replay_ratio": 2.0},
    "acktr": {"n_steps": 5, "cold_iter": 2, "kfac_update": 2},
    "a2c": {"n_steps": 5},
}


class Count(gymnasium.Env):
    """Shows how many steps its episode has; ends after `limit`, fails once at step `fault`."""

    observation_space = spaces.Box(0, 1000, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, limit=1000, fault=None):
        self.limit, self.fault, self.resets, self.total = limit, fault, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.total += 1
        if self.total == self.fault:
            raise OSError("the robot fell over")
        return np.float32([self.steps]), 1.0, self.steps == self.limit, False, {}


def every(observation="vector", action="discrete", n_envs=3):
    """Environments with these kinds of observations and actions."""
    kwargs = {"observation": observation, "action": action}
    return make_vec_env("Every-v0", n_envs, env_kwargs=kwargs)


def make(kind, env=None, policy="MlpPolicy", **settings):
    """A model of `kind` in small sizes; seed 0, one thread."""
    settings = {"seed": 0, "n_cpu_tf_sess": 1, "device": "cpu"} | SETTINGS[kind] | settings
    return KINDS[kind](policy, every() if env is None else env, **settings)


def fingerprint(model):
    """Digest of all that the training of a model depends on, its replay memory included."""
    state = dict(model._training.state_dict() if model._training else model._progress())
    state["algorithm"] = model.algorithm.state_dict()
    memory = model.algorithm.memory
    if memory is not None and len(memory):
        state["entries"] = memory.export(memory.first, memory.end)
    state.pop("interface", None)
    found = hashlib.sha256()
    for key, value in walk(state):
        found.update(f"{key}={value!r};".encode())
    return found.hexdigest()


def weights(model):
    """Digest of what acts and judges."""
    found = hashlib.sha256()
    for key, value in walk(model.algorithm.state_dict()["actor"]):
        found.update(f"{key}={value!r};".encode())
    return found.hexdigest()


def walk(node, key=""):
    """Every leaf of a tree as bytes or a plain value, with where it stands."""
    if isinstance(node, Mapping):
        for name in sorted(node, key=str):
            yield from walk(node[name], f"{key}/{name}")
    elif isinstance(node, list | tuple):
        for i, item in enumerate(node):
            yield from walk(item, f"{key}/{i}")
    elif isinstance(node, torch.Tensor):
        yield key, (str(node.dtype), tuple(node.shape), node.detach().cpu().numpy().tobytes())
    elif isinstance(node, np.ndarray):
        yield key, (str(node.dtype), node.shape, node.tobytes())
    else:
        assert node is None or isinstance(node, bool | int | float | str | np.generic), type(node)
        yield key, node


def stack(observations):
    """Single observations as one batch, nested like them."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: stack([each[key] for each in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(stack(list(entries)) for entries in zip(*observations, strict=True))
    return np.stack(observations)


def seen(observation="vector", n=7, seed=0):
    """`n` different observations that the environment really shows."""
    env = tasks.Every(observation)
    return [env.reset(seed=seed + i)[0] for i in range(n)]


def scattered(model, seed=0, scale=2.0):
    """Weights that make for pronounced and different actions; the model itself."""
    rng = np.random.default_rng(seed)
    model.load_parameters(
        {
            name: value + scale * rng.normal(size=value.shape) / np.sqrt(value.shape[-1])
            for name, value in model.get_parameters().items()
        }
    )
    return model
