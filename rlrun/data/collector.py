"""Acting in the environments: environments and a policy in, segments of experience out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrun.data.rollout import Rollout
from rlrun.envs import Episode, ReplayMismatch, VectorEnv
from rlrun.spaces import action_tensor, observation_tensor

Act = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]
"""From observations `[B, ...]`, resets `[B]` and recurrent state `[B, S]` to actions, the
statistics `[B, P]` behind them, and the next state."""


class Ended(NamedTuple):
    """A finished episode, and the steps of the segment up to its end, over all environments."""

    offset: int
    episode: Episode


class Collector:
    """Steps the environments with a policy, `n_steps` at a time.

    Owns the environments, the observation that each of them waits with, the policy's recurrent
    state, and the generator of the actions. The tensors of a returned segment are its own
    buffers, overwritten by the next call.

    Args:
        envs: not yet reset.
        n_steps: length `T` of a segment.
        n_statistics: size `P` of the vector behind an action that `act` returns.
        state_size: size `S` of the recurrent state of one environment.
        clip_rewards: learn from the sign of the rewards; the episodes' returns stay raw.
        rng: draws the actions.
    """

    def __init__(
        self,
        envs: VectorEnv,
        n_steps: int,
        n_statistics: int,
        state_size: int,
        clip_rewards: bool,
        rng: torch.Generator,
    ) -> None:
        self.envs = envs
        self.n_steps = n_steps
        self.rng = rng
        self.clip_rewards = clip_rewards
        steps = (n_steps, envs.n_envs)
        # Allocated by PyTorch, whose memory is aligned: on NumPy's, which is not, the bits of a
        # matrix product depend on where in memory an array happens to lie.
        self._rollout = Rollout(
            observations=observation_tensor(envs.observation_space, n_steps + 1, envs.n_envs),
            actions=action_tensor(envs.action_space, *steps),
            rewards=torch.empty(steps),
            behaviour=torch.empty(*steps, n_statistics),
            terminated=torch.empty(steps, dtype=torch.bool),
            truncated=torch.empty(steps, dtype=torch.bool),
            reset=torch.ones(n_steps + 1, envs.n_envs, dtype=torch.bool),
            state=torch.zeros(envs.n_envs, state_size),
            final_observations=torch.empty(0),
            final_index=torch.empty(0, 2, dtype=torch.int64),
        )
        self._observations = self._rollout.observations.numpy()
        self._rewards = self._rollout.rewards.numpy()
        self._terminated = self._rollout.terminated.numpy()
        self._truncated = self._rollout.truncated.numpy()
        self._reset = self._rollout.reset.numpy()
        self._state = torch.zeros(envs.n_envs, state_size)

    def reset(self) -> None:
        """Begin the first episode of every environment."""
        self._observations[-1] = self.envs.reset()
        self._reset[-1] = True

    def collect(self, act: Act) -> tuple[Rollout, list[Ended]]:
        """The next segment, and the episodes that ended in it."""
        rollout = self._rollout
        self._observations[0] = self._observations[-1]
        self._reset[0] = self._reset[-1]
        rollout.state = self._state
        finals: list[np.ndarray] = []
        final_index: list[tuple[int, int]] = []
        ended: list[Ended] = []
        for t in range(self.n_steps):
            actions, rollout.behaviour[t], self._state = act(
                rollout.observations[t], rollout.reset[t], self._state, self.rng
            )
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
        """The environments, by their journals, the recurrent state, and the generator."""
        return {
            "envs": self.envs.state_dict(),
            "reset": self._reset[-1].copy(),
            "state": self._state,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Bring the environments to where they were.

        Returns:
            False if they cannot be replayed, and have begun new episodes instead.
        """
        self.rng.set_state(state["rng"])
        self._state = state["state"]
        try:
            self._observations[-1] = self.envs.load_state_dict(state["envs"])
            self._reset[-1] = state["reset"]
        except ReplayMismatch:
            self.reset()
            return False
        return True
