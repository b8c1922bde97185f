"""Environments alone, with random actions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rlrun.build import make_envs
from rlrun.envs import VectorEnv, registry

from .rounds import Contestant


class EnvironmentsAlone:
    """Random actions in rlrun's environments, and on Atari in the emulator's own batch."""

    def __init__(self, config: Mapping[str, Any], threads: int) -> None:
        self.n_envs: int = config["env"]["n_envs"]
        self.threads = threads
        self.envs = make_envs(config, "bench", self.n_envs)
        self.actions = _random_actions(self.envs)
        self.envs.reset()
        self.native = _native(config)

    def contestants(self) -> list[Contestant]:
        """Each takes turns by segments."""
        steps: dict[str, Callable[[Any], object]] = {"env": self.envs.step}
        if self.native is not None:
            steps["env, native batch"] = self.native.step
        return [
            Contestant(name, self._unit(step), self.threads, torch.device("cpu"))
            for name, step in steps.items()
        ]

    def _unit(self, step: Callable[[Any], object]) -> Callable[[], int]:
        def unit() -> int:
            for actions in self.actions:
                step(actions)
            return len(self.actions) * self.n_envs

        return unit

    def close(self) -> None:
        """Close them."""
        self.envs.close()
        if self.native is not None:
            self.native.close()


def _random_actions(envs: VectorEnv, steps: int = 20) -> list[Any]:
    rng, space = np.random.default_rng(0), envs.action_space
    if hasattr(space, "n"):
        return list(rng.integers(0, int(space.n), (steps, envs.n_envs)))
    return list(rng.uniform(-1.0, 1.0, (steps, envs.n_envs, *(space.shape or ()))))


def _native(config: Mapping[str, Any]) -> Any:
    spec = registry.find_spec(config["env"]["id"])
    if not registry.is_atari(spec):
        return None
    from ale_py.vector_env import AtariVectorEnv

    envs = AtariVectorEnv(
        spec.kwargs["game"],
        config["env"]["n_envs"],
        frameskip=4,
        stack_num=4,
        noop_max=30,
        use_fire_reset=True,
        reward_clipping=False,
    )
    envs.reset(seed=0)
    return envs
