"""A2C: the synchronous form of A3C (arXiv 1602.01783), the baseline of both papers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms import advantage
from rlrun.algorithms.acting import Acting
from rlrun.data.replay import ReplayMemory
from rlrun.data.rewards import RewardScale
from rlrun.data.rollout import Rollout
from rlrun.envs import Interface
from rlrun.functional import schedules
from rlrun.optim.rmsprop import RMSprop
from rlrun.policies.actor_critic import ActorCritic
from rlrun.policies.base import Head, Policy
from rlrun.schema import Fraction, LogDeviation, NonNegativeFloat, PositiveFloat, PositiveInt


class A2C(Acting):
    """The algorithm, its network and its optimiser.

    Args:
        policy: network with the heads of `A2C.heads`.
        envs: what it learns from; only their number and spaces are read.
        rng: not used; A2C draws nothing but actions.
        lr_schedule: factor on the learning rate as a function of progress.
        gamma: discount.
        n_steps: length of a segment, in steps per environment.
        vf_coef: weight of the value loss, which has no half.
        ent_coef: weight of the entropy bonus.
        max_grad_norm: bound on the joint norm of the gradients; None for no bound.
        learning_rate: initial rate of RMSprop.
        alpha: decay of RMSprop's mean squares.
        epsilon: of RMSprop, inside the root.
        gae_lambda: of generalised advantages; None for n-step returns.
        normalize_advantage: give the advantages of a segment mean 0 and deviation 1.
        normalize_rewards: divide them by the running deviation of their discounted sums.
        log_std_init: where the logarithm of the Gaussian's deviation starts, for Box actions.
    """

    actor: ActorCritic
    optimizer: RMSprop
    memory: ReplayMemory | None = None

    def __init__(
        self,
        policy: Policy,
        envs: Interface,
        rng: torch.Generator,
        lr_schedule: Callable[[float], float] = schedules.linear,
        *,
        gamma: Fraction = 0.99,
        n_steps: PositiveInt = 5,
        vf_coef: NonNegativeFloat = 0.25,
        ent_coef: NonNegativeFloat = 0.01,
        max_grad_norm: PositiveFloat | None = 0.5,
        learning_rate: PositiveFloat = 7e-4,
        alpha: Fraction = 0.99,
        epsilon: PositiveFloat = 1e-5,
        gae_lambda: Fraction | None = None,
        normalize_advantage: bool = False,
        normalize_rewards: bool = False,
        log_std_init: LogDeviation = 0.0,
    ) -> None:
        self.actor = ActorCritic(policy, envs.action_space, log_std_init)
        self.actor.split(envs.observation_space)  # raises if a parameter serves nothing
        self.parameters: list[Tensor] = [p for p in self.actor.parameters() if p.requires_grad]
        self.optimizer = RMSprop(self.parameters, alpha, epsilon)
        self.device = self.parameters[0].device
        self.state_size = policy.state_size
        self.n_statistics = self.actor.n_statistics
        self.reward_scale = RewardScale(gamma, envs.n_envs) if normalize_rewards else None
        self.lr_schedule = lr_schedule
        self.gamma = gamma
        self.n_steps = n_steps
        self.vf_coef = vf_coef
        self.ent_coef = ent_coef
        self.max_grad_norm = float("inf") if max_grad_norm is None else max_grad_norm
        self.learning_rate = learning_rate
        self.gae_lambda = gae_lambda
        self.normalize_advantage = normalize_advantage

    @staticmethod
    def heads(action_space: spaces.Space[Any], values: Mapping[str, Any]) -> dict[str, Head]:
        """Outputs that the policy needs."""
        return ActorCritic.heads(action_space)

    def attach(self, envs: Interface) -> None:
        """Learn from these environments from now on; nothing is remembered of others."""
        if self.reward_scale is not None:
            self.reward_scale.begin(envs.n_envs)

    def compile(self, mode: str) -> None:
        """Run the network by `torch.compile`, in this mode of it."""
        self.actor.compile_encoder(mode)

    def update(
        self, rollout: Rollout, progress: float, log: bool, closely: bool = True
    ) -> dict[str, float]:
        """One gradient step from the fresh segment."""
        batch = rollout.to(self.device)
        if self.reward_scale is not None:
            self.reward_scale.observe(rollout)
            batch = replace(batch, rewards=self.reward_scale.scaled(batch.rewards))
        terms = advantage.learn_terms(
            self.actor, batch, self.gamma, self.gae_lambda, self.normalize_advantage
        )
        loss = terms.policy_loss + self.vf_coef * terms.value_loss - self.ent_coef * terms.entropy
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        learning_rate = self.learning_rate * self.lr_schedule(progress)
        grad_norm = self.optimizer.step(learning_rate, self.max_grad_norm)
        self.actor.policy.observe(batch.observations[1:].flatten(0, 1))
        if not log:
            return {}
        self.settle()
        metrics = {"optim/learning_rate": learning_rate, "optim/grad_norm": grad_norm.item()}
        return advantage.health(self.actor, terms, loss) | metrics

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and the scale of the rewards."""
        self.settle()
        return {
            "actor": self.actor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reward_scale": self.reward_scale and self.reward_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.optimizer.require_finite.forget()
        self.actor.load_state_dict(state["actor"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.reward_scale is not None and state["reward_scale"] is not None:
            self.reward_scale.load_state_dict(state["reward_scale"])
