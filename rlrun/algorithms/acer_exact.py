"""ACER's estimates where all actions can be visited (ACER, sections 2 and 3.1 to 3.3).

There is no head for V, which is the mean of Q under the policy.
"""

import math
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms.acer_estimates import Estimates, retrace_targets
from rlrun.data.rollout import Rollout
from rlrun.functional.distributions import Distribution, Joint, Probabilities, joint_index
from rlrun.functional.importance import importance_ratio
from rlrun.functional.policy_gradient import acer_gradient, acer_losses
from rlrun.policies.actor import factors
from rlrun.policies.base import Head, Policy


def can_visit_all(space: spaces.Space[Any], joint_actions: int) -> bool:
    """Is it Discrete, or a product of factors with at most so many combinations?"""
    sizes = factors(space)
    return isinstance(space, spaces.Discrete) or 0 < math.prod(sizes or (0,)) <= joint_actions


class Exact:
    """Expectations over all actions, of a Discrete space or of a small product of factors.

    Args:
        space: of the actions; several factors are learnt as one distribution over all their
            combinations.
        gamma: discount.
        c: level of the truncation of the importance ratios.
    """

    def __init__(self, space: spaces.Space[Any], gamma: float, c: float) -> None:
        self.sizes = factors(space)
        self.single = isinstance(space, spaces.Discrete)
        self.distribution: Distribution = Probabilities()
        if not self.single:
            self.distribution = Joint(Probabilities(), self.sizes)
        self.gamma, self.c = gamma, c
        self.outputs = math.prod(self.sizes)

    @staticmethod
    def heads(space: spaces.Space[Any]) -> dict[str, Head]:
        """Logits and action values, one each per action or combination."""
        actions = math.prod(factors(space))
        return {"policy": Head(actions), "q": Head(actions)}

    def estimates(
        self,
        policy: Policy,
        latents: Tensor,
        statistics: Tensor,
        batch: Rollout,
        rng: torch.Generator,
    ) -> Estimates:
        """Estimates for a segment; draws nothing."""
        n = batch.rewards.numel()
        q = policy.head("q", latents)
        actions = batch.actions.flatten(0, 1)
        if not self.single:
            actions = joint_index(actions, self.sizes)
        taken = actions.unsqueeze(-1)
        q_taken = q[:n].gather(-1, taken).squeeze(-1)
        with torch.no_grad():
            f = statistics[:n]
            values = (statistics * q).sum(-1)
            rho = importance_ratio(f, batch.behaviour.flatten(0, 1))
            rho_taken = rho.gather(-1, taken).squeeze(-1)
            q_ret = retrace_targets(batch, q_taken, values, rho_taken, self.gamma)
            terms = f, rho, actions, q_ret, q[:n], values[:n], self.c
            return Estimates(
                gradient=acer_gradient(*terms),
                outputs=[q_taken],
                errors=[q_taken - q_ret],
                q=q_taken.detach(),
                q_ret=q_ret,
                values=values[:n],
                advantages=q_ret - values[:n],
                rho=rho_taken,
                losses=partial(acer_losses, *terms),
            )
