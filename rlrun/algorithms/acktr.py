"""ACKTR: actor-critic using Kronecker-factored trust region (arXiv 1708.05144).

The data flow is that of A2C: a segment from all environments, then one update. The step is the
natural gradient of actor and critic together, by K-FAC, scaled back to a trust region. The Fisher
matrix is that of `p(a, v | s) = pi(a | s) N(v; V(s), sigma^2)`; its samples are the actions of
the segment, which the very same weights have drawn, and normal noise on the values.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms import advantage, segments
from rlrun.algorithms.acting import Acting
from rlrun.data.replay import ReplayMemory
from rlrun.data.rewards import RewardScale
from rlrun.data.rollout import Rollout
from rlrun.envs import Interface
from rlrun.functional import schedules
from rlrun.functional.distributions.gaussian import FISHER_LOG_STD
from rlrun.optim.kfac import KFAC
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.base import Head, Policy
from rlrun.schema import (
    Fraction,
    LogDeviation,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UserError,
)
from rlrun.transfer import sent

WIDEST = 16384  # inputs of a layer: its factor takes a gigabyte, and hours to decompose
MEASURED = 256  # states at most, or one environment, in which the KL of a step is measured


class ACKTR(Acting):
    """The algorithm, its network, optimiser and generator.

    Args:
        policy: network with the heads of `ACKTR.heads`.
        envs: what it learns from; only their number and spaces are read.
        rng: draws the noise on the values in the samples for the Fisher matrix.
        lr_schedule: factor on the learning rate as a function of progress.
        gamma: discount.
        n_steps: length of a segment, in steps per environment.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss, which has no half.
        vf_fisher_coef: of the sampled value loss `coef (V - v)^2`: the critic is a Gaussian
            with `sigma = 1 / (2 coef)`. 0.5 gives the Gauss-Newton matrix.
        learning_rate: longest step (the paper's `eta_max`).
        max_grad_norm: bound on the norm of the gradients while the statistics settle.
        kfac_clip: bound on `lr^2 u . g`, twice the predicted KL of a step (the paper's `2 delta`).
        kfac_update: updates from one decomposition of the factors to the next.
        async_eigen_decomp: decompose in a thread beside the training, and use the result
            `eigen_lag` updates later, whenever it is done.
        gae_lambda: of generalised advantages; None for n-step returns.
        momentum: of the steps.
        damping: added to the curvature.
        damping_rule: `exact`, by eigendecompositions, or `factored`, by Cholesky inverses:
            several times faster for the wide layers of `policy=cnn`, a little worse for small ones.
        stats_decay: share of the factors that stays at each update.
        cold_iter: first updates, with the plain gradient, in which the statistics settle.
        cold_learning_rate: rate of these; None for `learning_rate`.
        warm_max_grad_norm: bound on the norm of the gradients after that; None for no bound.
        eigen_lag: updates from the beginning of a decomposition to its use; None for
            `kfac_update` if it is asynchronous, else 0.
        conv_factors: `expand` or `reduce`: statistics of all patches of a convolution, or of
            the mean patch of each picture, which learns as well in half the time.
        bias: `homogeneous`: part of the weight's matrix; `separate`: a block of its own.
        vf_kfac_clip: `kfac_clip` of what only the critic uses; None: one bound for both.
        normalize_rewards: divide them by the running deviation of their discounted sums.
        log_std_init: where the logarithm of the Gaussian's deviation starts, for Box actions.
    """

    actor: ActorCritic
    optimizer: KFAC
    memory: ReplayMemory | None = None

    def __init__(
        self,
        policy: Policy,
        envs: Interface,
        rng: torch.Generator,
        lr_schedule: Callable[[float], float] = schedules.linear,
        *,
        gamma: Fraction = 0.99,
        n_steps: PositiveInt = 20,
        ent_coef: NonNegativeFloat = 0.01,
        vf_coef: NonNegativeFloat = 0.25,
        vf_fisher_coef: PositiveFloat = 1.0,
        learning_rate: PositiveFloat = 0.25,
        max_grad_norm: PositiveFloat | None = 0.5,
        kfac_clip: PositiveFloat = 0.001,
        kfac_update: PositiveInt = 10,
        async_eigen_decomp: bool = False,
        gae_lambda: Fraction | None = None,
        momentum: Fraction = 0.9,
        damping: PositiveFloat = 0.01,
        damping_rule: Literal["exact", "factored"] = "exact",
        stats_decay: Fraction = 0.99,
        cold_iter: NonNegativeInt = 10,
        cold_learning_rate: PositiveFloat | None = None,
        warm_max_grad_norm: PositiveFloat | None = None,
        eigen_lag: NonNegativeInt | None = None,
        conv_factors: Literal["expand", "reduce"] = "reduce",
        bias: Literal["homogeneous", "separate"] = "homogeneous",
        vf_kfac_clip: PositiveFloat | None = None,
        normalize_rewards: bool = False,
        log_std_init: LogDeviation = 0.0,
    ) -> None:
        self.actor = ActorCritic(policy, envs.action_space, log_std_init)
        self.device = next(policy.parameters()).device
        if eigen_lag is None:
            eigen_lag = kfac_update if async_eigen_decomp else 0
        widest = max(p[0].numel() for p in self.actor.parameters() if p.dim() > 1)
        if widest > WIDEST:
            raise UserError(
                f"policy: a layer of {widest} inputs needs a factor of {widest} x {widest}, which "
                f"ACKTR could not decompose in any useful time; at most {WIDEST}. Shrink pictures "
                f"with gymnasium.wrappers.ResizeObservation (84 x 84 need 3137), or use algo=a2c"
            )
        policy_parameters, value_parameters = self.actor.split(envs.observation_space)
        try:
            self.optimizer = KFAC(
                self.actor,
                learning_rate,
                momentum,
                damping,
                {"policy": kfac_clip, "value": vf_kfac_clip} if vf_kfac_clip else kfac_clip,
                stats_decay,
                kfac_update,
                cold_iter,
                damping_rule=damping_rule,
                sharing=conv_factors,
                bias=bias,
                cold_lr=cold_learning_rate,
                cold_max_grad_norm=max_grad_norm or float("inf"),
                max_grad_norm=warm_max_grad_norm or float("inf"),
                lag=eigen_lag,
                background=async_eigen_decomp,
                fisher={} if self.actor.log_std is None else {"log_std": FISHER_LOG_STD},
                groups={"policy": policy_parameters, "value": value_parameters},
            )
        except ValueError as error:
            raise UserError(
                f"policy: ACKTR cannot train this network: {error}. Use Linear, Conv2d and "
                f"LayerNorm layers alone, or algo=a2c"
            ) from error
        self.rng = rng
        self.state_size = policy.state_size
        self.n_statistics = self.actor.n_statistics
        self.reward_scale = RewardScale(gamma, envs.n_envs) if normalize_rewards else None
        self.lr_schedule = lr_schedule
        self.gamma = gamma
        self.n_steps = n_steps
        self.ent_coef = ent_coef
        self.vf_coef = vf_coef
        self.vf_fisher_coef = vf_fisher_coef
        self.learning_rate = learning_rate
        self.gae_lambda = gae_lambda
        self.normalize_advantage = self.actor.log_std is not None

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> list[str]:
        """A basis must be in use before the next one is begun, and a step must move something."""
        found = []
        lag, interval = values["eigen_lag"], values["kfac_update"]
        if lag is not None and lag > interval:
            found.append(f"eigen_lag: {lag} is more than kfac_update={interval}; lower it")
        if values["momentum"] == 1:
            found.append("momentum: 1 lets nothing new into the steps; lower it")
        return found

    @staticmethod
    def heads(action_space: spaces.Space[Any], values: Mapping[str, Any]) -> dict[str, Head]:
        """Outputs that the policy needs."""
        return ActorCritic.heads(action_space)

    def attach(self, envs: Interface) -> None:
        """Learn from these environments from now on; nothing is remembered of others."""
        if self.reward_scale is not None:
            self.reward_scale.begin(envs.n_envs)

    def compile(self, mode: str) -> None:
        """Refuse it: raises UserError."""
        raise UserError(
            f"compile: {mode}: ACKTR reads what goes through each layer, which compiled code does "
            f"not show. Use compile=none, or algo=acer or algo=a2c"
        )

    def update(
        self, rollout: Rollout, progress: float, log: bool, closely: bool = True
    ) -> dict[str, float]:
        """Statistics from the scores of the segment, then one natural-gradient step."""
        batch = rollout.to(self.device)
        if self.reward_scale is not None:
            self.reward_scale.observe(rollout)
            batch = replace(batch, rewards=self.reward_scale.scaled(batch.rewards))
        terms = self._captured(batch)
        loss = terms.policy_loss + self.vf_coef * terms.value_loss - self.ent_coef * terms.entropy
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        learning_rate = self.learning_rate * self.lr_schedule(progress)
        self.optimizer.step(learning_rate)
        metrics: dict[str, float] = {}
        if log:
            metrics = advantage.health(self.actor, terms, loss)
            metrics["optim/learning_rate"] = learning_rate
        if log and closely:
            metrics |= self._trust_region(batch, terms)
        if log:
            self.settle()
        self.actor.policy.observe(batch.observations[1:].flatten(0, 1))
        return metrics

    def _captured(self, batch: Rollout) -> advantage.Terms:
        """Take the statistics of the segment; returns what is to be learnt from it.

        One pass serves both where each layer sees the states that were acted in first: the
        observations that only bootstrap are no samples.
        """
        actions = batch.actions.flatten(0, 1)
        learning = self.gamma, self.gae_lambda, self.normalize_advantage
        if self.actor.policy.rows_in_order:
            with self.optimizer.capture(rows=len(actions)) as backward:
                terms = advantage.learn_terms(self.actor, batch, *learning)
                outputs = terms.statistics, terms.values
                backward(outputs, self._scores(*outputs, actions))
            return terms
        with self.optimizer.capture() as backward:
            statistics, values = self.actor(*segments.acted_in(batch))
            backward((statistics, values), self._scores(statistics, values, actions))
        return advantage.learn_terms(self.actor, batch, *learning)

    @torch.no_grad()
    def _scores(self, statistics: Tensor, values: Tensor, actions: Tensor) -> list[Tensor]:
        """Scores of one sample `a, v` per state (ACKTR, section 3.1), at statistics and values.

        That of the value is the derivative of `coef (V - v)^2` with `v` drawn around `V`. The
        scores are summed and not averaged, and no advantage weighs them.
        """
        noise = sent(torch.randn(values.shape, generator=self.rng), self.device).to(values)
        return [
            self.actor.distribution.score(statistics, actions),
            2.0 * self.vf_fisher_coef * noise,
        ]

    @torch.no_grad()
    def _trust_region(self, batch: Rollout, before: advantage.Terms) -> dict[str, float]:
        """The KL that the factors predicted for the step, the one it caused, and the curvature.

        What it caused is measured in some of the environments, evenly spread.
        """
        shape = batch.rewards.shape
        some = slice(None, None, math.ceil(batch.rewards.numel() / MEASURED))
        few = replace(
            batch,
            observations=batch.observations[:, some],
            reset=batch.reset[:, some],
            state=batch.state[some],
        )
        statistics, values = self.actor(*segments.acted_in(few))
        own_before, values_before = (
            of.view(*shape, *of.shape[1:])[:, some].flatten(0, 1)
            for of in (before.statistics, before.values)
        )
        sigma = 1.0 / (2.0 * self.vf_fisher_coef)
        policy_kl = self.actor.distribution.kl(own_before, statistics).mean().item()
        value_kl = 0.5 * ((values - values_before) / sigma).square().mean().item()
        metrics = {
            "trust_region/policy_kl": policy_kl,
            "trust_region/value_kl": value_kl,
            "trust_region/kl": policy_kl + value_kl,
        }
        health = self.optimizer.health()
        metrics["time/decomposition"] = health.pop("basis/seconds", 0.0)
        return metrics | {f"kfac_{name}": value for name, value in health.items()}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser, scale of the rewards, and generator."""
        return {
            "actor": self.actor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reward_scale": self.reward_scale and self.reward_scale.state_dict(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.actor.load_state_dict(state["actor"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.reward_scale is not None and state["reward_scale"] is not None:
            self.reward_scale.load_state_dict(state["reward_scale"])
        self.rng.set_state(state["rng"])
