"""Our environments as the users of Gymnasium step a batch of theirs."""

from typing import Any

import numpy as np
from gymnasium import vector
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlrun.envs.vector import Array, VectorEnv
from rlrun.spaces import as_acted, shown


class Environments(vector.VectorEnv[Any, Any, Any]):
    """`num_envs` environments, with everything that a model is trained on.

    Atari games come with their preprocessing: a lost life terminates, and the game goes on.

    A step that ends an episode already shows the first observation of the next one; the last one
    is in `infos["final_obs"]`. Whole episodes are told in `infos["episode"]`: their raw returns
    "r" and lengths "l", where `infos["_episode"]` is true.

    Args:
        engine: the environments.
    """

    def __init__(self, engine: VectorEnv) -> None:
        self.engine = engine
        self.num_envs = engine.n_envs
        self.single_observation_space = engine.observation_space
        self.single_action_space = engine.action_space
        self.observation_space = batch_space(engine.observation_space, engine.n_envs)
        self.action_space = batch_space(engine.action_space, engine.n_envs)
        self.render_mode = engine.render_mode
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes; with a seed, those that follow from it.

        Raises:
            ValueError: a list of seeds: one seed tells those of all environments here.
        """
        if isinstance(seed, list):
            raise ValueError("seed: one number, from which the seeds of all environments follow")
        if seed is not None:
            self.engine.reseed(seed)
        return self._shown(self.engine.reset()), {}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Take one action in every environment; observations, rewards, terminated, truncated."""
        step = self.engine.step(as_acted(self.single_action_space, np.asarray(actions)))
        infos: dict[str, Any] = {}
        if step.final_obs:
            finals = np.full(self.num_envs, None, dtype=object)
            for env, final in step.final_obs.items():
                finals[env] = _first(self._shown(final[None]))
            infos |= {"final_obs": finals, "_final_obs": step.reset.copy()}
        if step.episodes:
            returns, lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
            ended = np.zeros(self.num_envs, np.bool_)
            for episode in step.episodes:
                returns[episode.env], lengths[episode.env] = episode.ret, episode.length
                ended[episode.env] = True
            infos |= {"episode": {"r": returns, "l": lengths}, "_episode": ended}
        terminated, truncated = step.terminated.copy(), step.truncated.copy()
        return self._shown(step.obs), step.reward, terminated, truncated, infos

    def render(self) -> Any:
        """A picture of each environment, if they were made with `render_mode="rgb_array"`."""
        return self.engine.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close all environments."""
        self.engine.close()

    def _shown(self, observations: Array) -> Any:
        return shown(self.single_observation_space, np.array(observations))


def _first(observations: Any) -> Any:
    """The one observation of a batch of one."""
    if isinstance(observations, dict):
        return {key: _first(value) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_first(value) for value in observations)
    return observations[0]
