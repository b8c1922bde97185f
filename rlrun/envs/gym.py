"""Environments of Gymnasium, stepped one after the other in this process.

Worker processes lose on everything but Atari, which has a native batch of its own: a step of
classic control or MuJoCo is shorter than the way through a pipe.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlrun.envs.registry import missing_package
from rlrun.envs.vector import Array, Mask, Played, VectorEnv
from rlrun.schema import UserError


class GymVectorEnv(VectorEnv):
    """Any registered environment; `kwargs` go to its constructor.

    Raises:
        UserError: it needs a package that is not installed, or does not take `kwargs`.
    """

    def __init__(self, spec: EnvSpec, n_envs: int, seed: int, kwargs: Mapping[str, Any]) -> None:
        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.make(spec, disable_env_checker=True, **kwargs)

        try:
            self._envs = SyncVectorEnv(
                [make] * n_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED
            )
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise missing_package(spec, error) from error
        except TypeError as error:
            if not kwargs:
                raise
            raise UserError(f"env.kwargs={kwargs} does not fit env={spec.id}: {error}") from error
        observations, actions = self._envs.single_observation_space, self._envs.single_action_space
        super().__init__(n_envs, observations, actions, frame_stack=1, seed=seed)

    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        by_env: list[int | None] = [None] * self.n_envs
        for env, seed in zip(np.flatnonzero(mask).tolist(), seeds, strict=True):
            by_env[env] = seed
        obs: Array
        obs, _ = self._envs.reset(seed=by_env, options={"reset_mask": mask})
        return obs

    def _play(self, actions: Array) -> Played:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            actions = actions + space.start
        elif isinstance(space, spaces.Box):
            shaped = actions.reshape(self.n_envs, *space.shape)
            actions = np.clip(shaped, space.low, space.high, dtype=space.dtype)
        obs, reward, terminated, truncated, _ = self._envs.step(actions)
        return Played(obs, reward, terminated, truncated, terminated | truncated)

    def close(self) -> None:
        """Close all environments."""
        self._envs.close()
