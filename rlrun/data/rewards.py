"""Rewards on a common scale."""

import math
from typing import Any

import torch
from torch import Tensor

from rlrun.data.rollout import Rollout

EPSILON = 1e-8
CLIP = 10.0  # scaled rewards beyond it are cut off, as while the sums have hardly varied


class RewardScale:
    """Divides rewards by the deviation of the discounted sums that they add up to.

    The rewards keep their sign and their zero, and are cut off at 10. Owns one sum per
    environment, begun anew with each episode, and the moments of all sums so far.

    Args:
        gamma: discount of the sums.
        n_envs: number `B` of environments.
    """

    def __init__(self, gamma: float, n_envs: int) -> None:
        self.gamma = gamma
        self.begin(n_envs)
        self.count = 0
        self.mean, self.square = 0.0, 0.0

    def begin(self, n_envs: int) -> None:
        """Sum up anew, for so many environments; the moments stay."""
        self.sums = torch.zeros(n_envs)

    def observe(self, rollout: Rollout) -> None:
        """Take in the rewards of a fresh segment, which follows the one before."""
        self.sums = self.sums.masked_fill(rollout.reset[0].cpu(), 0.0)
        seen = []
        ended = rollout.terminated | rollout.truncated
        for rewards, end in zip(rollout.rewards.cpu(), ended.cpu(), strict=True):
            self.sums = self.gamma * self.sums + rewards
            seen.append(self.sums)
            self.sums = self.sums.masked_fill(end, 0.0)
        sums = torch.stack(seen).double()
        self.count += sums.numel()
        share = sums.numel() / self.count
        self.mean += share * (sums.mean().item() - self.mean)
        self.square += share * (sums.square().mean().item() - self.square)

    def scaled(self, rewards: Tensor) -> Tensor:
        """Rewards of any shape on the scale of now."""
        return (rewards / self.deviation).clamp(-CLIP, CLIP)

    @property
    def deviation(self) -> float:
        """Of the discounted sums; what rewards are divided by."""
        return math.sqrt(max(self.square - self.mean**2, 0.0) + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """Sums and moments."""
        moments = {"count": self.count, "mean": self.mean, "square": self.square}
        return {"sums": self.sums, **moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.sums = state["sums"]
        self.count, self.mean, self.square = state["count"], state["mean"], state["square"]
