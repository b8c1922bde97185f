"""ACER: actor-critic with experience replay (arXiv 1611.01224).

One iteration collects `n_steps` steps in every environment, learns from that segment, and then
from a Poisson number of replayed ones, `replay_ratio` on average. Fresh and replayed segments
go through the same update: Retrace targets train the critic, a truncated and bias-corrected
policy gradient trains the actor, and a trust region keeps it close to a running average of
itself. `acer_exact` and `acer_sampled` say how the targets and the gradient come about: by visiting
all actions, or by sampling them.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.algorithms import segments
from rlrun.algorithms.acer_estimates import Estimator
from rlrun.algorithms.acer_exact import Exact, can_visit_all
from rlrun.algorithms.acer_health import fetched, health, pull_norm, replay_health
from rlrun.algorithms.acer_sampled import Sampled
from rlrun.algorithms.acting import Acting
from rlrun.data.replay import Place, ReplayMemory
from rlrun.data.rewards import RewardScale
from rlrun.data.rollout import Rollout
from rlrun.envs import Interface
from rlrun.functional import schedules
from rlrun.functional.trust_region import project_gradient, projection_size
from rlrun.optim.rmsprop import RMSprop
from rlrun.policies.actor import Acted, Actor
from rlrun.policies.base import Head, Policy
from rlrun.schema import (
    Fraction,
    LogDeviation,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UserError,
)


class ACER(Acting):
    """The algorithm, its networks, optimiser, replay memory and generators.

    Args:
        policy: network with the heads of `ACER.heads`.
        envs: what it learns from; only their number, spaces and frame stack are read.
        rng: draws the number of replayed segments, which, and the actions that estimates need.
        lr_schedule: factor on the learning rate as a function of progress.
        gamma: discount.
        n_steps: length of a segment, in steps per environment (k).
        q_coef: weight of the critic's loss.
        ent_coef: weight of the entropy bonus, inside the trust region.
        max_grad_norm: bound on the joint norm of the gradients; None for no bound.
        learning_rate: initial rate of RMSprop.
        rprop_alpha: decay of RMSprop's mean squares.
        rprop_epsilon: epsilon of RMSprop, inside the root.
        buffer_size: capacity of the memory in steps *per environment*.
        replay_device: where its frames lie, see `ReplayMemory`; it changes no result.
        replay_ratio: mean number of replayed segments per fresh one (r); 0 for none.
        replay_start: steps per environment in the memory before replay begins.
        correction_term: level at which importance weights are truncated (c).
        trust_region: whether the policy gradient is projected.
        alpha: decay of the average policy.
        delta: bound of the trust region.
        normalize_rewards: divide them by the running deviation of their discounted sums; the
            memory keeps them raw.
        joint_actions: products of factors (MultiDiscrete, MultiBinary) of up to so many actions
            are learnt as one discrete space; larger ones factor by factor, by sampling.
        log_std_init: where the logarithm of the Gaussian's deviation starts, for Box actions.
        sdn: tie Q to V by a stochastic dueling network, where actions are sampled.
        sdn_samples: actions drawn per state for it, and for the bias correction.
        q_opc: weigh the policy gradient by off-policy corrected returns, where actions are
            sampled; if not, by Retrace's targets.
        trace_root: let the traces of Retrace be `min(1, rho^(1 / d))` for sampled actions of `d`
            components; if not, `min(1, rho)`.
    """

    optimizer: RMSprop

    def __init__(
        self,
        policy: Policy,
        envs: Interface,
        rng: torch.Generator,
        lr_schedule: Callable[[float], float] = schedules.linear,
        *,
        gamma: Fraction = 0.99,
        n_steps: PositiveInt = 20,
        q_coef: NonNegativeFloat = 0.5,
        ent_coef: NonNegativeFloat = 0.01,
        max_grad_norm: PositiveFloat | None = 10.0,
        learning_rate: PositiveFloat = 7e-4,
        rprop_alpha: Fraction = 0.99,
        rprop_epsilon: PositiveFloat = 1e-5,
        buffer_size: PositiveInt = 5000,
        replay_device: Place = "auto",
        replay_ratio: Annotated[float, Range(0, 100)] = 4.0,
        replay_start: NonNegativeInt = 1000,
        correction_term: PositiveFloat = 10.0,
        trust_region: bool = True,
        alpha: Fraction = 0.99,
        delta: NonNegativeFloat = 1.0,
        normalize_rewards: bool = False,
        joint_actions: NonNegativeInt = 256,
        log_std_init: LogDeviation = 0.0,
        sdn: bool = True,
        sdn_samples: Annotated[int, Range(2, 1000)] = 5,
        q_opc: bool = True,
        trace_root: bool = True,
    ) -> None:
        if any(True for _ in policy.features.parameters()):
            raise UserError(
                f"policy: the features of {type(policy).__name__} have parameters; they belong "
                f"into its heads, since the running average of the policy shares the features"
            )
        space = envs.action_space
        self.estimator: Estimator = (
            Exact(space, gamma, correction_term)
            if can_visit_all(space, joint_actions)
            else Sampled(space, gamma, correction_term, sdn_samples, sdn, q_opc, trace_root)
        )
        distribution, outputs = self.estimator.distribution, self.estimator.outputs
        self.actor = Actor(policy, distribution, outputs, log_std_init)
        self.average = copy.deepcopy(self.actor).requires_grad_(False)
        self.average.policy.features = policy.features
        self.n_statistics = self.actor.n_statistics
        self.state_size = 2 * policy.state_size  # that of the average policy comes second
        pairs = zip(self.actor.parameters(), self.average.parameters(), strict=True)
        trained = [(p, average) for p, average in pairs if p.requires_grad]
        self.parameters: list[Tensor] = [p for p, _ in trained]
        self.average_parameters: list[Tensor] = [average for _, average in trained]
        self.optimizer = RMSprop(self.parameters, rprop_alpha, rprop_epsilon)
        self.reward_scale = RewardScale(gamma, envs.n_envs) if normalize_rewards else None
        self.replay_device = replay_device
        self.slots = buffer_size // n_steps if replay_ratio > 0 else 0
        self.replay_start = replay_start // n_steps  # in segments
        self.rng = rng
        self.device = self.actor.device
        self.lr_schedule = lr_schedule
        self.n_steps = n_steps
        self.q_coef = q_coef
        self.ent_coef = ent_coef
        self.max_grad_norm = float("inf") if max_grad_norm is None else max_grad_norm
        self.learning_rate = learning_rate
        self.replay_ratio = replay_ratio
        self.correction_term = correction_term
        self.trust_region = trust_region
        self.alpha = alpha
        self.delta = delta
        self.attach(envs)

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> list[str]:
        """Rules across hyperparameters: replay must be possible if it is asked for."""
        if values["replay_ratio"] == 0:
            return []
        slots = values["buffer_size"] // values["n_steps"]
        if slots == 0:
            return [
                f"buffer_size: {values['buffer_size']} steps per environment hold no segment of "
                f"n_steps={values['n_steps']}; raise it, or set replay_ratio=0"
            ]
        if values["replay_start"] // values["n_steps"] > slots:
            return [
                f"replay_start: replay would never start, for the memory holds "
                f"buffer_size={values['buffer_size']} steps per environment, less than "
                f"{values['replay_start']}; lower it, raise buffer_size, or set replay_ratio=0"
            ]
        return []

    @staticmethod
    def heads(action_space: spaces.Space[Any], values: Mapping[str, Any]) -> dict[str, Head]:
        """A policy, and what the critic needs for these actions."""
        exact = can_visit_all(action_space, values["joint_actions"])
        return (Exact if exact else Sampled).heads(action_space)

    def attach(self, envs: Interface) -> None:
        """Learn from these environments from now on; nothing is remembered of others."""
        self.memory: ReplayMemory | None = None
        if self.slots:
            self.memory = ReplayMemory(
                slots=self.slots,
                n_steps=self.n_steps,
                n_envs=envs.n_envs,
                n_statistics=self.n_statistics,
                state_size=self.state_size,
                observations=envs.observation_space,
                actions=envs.action_space,
                frame_stack=envs.frame_stack,
                device=self.device,
                place=self.replay_device,
            )
        if self.reward_scale is not None:
            self.reward_scale.begin(envs.n_envs)

    def compile(self, mode: str) -> None:
        """Run both networks by `torch.compile`."""
        for network in self.actor, self.average:
            network.compile_encoder(mode)

    def act(
        self, observations: Tensor, reset: Tensor, state: Tensor, rng: torch.Generator | None
    ) -> Acted:
        """One step of `B` environments, as `Actor.act`.

        A policy with a memory lets its average look on, so that replayed segments begin with the
        states of both.
        """
        own, average = self._states(state)
        acted = super().act(observations, reset, own, rng)
        if self.state_size:
            _, average = self.average.encode(observations, reset, average)
            acted = acted._replace(state=torch.cat([acted.state, average.cpu()], -1))
        return acted

    def update(
        self, rollout: Rollout, progress: float, log: bool, closely: bool = True
    ) -> dict[str, float]:
        """One update from the fresh segment, then a Poisson number of replayed ones."""
        if self.reward_scale is not None:
            self.reward_scale.observe(rollout)
        closely = log and closely
        learning_rate = self.learning_rate * self.lr_schedule(progress)
        fresh = rollout.to(self.device)
        learnt, ages = [self._learn(fresh, learning_rate, log, True, closely)], []
        if self.memory is not None:
            self.memory.push(rollout)
            if len(self.memory) >= self.replay_start:
                mean = torch.tensor(float(self.replay_ratio))
                for _ in range(int(torch.poisson(mean, generator=self.rng))):
                    batch, age = self.memory.sample(self.rng)
                    learnt.append(self._learn(batch.to(self.device), learning_rate, closely))
                    ages.append(age.float().mean().item())
        self.actor.policy.observe(fresh.observations[1:].flatten(0, 1))
        if not log:
            return {}
        metrics, *replayed = fetched(learnt)
        self.settle()
        metrics["optim/learning_rate"] = learning_rate
        if self.memory is not None:
            metrics |= {"replay/updates": len(replayed), "replay/slots": len(self.memory)}
        return metrics | (replay_health(replayed, ages) if closely else {})

    def _learn(
        self, batch: Rollout, rate: float, log: bool, fresh: bool = False, norms: bool = False
    ) -> dict[str, Tensor]:
        """One gradient step on a segment per environment; `norms`: tell the pull of each loss."""
        if self.reward_scale is not None:
            batch = replace(batch, rewards=self.reward_scale.scaled(batch.rewards))
        n = batch.rewards.numel()
        own_state, average_state = self._states(batch.state)
        observations, segment = segments.observed(replace(batch, state=own_state))
        policy = self.actor.policy
        features = policy.features(observations)
        with self.actor.recalling(batch.observations) if fresh else nullcontext():
            latents, _ = self.actor.latents(features, segment)
            statistics = self.actor.statistics(latents)
        f = statistics[:n]  # the states that were acted in; the others only bootstrap

        estimates = self.estimator.estimates(policy, latents, statistics, batch, self.rng)
        with torch.no_grad():
            _, segment = segments.acted_in(replace(batch, state=average_state))
            average = self.average.statistics(self.average.latents(features[:n], segment)[0])
            distribution = self.estimator.distribution
            g = estimates.gradient + self.ent_coef * distribution.entropy_gradient(f)
            k = distribution.kl_gradient(average, f)
            z = project_gradient(g, k, self.delta) if self.trust_region else g
            pulls = [-z / n, *(self.q_coef / n * error for error in estimates.errors)]
        outputs = [f, *estimates.outputs]

        stats: dict[str, Tensor] = {}
        if log:
            adjustment = projection_size(g, k, self.delta) * float(self.trust_region)
            of = estimates, distribution, f, average, adjustment, g, k, z
            stats = health(*of, self.correction_term, self.q_coef, self.ent_coef)
            if self.actor.log_std is not None:
                stats["policy/std"] = self.actor.log_std.detach().exp().mean()
        if norms:
            stats["optim/grad_norm_policy"] = pull_norm(self.parameters, outputs[:1], pulls[:1])
            stats["optim/grad_norm_q"] = pull_norm(self.parameters, outputs[1:], pulls[1:])
        self.optimizer.zero_grad()
        torch.autograd.backward(outputs, pulls)
        grad_norm = self.optimizer.step(rate, self.max_grad_norm)
        torch._foreach_lerp_(self.average_parameters, self.parameters, 1.0 - self.alpha)
        if log:
            stats["optim/grad_norm"] = grad_norm
        return stats

    def follow(self) -> None:
        """Let the average policy be the policy, whose weights somebody else has changed."""
        self.average.load_state_dict(self.actor.state_dict())

    def _states(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """That of the policy and that of its average, `[B, S]` -> `[B, S / 2]` each."""
        half = self.state_size // 2
        return state[:, :half], state[:, half:]

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, scale of rewards, generator, and the memory without its entries."""
        self.settle()
        return {
            "actor": self.actor.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reward_scale": self.reward_scale and self.reward_scale.state_dict(),
            "memory": None if self.memory is None else self.memory.state_dict(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; without its memory, where that was left out."""
        self.optimizer.require_finite.forget()
        self.actor.load_state_dict(state["actor"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.reward_scale is not None and state["reward_scale"] is not None:
            self.reward_scale.load_state_dict(state["reward_scale"])
        if self.memory is not None and state["memory"] is not None:
            self.memory.load_state_dict(state["memory"])
        self.rng.set_state(state["rng"])
