"""Environments of Gymnasium, stepped one after the other in this process.

Worker processes lose on everything but Atari, which has a native batch of its own: a step of
classic control or MuJoCo is shorter than the way through a pipe.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlrun.envs.registry import missing_package
from rlrun.envs.vector import Array, Mask, Played, VectorEnv
from rlrun.schema import UserError
from rlrun.spaces import acting, pack, refuse_unknown


class GymVectorEnv(VectorEnv):
    """Any registered environment; `kwargs` go to its constructor.

    Raises:
        UserError: it needs a package that is not installed, does not take `kwargs`, or has
            observations of a kind that nothing can be learnt from.
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
        try:
            refuse_unknown(observations)
        except UserError:
            self._envs.close()
            raise
        self._act = acting(actions)
        super().__init__(n_envs, observations, actions, frame_stack=1, seed=seed)

    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        by_env: list[int | None] = [None] * self.n_envs
        for env, seed in zip(np.flatnonzero(mask).tolist(), seeds, strict=True):
            by_env[env] = seed
        obs, _ = self._envs.reset(seed=by_env, options={"reset_mask": mask})
        return pack(self.observation_space, obs)

    def _play(self, actions: Array) -> Played:
        obs, reward, terminated, truncated, _ = self._envs.step(self._act(actions))
        obs = pack(self.observation_space, obs)
        return Played(obs, reward, terminated, truncated, terminated | truncated)

    def close(self) -> None:
        """Close all environments."""
        self._envs.close()
