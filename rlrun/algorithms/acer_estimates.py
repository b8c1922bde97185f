"""What ACER estimates on a segment: action values, their targets, and the policy gradient.

`Exact` visits all actions of a discrete space: there is no head for V, which is the mean of Q
under the policy (ACER, sections 2 and 3.1 to 3.3). `Sampled` is for boxes and for products of
factors too large for that: a stochastic dueling network tells Q and V, and expectations over the
policy are means over draws (section 3.4).
"""

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms import segments
from rlrun.data.rollout import Rollout
from rlrun.functional.distributions import (
    Distribution,
    Factored,
    Joint,
    Probabilities,
    joint_index,
)
from rlrun.functional.dueling import dueling_q, dueling_q_of_draws
from rlrun.functional.importance import density_ratio, importance_ratio
from rlrun.functional.policy_gradient import (
    acer_gradient,
    acer_losses,
    acer_sampled_gradient,
    acer_sampled_losses,
)
from rlrun.functional.returns import retrace, v_target
from rlrun.policies.actor import distribution_of, factors
from rlrun.policies.base import Head, Policy
from rlrun.spaces import as_acted


class Estimates(NamedTuple):
    """What comes of a segment of `N = T * B` steps; only `outputs` have gradients."""

    gradient: Tensor
    """`[N, P]`, ascent direction of the policy by its statistics, without entropy and bounds."""
    outputs: list[Tensor]
    """`[N]` each, what the critic has to move."""
    errors: list[Tensor]
    """`[N]` each, gradient of its loss by these outputs, per step."""
    q: Tensor
    """`[N]`, values of the actions taken."""
    q_ret: Tensor
    """`[N]`, their Retrace targets."""
    values: Tensor
    """`[N]`."""
    advantages: Tensor
    """`[N]`, as they weigh the actions taken."""
    rho: Tensor
    """`[N]`, importance ratios of the actions taken."""
    losses: tuple[Tensor, Tensor]
    """`[N]` each, whose negative gradient `gradient` is: truncated term, bias correction."""


class Estimator(Protocol):
    """`Exact` or `Sampled`."""

    distribution: Distribution
    outputs: int
    """Width of the head of the policy."""
    heads: dict[str, Head]
    """What the network must have."""

    def estimates(
        self,
        policy: Policy,
        latents: Tensor,
        statistics: Tensor,
        batch: Rollout,
        rng: torch.Generator,
    ) -> Estimates:
        """Estimates for a segment.

        Args:
            policy: the network, whose heads are read.
            latents: `[(T + 1) * B + K, L]`, of all rows of `segments.observed`.
            statistics: `[(T + 1) * B + K, P]`, likewise.
            batch: the segment.
            rng: draws actions.
        """


class Exact:
    """Expectations over all actions, of a Discrete space or of a small product of factors.

    Args:
        sizes: numbers of choices of the factors, learnt as one distribution over their
            combinations; or that of a Discrete space.
        single: the space is Discrete.
        gamma: discount.
        c: level of the truncation of the importance ratios.
    """

    def __init__(self, sizes: tuple[int, ...], single: bool, gamma: float, c: float) -> None:
        base = Probabilities()
        self.distribution: Distribution = base if single else Joint(base, sizes)
        self.sizes, self.single = sizes, single
        self.gamma, self.c = gamma, c
        self.outputs = math.prod(sizes)
        self.heads = {"policy": Head(self.outputs), "q": Head(self.outputs)}

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
            q_ret = _retrace(batch, q_taken, values, rho_taken, self.gamma)
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
                losses=acer_losses(*terms),
            )


class Sampled:
    """Expectations by draws from the policy, for boxes and for large products of factors.

    Args:
        distribution: of the actions, which have several components.
        outputs: width of the head of the policy.
        dimensions: number `d` of components of an action.
        gamma: discount.
        c: level of the truncation of the importance ratios.
        draws: number `M` of actions drawn per state, >= 2.
        dueling: tie Q to V by the stochastic dueling network; if not, the head is Q itself.
        q_opc: weigh the policy gradient by off-policy corrected returns; if not, by Retrace's.
        trace_root: let the traces be `min(1, rho^(1 / d))`; if not, `min(1, rho)`.
        bounds: lowest and highest action `[D]` of a box: beyond them all actions are the same to
            the environment, and so they are to the critic; None for factors.
    """

    def __init__(
        self,
        distribution: Distribution,
        outputs: int,
        dimensions: int,
        gamma: float,
        c: float,
        draws: int,
        dueling: bool,
        q_opc: bool,
        trace_root: bool,
        bounds: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.distribution = distribution
        self.outputs = outputs
        self.root = 1.0 / dimensions if trace_root else 1.0
        self.gamma, self.c = gamma, c
        self.draws, self.dueling, self.q_opc = draws, dueling, q_opc
        self.bounds = bounds
        self.heads = {"policy": Head(outputs), "value": Head(1), "advantage": Head(1, outputs)}

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
        drawn = distribution.sample(many.cpu(), rng).to(f.device)

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
            q_ret = _retrace(batch, q, values, traces, self.gamma)
            returns = q_ret
            if self.q_opc:
                returns = _retrace(batch, q, values, torch.ones_like(rho), self.gamma)
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
            losses = acer_sampled_losses(
                log_probs, rho, advantages, log_drawn, rho_drawn, advantages_drawn, self.c
            )
            return Estimates(
                gradient=gradient,
                outputs=[q, v],
                errors=[q - q_ret, self._value_errors(v, q_ret, q, rho)],
                q=q.detach(),
                q_ret=q_ret,
                values=values[:n],
                advantages=advantages,
                rho=rho,
                losses=losses,
            )

    def _value_errors(self, v: Tensor, q_ret: Tensor, q: Tensor, rho: Tensor) -> Tensor:
        """`V - V_target` where an action was taken, 0 in the rows that only bootstrap."""
        acted = v[: len(q)]
        errors = torch.zeros_like(v)
        errors[: len(q)] = acted - v_target(acted, q_ret, q, rho)
        return errors

    def _inputs(self, actions: Tensor) -> Tensor:
        """Actions as the critic reads them: factors as one-hots side by side, boxes clipped."""
        if isinstance(self.distribution, Factored):
            return self.distribution.one_hots(actions)
        assert self.bounds is not None
        low, high = (bound.to(actions.device) for bound in self.bounds)
        return actions.clamp(low, high)


def _retrace(batch: Rollout, q: Tensor, values: Tensor, rho: Tensor, gamma: float) -> Tensor:
    """Retrace targets `[T * B]` with traces `min(1, rho)`; `values` are those of all rows."""
    shape = batch.rewards.shape
    step_values, final_values = segments.by_step(batch, values)
    return retrace(
        batch.rewards,
        q.view(shape),
        step_values,
        rho.view(shape),
        batch.terminated,
        batch.truncated,
        final_values,
        gamma,
    ).flatten()


def estimator_of(
    space: spaces.Space[Any],
    *,
    gamma: float,
    correction_term: float,
    joint_actions: int,
    sdn: bool,
    sdn_samples: int,
    q_opc: bool,
    trace_root: bool,
) -> Estimator:
    """The estimator for actions in `space`; the rest are hyperparameters of `ACER`.

    Raises:
        UserError: nothing can act in this space.
    """
    sizes = factors(space)
    single = isinstance(space, spaces.Discrete)
    if single or (sizes and math.prod(sizes) <= joint_actions):
        return Exact(sizes, single, gamma, correction_term)
    distribution, outputs = distribution_of(space, Probabilities())
    bounds = None
    if isinstance(space, spaces.Box):
        low, high = as_acted(space, np.stack([space.low, space.high])).astype(np.float32)
        bounds = torch.from_numpy(low), torch.from_numpy(high)
    return Sampled(
        distribution,
        outputs,
        len(sizes) or outputs,
        gamma,
        correction_term,
        sdn_samples,
        sdn,
        q_opc,
        trace_root,
        bounds,
    )
