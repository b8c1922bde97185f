"""ACER's estimates where actions can only be sampled (ACER, section 3.4).

For boxes, and for products of factors too large to visit all combinations. A stochastic dueling
network tells Q and V, and expectations over the policy are means over draws.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms.acer_estimates import Estimates, retrace_targets
from rlrun.data.rollout import Rollout
from rlrun.functional.distributions import Factored, Probabilities
from rlrun.functional.dueling import dueling_q, dueling_q_of_draws
from rlrun.functional.importance import density_ratio
from rlrun.functional.policy_gradient import acer_sampled_gradient, acer_sampled_losses
from rlrun.functional.returns import v_target
from rlrun.policies.actor import distribution_of, factors
from rlrun.policies.base import Head, Policy
from rlrun.spaces import as_acted


class Sampled:
    """Expectations by draws from the policy, for boxes and for large products of factors.

    Args:
        space: of the actions, which have `d` components: dimensions of a box, or factors.
        gamma: discount.
        c: level of the truncation of the importance ratios.
        draws: number `M` of actions drawn per state, >= 2.
        dueling: tie Q to V by the stochastic dueling network; if not, the head is Q itself, and V
            learns its mean over the draws.
        q_opc: weigh the policy gradient by off-policy corrected returns; if not, by Retrace's.
        trace_root: let the traces be `min(1, rho^(1 / d))`; if not, `min(1, rho)`.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        gamma: float,
        c: float,
        draws: int,
        dueling: bool,
        q_opc: bool,
        trace_root: bool,
    ) -> None:
        self.distribution, self.outputs = distribution_of(space, Probabilities())
        self.bounds: tuple[Tensor, Tensor] | None = None
        if isinstance(space, spaces.Box):
            with np.errstate(over="ignore"):  # bounds beyond single precision become infinite
                low, high = as_acted(space, np.stack([space.low, space.high])).astype(np.float32)
            self.bounds = torch.from_numpy(low), torch.from_numpy(high)
        components = len(factors(space)) or self.outputs
        self.root = 1.0 / components if trace_root else 1.0
        self.gamma, self.c = gamma, c
        self.draws, self.dueling, self.q_opc = draws, dueling, q_opc

    @staticmethod
    def heads(space: spaces.Space[Any]) -> dict[str, Head]:
        """Logits or means, a state value, and the advantage of an action."""
        _, outputs = distribution_of(space, Probabilities())
        return {"policy": Head(outputs), "value": Head(1), "advantage": Head(1, outputs)}

    def estimates(
        self,
        policy: Policy,
        latents: Tensor,
        statistics: Tensor,
        batch: Rollout,
        rng: torch.Generator,
    ) -> Estimates:
        """Estimates for a segment."""
        n = batch.rewards.numel()
        distribution, f = self.distribution, statistics[:n].detach()
        v = policy.head("value", latents).squeeze(-1)
        values = v.detach()
        actions, behaviour = batch.actions.flatten(0, 1), batch.behaviour.flatten(0, 1)
        many = f.expand(self.draws, *f.shape)
        drawn = distribution.sample(many, rng)

        inputs = self._inputs(torch.cat([actions.unsqueeze(0), drawn]))
        states = latents[:n].expand(len(inputs), *latents[:n].shape)
        of_actions = policy.head("advantage", states, inputs).squeeze(-1)
        q, q_drawn = of_actions[0], of_actions[1:]
        if self.dueling:
            q = dueling_q(v[:n], q, q_drawn)
            q_drawn = dueling_q_of_draws(values[:n], q_drawn)

        with torch.no_grad():
            log_probs = distribution.log_prob(f, actions)
            log_behaviour = distribution.log_prob(behaviour, actions)
            rho = density_ratio(log_probs, log_behaviour)
            traces = density_ratio(log_probs, log_behaviour, self.root)
            q_ret = retrace_targets(batch, q, values, traces, self.gamma)
            returns = q_ret
            if self.q_opc:
                returns = retrace_targets(batch, q, values, torch.ones_like(rho), self.gamma)
            advantages = returns - values[:n]
            log_drawn = distribution.log_prob(many, drawn)
            behaviours = behaviour.expand_as(many)
            rho_drawn = density_ratio(log_drawn, distribution.log_prob(behaviours, drawn))
            advantages_drawn = q_drawn - values[:n]
            gradient = acer_sampled_gradient(
                distribution.score(f, actions),
                rho,
                advantages,
                distribution.score(many, drawn),
                rho_drawn,
                advantages_drawn,
                self.c,
            )
            of_losses = log_probs, rho, advantages, log_drawn, rho_drawn, advantages_drawn, self.c
            errors = torch.zeros_like(v)  # of the rows that only bootstrap there are none
            if self.dueling:
                errors[:n] = v[:n] - v_target(v[:n], q_ret, q, rho)
            else:  # nothing ties V to Q but this
                errors[:n] = v[:n] - q_drawn.mean(0)
            return Estimates(
                gradient=gradient,
                outputs=[q, v],
                errors=[q - q_ret, errors],
                q=q.detach(),
                q_ret=q_ret,
                values=values[:n],
                advantages=advantages,
                rho=rho,
                losses=partial(acer_sampled_losses, *of_losses),
            )

    def _inputs(self, actions: Tensor) -> Tensor:
        """Actions as the critic reads them: factors as one-hots side by side, boxes clipped.

        Beyond the bounds of a box all actions are the same to the environment.
        """
        if isinstance(self.distribution, Factored):
            return self.distribution.one_hots(actions)
        assert self.bounds is not None
        low, high = self.bounds
        self.bounds = low, high = low.to(actions.device), high.to(actions.device)
        return actions.clamp(low, high)
