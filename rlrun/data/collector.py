"""Acting in the environments: environments and a policy in, segments of experience out."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.data.replay import tensor_dtype
from rlrun.data.rollout import Rollout
from rlrun.envs import Episode, ReplayMismatch, VectorEnv

Act = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""From observations `[B, ...]` to actions and the statistics `[B, P]` behind them."""


class Ended(NamedTuple):
    """A finished episode, and the steps of the segment up to its end, over all environments."""

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
        n_statistics: size `P` of the vector behind an action that `act` returns.
        clip_rewards: learn from the sign of the rewards; the episodes' returns stay raw.
        rng: draws the actions.
    """

    def __init__(
        self,
        envs: VectorEnv,
        n_steps: int,
        n_statistics: int,
        clip_rewards: bool,
        rng: torch.Generator,
    ) -> None:
        self.envs = envs
        self.n_steps = n_steps
        self.rng = rng
        self.clip_rewards = clip_rewards
        steps, space = (n_steps, envs.n_envs), envs.observation_space
        dtype = tensor_dtype(space)
        # Allocated by PyTorch, whose memory is aligned: on NumPy's, which is not, the bits of a
        # matrix product depend on where in memory an array happens to lie.
        self._rollout = Rollout(
            observations=torch.empty(n_steps + 1, envs.n_envs, *(space.shape or ()), dtype=dtype),
            actions=_actions(steps, envs.action_space),
            rewards=torch.empty(steps),
            behaviour=torch.empty(*steps, n_statistics),
            terminated=torch.empty(steps, dtype=torch.bool),
            truncated=torch.empty(steps, dtype=torch.bool),
            reset=torch.ones(n_steps + 1, envs.n_envs, dtype=torch.bool),
            final_observations=torch.empty(0),
            final_index=torch.empty(0, 2, dtype=torch.int64),
        )
        self._observations = self._rollout.observations.numpy()
        self._rewards = self._rollout.rewards.numpy()
        self._terminated = self._rollout.terminated.numpy()
        self._truncated = self._rollout.truncated.numpy()
        self._reset = self._rollout.reset.numpy()

    def reset(self) -> None:
        """Begin the first episode of every environment."""
        self._observations[-1] = self.envs.reset()
        self._reset[-1] = True

    def collect(self, act: Act) -> tuple[Rollout, list[Ended]]:
        """The next segment, and the episodes that ended in it."""
        rollout = self._rollout
        self._observations[0] = self._observations[-1]
        self._reset[0] = self._reset[-1]
        finals: list[np.ndarray] = []
        final_index: list[tuple[int, int]] = []
        ended: list[Ended] = []
        for t in range(self.n_steps):
            actions, rollout.behaviour[t] = act(rollout.observations[t], self.rng)
            rollout.actions[t] = actions
            step = self.envs.step(actions.numpy())
            self._observations[t + 1] = step.obs
            self._rewards[t] = step.reward
            self._terminated[t] = step.terminated
            self._truncated[t] = step.truncated
            self._reset[t + 1] = step.reset
            for env, final in step.final_obs.items():
                finals.append(final)
                final_index.append((t, env))
            ended += [Ended((t + 1) * self.envs.n_envs, episode) for episode in step.episodes]
        if self.clip_rewards:
            np.sign(self._rewards, out=self._rewards)
        stacked = np.stack(finals) if finals else self._observations[:0, 0]
        rollout.final_observations = torch.tensor(stacked, dtype=rollout.observations.dtype)
        rollout.final_index = torch.tensor(final_index, dtype=torch.int64).view(-1, 2)
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


def _actions(steps: tuple[int, int], space: spaces.Space) -> Tensor:  # type: ignore[type-arg]
    """Room for the actions of a segment."""
    if isinstance(space, spaces.Box):
        return torch.empty(*steps, math.prod(space.shape))
    return torch.empty(steps, dtype=torch.int64)
