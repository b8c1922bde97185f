"""Stable-Baselines3 on the same environments, where it is installed."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .rounds import Contestant

STEPS = 20
UPDATES = 10
"""Of one unit."""
MISSING = "no peers: stable-baselines3 and its cv2 are not installed (the extra `bench`)"


def missing() -> str | None:
    """Why there are no peers here, if so."""
    found = (importlib.util.find_spec(name) for name in ("stable_baselines3", "cv2"))
    return None if all(found) else MISSING


def peer(name: str, env: Mapping[str, Any], threads: int, device: torch.device) -> Contestant:
    """One of its algorithms as a contestant.

    Args:
        name: `sb3-a2c`, of 20 steps; `sb3-a2c-5-steps`, as it comes; `sb3-ppo`, with segments
            of 128 steps, and on Atari 4 epochs of batches of 256, as the benchmarks of its
            authors have it.
        env: node of rlrun's config.
        threads: of PyTorch.
        device: of the network.
    """
    from stable_baselines3 import A2C, PPO

    envs, pictures = _environments(env["id"], env["n_envs"])
    policy = "CnnPolicy" if pictures else "MlpPolicy"
    torch.set_num_threads(threads)
    if name == "sb3-ppo":
        batches: dict[str, Any] = {"batch_size": 256, "n_epochs": 4} if pictures else {}
        steps = 128
        model: Any = PPO(policy, envs, n_steps=steps, seed=0, device=device, **batches)
    else:
        steps = 5 if name.endswith("5-steps") else STEPS
        model = A2C(policy, envs, n_steps=steps, seed=0, device=device)
    unit = steps * env["n_envs"] * (1 if name == "sb3-ppo" else UPDATES)
    run = _learning(model, unit)
    run()
    return Contestant(name, run, threads, device)


def _learning(model: Any, steps: int) -> Callable[[], int]:
    def unit() -> int:
        before = model.num_timesteps
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps - before)

    return unit


def _environments(env_id: str, n_envs: int) -> tuple[Any, bool]:
    """Environments stepped in this process, and whether they show pictures."""
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    from rlrun.envs import registry

    if registry.is_atari(registry.find_spec(env_id)):
        return VecFrameStack(make_atari_env(env_id, n_envs, seed=0), 4), True
    return make_vec_env(env_id, n_envs, seed=0), False
