"""Acting in the environments: environments and a policy in, segments of experience out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlrun.data.rollout import Rollout
from rlrun.envs import ReplayMismatch, Step, VectorEnv
from rlrun.spaces import action_tensor, observation_tensor
from rlrun.transfer import CPU, pinned, sent

Act = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor]]
"""From observations `[B, ...]`, resets `[B]` and recurrent state `[B, S]` to actions, the
statistics `[B, P]` behind them, and the next state."""


_BY_STEP = ("actions", "rewards", "behaviour", "terminated", "truncated")
"""Parts of a segment with one row per step."""


class Collector:
    """Steps the environments with a policy, `n_steps` at a time.

    Owns the environments, the observation that each of them waits with, the policy's recurrent
    state, the generator of the actions, and the segment in hand. The tensors of a returned segment
    are its own buffers, overwritten by the next call.

    Args:
        envs: begun at the first step. Where somebody else has stepped or reset them since the
            last one, they begin new episodes.
        n_steps: length `T` of a segment.
        n_statistics: size `P` of the vector behind an action that `act` returns.
        state_size: size `S` of the recurrent state of one environment.
        clip_rewards: learn from the sign of the rewards; the episodes' returns stay raw.
        rng: draws the actions.
        device: where the policy acts. To a GPU each observation goes once, to be acted in and to
            be learnt from.
    """

    def __init__(
        self,
        envs: VectorEnv,
        n_steps: int,
        n_statistics: int,
        state_size: int,
        clip_rewards: bool,
        rng: torch.Generator,
        device: torch.device = CPU,
    ) -> None:
        self.envs = envs
        self.n_steps = n_steps
        self.rng = rng
        self.clip_rewards = clip_rewards
        steps = (n_steps, envs.n_envs)
        # Allocated by PyTorch, whose memory is aligned: on NumPy's, which is not, the bits of a
        # matrix product depend on where in memory an array happens to lie.
        observations = observation_tensor(envs.observation_space, n_steps + 1, envs.n_envs)
        if pinned(device):
            observations = observations.pin_memory()
        self._rollout = Rollout(
            observations=observations,
            actions=action_tensor(envs.action_space, *steps),
            rewards=torch.empty(steps),
            behaviour=torch.empty(*steps, n_statistics),
            terminated=torch.empty(steps, dtype=torch.bool),
            truncated=torch.empty(steps, dtype=torch.bool),
            reset=torch.ones(n_steps + 1, envs.n_envs, dtype=torch.bool),
            state=torch.zeros(envs.n_envs, state_size),
            final_observations=torch.empty(0),
            final_index=torch.empty(0, 2, dtype=torch.int64),
            acted_in=torch.empty_like(observations, device=device) if pinned(device) else None,
        )
        self._observations = self._rollout.observations.numpy()
        self._rewards = self._rollout.rewards.numpy()
        self._terminated = self._rollout.terminated.numpy()
        self._truncated = self._rollout.truncated.numpy()
        self._reset = self._rollout.reset.numpy()
        self._state = torch.zeros(envs.n_envs, state_size)
        self._t = 0  # steps in hand; the environments wait with row t, or with the last if 0
        self._finals: list[tuple[int, int, np.ndarray]] = []  # step, environment, observation
        self._turn = -1

    def reset(self) -> None:
        """Begin new episodes in every environment; the steps in hand are lost."""
        self._t = 0
        self._finals.clear()
        self._state = torch.zeros_like(self._state)
        self._observations[-1] = self.envs.reset()
        self._reset[-1] = True
        self._turn = self.envs.turn

    def collect(self, act: Act, on_step: Callable[[Step], bool] | None = None) -> Rollout | None:
        """The next segment.

        Args:
            act: chooses the actions.
            on_step: called after each step; False stops there.

        Returns:
            None if it was stopped. The steps so far stay in hand, and the next call goes on.
        """
        if self._turn != self.envs.turn:
            self.reset()
        rollout = self._rollout
        begins = self._t == 0
        while begins or self._t < self.n_steps:
            if begins:
                self._observations[0] = self._observations[-1]
                self._reset[0] = self._reset[-1]
                rollout.state = self._state
                begins = False
            t = self._t
            actions, rollout.behaviour[t], self._state = act(
                self._shown(t), rollout.reset[t], self._state, self.rng
            )
            rollout.actions[t] = actions
            step = self.envs.step(actions.numpy())
            self._observations[t + 1] = step.obs
            self._rewards[t] = step.reward
            self._terminated[t] = step.terminated
            self._truncated[t] = step.truncated
            self._reset[t + 1] = step.reset
            for env, final in step.final_obs.items():
                if step.truncated[env]:
                    self._finals.append((t, env, final.astype(self._observations.dtype)))
            self._t, self._turn = t + 1, self.envs.turn
            if on_step is not None and not on_step(step):
                return None
            if self._turn != self.envs.turn and self._t < self.n_steps:
                self.reset()  # it was `on_step` that used the environments
                begins = True
        self._t = 0
        if rollout.acted_in is not None:  # from a copy: nothing that follows waits for it
            last = rollout.observations[-1].clone()
            rollout.acted_in[-1].copy_(sent(last, rollout.acted_in.device))
        if self.clip_rewards:
            np.sign(self._rewards, out=self._rewards)
        rollout.final_observations, rollout.final_index = self._take_finals()
        return rollout

    def _shown(self, t: int) -> Tensor:
        """Observation `t` of the segment, `[B, ...]`, where the policy acts.

        To a GPU it goes from pinned memory, while the host goes on. The row here is not written
        again before the action is known, and for that the host waits for all it asked for before.
        """
        rollout = self._rollout
        if rollout.acted_in is None:
            return rollout.observations[t]
        return rollout.acted_in[t].copy_(rollout.observations[t], non_blocking=True)

    def _take_finals(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Last observations of truncated episodes, `[K, ...]`, and their `(t, b)`, `[K, 2]`."""
        finals = [final for _, _, final in self._finals]
        stacked = np.stack(finals) if finals else self._observations[:0, 0]
        index = torch.tensor([(t, env) for t, env, _ in self._finals], dtype=torch.int64)
        self._finals.clear()
        return torch.tensor(stacked), index.view(-1, 2)

    def state_dict(self) -> dict[str, Any]:
        """The environments, by their journals, the recurrent state, generator, steps in hand."""
        return {
            "envs": self.envs.state_dict() if self.envs.begun else None,
            "in_step": self._turn == self.envs.turn,
            "reset": self._reset[self._t or -1].copy(),
            "state": self._state,
            "rng": self.rng.get_state(),
            "segment": self._segment() if self._t else None,
        }

    def _segment(self) -> dict[str, Any]:
        """The steps in hand."""
        rollout = self._rollout
        by_step = (*_BY_STEP, "observations", "reset")
        return {name: getattr(rollout, name)[: self._t].clone() for name in by_step} | {
            "state": rollout.state,
            "finals": [list(final) for final in self._finals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Bring the environments to where they were.

        Returns:
            False if they cannot be replayed, and have begun new episodes instead.
        """
        self.rng.set_state(state["rng"])
        self._state = state["state"]
        segment = state["segment"]
        self._t = 0 if segment is None else len(segment["rewards"])
        self._finals.clear()
        if state["envs"] is None:  # they had not begun
            self._turn = -1
            return True
        try:
            self._observations[self._t or -1] = self.envs.load_state_dict(state["envs"])
            self._reset[self._t or -1] = state["reset"]
        except ReplayMismatch:
            self.reset()
            return False
        if segment is not None:
            for name in (*_BY_STEP, "observations", "reset"):
                getattr(self._rollout, name)[: self._t] = segment[name]
            self._rollout.state = segment["state"]
            self._finals += [(t, env, final) for t, env, final in segment["finals"]]
            if self._rollout.acted_in is not None:
                self._rollout.acted_in[: self._t].copy_(self._rollout.observations[: self._t])
        self._turn = self.envs.turn if state["in_step"] else -1
        return True
