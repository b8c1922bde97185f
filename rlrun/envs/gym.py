"""Environments of Gymnasium, in a batch of Gymnasium's.

Ours are stepped one after the other in this process: worker processes lose on everything but
Atari, which has a native batch of its own, for a step of classic control or MuJoCo is shorter than
the way through a pipe. A batch of the user's may have them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector import VectorEnv as Batch

from rlrun.envs.registry import missing_package
from rlrun.envs.vector import Array, Mask, Played, VectorEnv
from rlrun.schema import UserError
from rlrun.spaces import acting, is_composite, pack, refuse_unknown


class _InTurn(SyncVectorEnv):
    """Environments stepped one after the other, and reset by whoever steps them.

    It does at a step what `SyncVectorEnv` does, but for collecting what nobody reads: that takes
    as long as one environment of classic control.
    """

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Without infos."""
        if is_composite(self.single_observation_space):
            return super().step(actions)
        rewards, terminated, truncated = self._rewards, self._terminations, self._truncations
        shape = self._observations.shape[1:]
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            obs, rewards[i], terminated[i], truncated[i], _ = env.step(action)
            if np.shape(obs) != shape:
                raise ValueError(f"an observation is of shape {np.shape(obs)}, not {shape}")
            np.copyto(self._observations[i, ...], obs, casting="same_kind")
            self._env_obs[i] = obs
        # Copies, for a reset writes into them.
        return self._observations, rewards.copy(), terminated.copy(), truncated.copy(), {}


def make_batch(spec: EnvSpec, n_envs: int, kwargs: Mapping[str, Any]) -> Batch[Any, Any, Any]:
    """`n_envs` environments of a registered id; `kwargs` go to its constructor.

    Raises:
        UserError: it needs a package that is not installed, or does not take `kwargs`.
    """

    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(spec, disable_env_checker=True, **kwargs)

    try:
        return _InTurn([make] * n_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise missing_package(spec, error) from error
    except TypeError as error:
        if not kwargs:
            raise
        raise UserError(f"env.kwargs={kwargs} does not fit env={spec.id}: {error}") from error


class GymVectorEnv(VectorEnv):
    """A batch of Gymnasium's whose environments can be reset one by one.

    Args:
        batch: resets those in `options["reset_mask"]`, as Sync- and AsyncVectorEnv do. Not one
            that resets in the step that ends an episode: here the reset follows, with a seed.
        seed: of all episodes.

    Raises:
        UserError: it has observations of a kind that nothing can be learnt from; it is closed.
    """

    def __init__(self, batch: Batch[Any, Any, Any], seed: int) -> None:
        self._batch = batch
        observations, actions = batch.single_observation_space, batch.single_action_space
        try:
            refuse_unknown(observations)
        except UserError:
            batch.close()
            raise
        self._act = acting(actions)
        self.render_mode = batch.render_mode
        self.fps = int(batch.metadata.get("render_fps") or self.fps)
        super().__init__(batch.num_envs, observations, actions, frame_stack=1, seed=seed)

    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        by_env: list[int | None] = [None] * self.n_envs
        for env, seed in zip(np.flatnonzero(mask).tolist(), seeds, strict=True):
            by_env[env] = seed
        # A list of seeds is accepted by all, though the base class speaks of one.
        obs, _ = self._batch.reset(seed=by_env, options={"reset_mask": mask})  # type: ignore[arg-type]
        return pack(self.observation_space, obs)

    def _play(self, actions: Array) -> Played:
        obs, reward, terminated, truncated, _ = self._batch.step(self._act(actions))
        obs = pack(self.observation_space, obs)
        return Played(obs, reward, terminated, truncated, terminated | truncated)

    def render(self) -> Any:
        """A picture of each environment, if they were made with `render_mode="rgb_array"`.

        Raises:
            UserError: a package that draws them is not installed.
        """
        try:
            return self._batch.render()
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise UserError(
                f"pictures of this environment need a package that is not installed: {error}. "
                f"Type: pip install 'rlrun[video]'"
            ) from error

    def close(self) -> None:
        """Close all environments."""
        self._batch.close()
