"""Acting in the environments: environments and a policy in, segments of experience out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrun.data.rollout import Rollout
from rlrun.envs import Episode, ReplayMismatch, VectorEnv

Act = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""From observations `[B, ...]` to actions `[B]` and the probabilities `[B, A]` behind them."""


class Ended(NamedTuple):
    """A finished episode, and how many steps of the segment (all environments) came before."""

    offset: int
    episode: Episode


class Collector:
    """Steps the environments with a policy, `n_steps` at a time.

    Owns the environments, the observation that each of them waits with, and the generator of
    the actions. The tensors of a returned segment are its own buffers, overwritten by the next
    call.

    Args:
        envs: not yet reset.
        n_steps: length `T` of a segment.
        n_probs: size `A` of the vector of probabilities that `act` returns.
        clip_rewards: learn from the sign of the rewards; the episodes' returns stay raw.
        rng: draws the actions.
    """

    def __init__(
        self, envs: VectorEnv, n_steps: int, n_probs: int, clip_rewards: bool, rng: torch.Generator
    ) -> None:
        self.envs = envs
        self.n_steps = n_steps
        self.rng = rng
        self.clip_rewards = clip_rewards
        steps = (n_steps, envs.n_envs)
        space = envs.observation_space
        self._observations = np.empty((n_steps + 1, envs.n_envs, *(space.shape or ())), space.dtype)
        self._actions = torch.empty(steps, dtype=torch.int64)
        self._rewards = np.empty(steps, np.float32)
        self._behaviour = torch.empty(*steps, n_probs)
        self._terminated = np.empty(steps, np.bool_)
        self._truncated = np.empty(steps, np.bool_)
        self._reset = np.ones((n_steps + 1, envs.n_envs), np.bool_)

    def reset(self) -> None:
        """Begin the first episode of every environment."""
        self._observations[-1] = self.envs.reset()
        self._reset[-1] = True

    def collect(self, act: Act) -> tuple[Rollout, list[Ended]]:
        """The next segment, and the episodes that ended in it."""
        self._observations[0] = self._observations[-1]
        self._reset[0] = self._reset[-1]
        observations = torch.from_numpy(self._observations)
        finals: list[np.ndarray] = []
        final_index: list[tuple[int, int]] = []
        ended: list[Ended] = []
        for t in range(self.n_steps):
            self._actions[t], self._behaviour[t] = act(observations[t], self.rng)
            step = self.envs.step(self._actions[t].numpy())
            self._observations[t + 1] = step.obs
            self._rewards[t] = step.reward
            self._terminated[t] = step.terminated
            self._truncated[t] = step.truncated
            self._reset[t + 1] = step.reset
            for env, final in step.final_obs.items():
                finals.append(np.array(final))
                final_index.append((t, env))
            ended += [Ended((t + 1) * self.envs.n_envs, episode) for episode in step.episodes]
        if self.clip_rewards:
            np.sign(self._rewards, out=self._rewards)
        no_finals = self._observations[:0, 0]
        rollout = Rollout(
            observations=observations,
            actions=self._actions,
            rewards=torch.from_numpy(self._rewards),
            behaviour=self._behaviour,
            terminated=torch.from_numpy(self._terminated),
            truncated=torch.from_numpy(self._truncated),
            reset=torch.from_numpy(self._reset),
            final_observations=torch.from_numpy(np.stack(finals) if finals else no_finals),
            final_index=torch.tensor(final_index, dtype=torch.int64).reshape(-1, 2),
        )
        return rollout, ended

    def state_dict(self) -> dict[str, Any]:
        """The environments, by their journals, and the generator."""
        return {
            "envs": self.envs.state_dict(),
            "reset": self._reset[-1].copy(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Bring the environments to where they were.

        Returns:
            False if they cannot be replayed, and have begun new episodes instead.
        """
        self.rng.set_state(state["rng"])
        try:
            self._observations[-1] = self.envs.load_state_dict(state["envs"])
            self._reset[-1] = state["reset"]
        except ReplayMismatch:
            self.reset()
            return False
        return True
