"""ACER: actor-critic with experience replay, for discrete actions (arXiv 1611.01224).

One iteration collects `n_steps` steps in every environment, learns from that segment, and then
from a Poisson number of replayed ones, `replay_ratio` on average. Fresh and replayed segments
go through the same update: Retrace targets train the critic, a truncated and bias-corrected
policy gradient trains the actor, and a trust region keeps it close to a running average of
itself. There is no head for V: it is the mean of Q under the policy.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.algorithms.acer_health import Terms, health, replay_health
from rlrun.data.replay import ReplayMemory
from rlrun.data.rollout import Rollout
from rlrun.envs import VectorEnv
from rlrun.functional import schedules
from rlrun.functional.distributions import probabilities
from rlrun.functional.importance import importance_ratio
from rlrun.functional.policy_gradient import acer_gradient
from rlrun.functional.returns import retrace
from rlrun.functional.trust_region import project_gradient, projection_size
from rlrun.optim.errors import require_finite
from rlrun.optim.rmsprop import RMSprop
from rlrun.policies.base import Policy
from rlrun.schema import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UserError,
)


class ACER:
    """The algorithm, its networks, optimiser, replay memory and generators.

    Args:
        policy: network with the heads of `ACER.heads`.
        envs: what it learns from; only their number, spaces and frame stack are read.
        rng: draws the number of replayed segments, and which.
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
        replay_ratio: mean number of replayed segments per fresh one (r); 0 for none.
        replay_start: steps per environment in the memory before replay begins.
        correction_term: level at which importance weights are truncated (c).
        trust_region: whether the policy gradient is projected.
        alpha: decay of the average policy.
        delta: bound of the trust region.
    """

    def __init__(
        self,
        policy: Policy,
        envs: VectorEnv,
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
        replay_ratio: Annotated[float, Range(0, 100)] = 4.0,
        replay_start: NonNegativeInt = 1000,
        correction_term: PositiveFloat = 10.0,
        trust_region: bool = True,
        alpha: Fraction = 0.99,
        delta: NonNegativeFloat = 1.0,
    ) -> None:
        if any(True for _ in policy.features.parameters()):
            raise UserError(
                f"policy: the features of {type(policy).__name__} have parameters; they belong "
                f"into its heads, since the running average of the policy shares the features"
            )
        self.policy = policy
        self.n_statistics = self.heads(envs.action_space)["policy"]
        self.average_policy = copy.deepcopy(policy).requires_grad_(False)
        self.parameters: list[Tensor] = list(policy.parameters())
        self.average_parameters: list[Tensor] = list(self.average_policy.parameters())
        self.optimizer = RMSprop(self.parameters, rprop_alpha, rprop_epsilon)
        self.memory = None
        if replay_ratio > 0:
            self.memory = ReplayMemory(
                slots=buffer_size // n_steps,
                n_steps=n_steps,
                n_envs=envs.n_envs,
                n_probs=self.n_statistics,
                space=envs.observation_space,
                frame_stack=envs.frame_stack,
            )
        self.replay_start = replay_start // n_steps  # in segments
        self.rng = rng
        self.device = self.parameters[0].device
        self.lr_schedule = lr_schedule
        self.gamma = gamma
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
    def heads(action_space: spaces.Space) -> dict[str, int]:  # type: ignore[type-arg]
        """Logits of the policy and action values, one each per action."""
        if not isinstance(action_space, spaces.Discrete):
            hint = " Use algo=acktr or algo=a2c." if isinstance(action_space, spaces.Box) else ""
            raise UserError(f"algo=acer acts in Discrete spaces only, not in {action_space}.{hint}")
        return {"policy": int(action_space.n), "q": int(action_space.n)}

    @torch.no_grad()
    def act(self, observations: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample actions `[B]` from the probabilities `[B, A]` that are returned with them."""
        probs = self._probs(observations)
        return probabilities.sample(probs, rng), probs

    @torch.no_grad()
    def act_greedily(self, observations: Tensor) -> Tensor:
        """The most probable actions, `[B]`."""
        return self._probs(observations).argmax(-1)

    def _probs(self, observations: Tensor) -> Tensor:
        features = self.policy.features(observations.to(self.device))
        return self.policy.head("policy", features).softmax(-1).cpu()

    def update(self, rollout: Rollout, progress: float, log: bool) -> dict[str, float]:
        """One update from the fresh segment, then a Poisson number of replayed ones."""
        learning_rate = self.learning_rate * self.lr_schedule(progress)
        metrics = self._learn(rollout, learning_rate, log, norms=log)
        metrics["optim/learning_rate"] = learning_rate
        replayed: list[dict[str, float]] = []
        if self.memory is not None:
            self.memory.push(rollout)
            if len(self.memory) >= self.replay_start:
                mean = torch.tensor(float(self.replay_ratio))
                for _ in range(int(torch.poisson(mean, generator=self.rng))):
                    batch, ages = self.memory.sample(self.rng)
                    stats = self._learn(batch, learning_rate, log)
                    replayed.append(stats | {"replay/age": ages.float().mean().item()})
        self.policy.observe(rollout.observations[1:].flatten(0, 1))
        if not log:
            return {}
        if self.memory is not None:
            metrics["replay/updates"] = len(replayed)
            metrics["replay/slots"] = len(self.memory)
        return metrics | replay_health(replayed)

    def _learn(
        self, batch: Rollout, learning_rate: float, log: bool, norms: bool = False
    ) -> dict[str, float]:
        """One gradient step on a segment per environment, fresh or replayed.

        With `norms`, two more backward passes tell how much each of the losses pulls.
        """
        batch = batch.to(self.device)
        n = batch.actions.numel()
        observations = batch.observations.flatten(0, 1)
        if len(batch.final_index):
            observations = torch.cat([observations, batch.final_observations])
        features = self.policy.features(observations)
        logits, q = self.policy(features)
        probs = logits.softmax(-1)
        f, q_all = probs[:n], q[:n]  # the states that were acted in; the others only bootstrap
        actions = batch.actions.flatten()
        q_taken = q_all.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

        with torch.no_grad():
            average = self.average_policy.head("policy", features[:n]).softmax(-1)
            values = (probs * q).sum(-1)
            rho = importance_ratio(f, batch.behaviour.flatten(0, 1))
            rho_taken = rho.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
            q_ret = self._q_ret(batch, q_taken, values, rho_taken)
            terms = Terms(f, rho, actions, q_ret, q_all, values[:n], self.correction_term)
            g = acer_gradient(*terms) + self.ent_coef * probabilities.entropy_gradient(f)
            k = probabilities.kl_gradient(average, f)
            z = project_gradient(g, k, self.delta) if self.trust_region else g
            q_error = q_taken - q_ret

        stats: dict[str, float] = {}
        if log:
            adjustment = projection_size(g, k, self.delta) * float(self.trust_region)
            stats = health(terms, average, adjustment, g, k, z, self.q_coef, self.ent_coef)
        if norms:
            stats["optim/grad_norm_policy"] = self._grad_norm(f, -z / n)
            stats["optim/grad_norm_q"] = self._grad_norm(q_taken, self.q_coef / n * q_error)

        self.optimizer.zero_grad()
        torch.autograd.backward([f, q_taken], [-z / n, self.q_coef / n * q_error])
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        require_finite({"gradient": grad_norm})
        self.optimizer.step(learning_rate)
        torch._foreach_lerp_(self.average_parameters, self.parameters, 1.0 - self.alpha)
        if log:
            stats["optim/grad_norm"] = grad_norm.item()
        return stats

    def _grad_norm(self, output: Tensor, gradient: Tensor) -> float:
        """Norm over all parameters of what flows back from one output."""
        gradients = torch.autograd.grad(
            output, self.parameters, gradient, retain_graph=True, allow_unused=True
        )
        return nn.utils.get_total_norm([g for g in gradients if g is not None]).item()

    def _q_ret(self, batch: Rollout, q: Tensor, values: Tensor, rho: Tensor) -> Tensor:
        """Retrace targets, `[T * B]`; `values` hold those of the final observations last."""
        shape = batch.actions.shape
        steps = (len(batch.actions) + 1) * shape[1]
        final_values = torch.zeros_like(batch.rewards)
        final_values[batch.final_index[:, 0], batch.final_index[:, 1]] = values[steps:]
        return retrace(
            batch.rewards,
            q.view(shape),
            values[:steps].view(-1, shape[1]),
            rho.view(shape),
            batch.terminated,
            batch.truncated,
            final_values,
            self.gamma,
        ).flatten()

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, generators, and the memory without its entries."""
        return {
            "policy": self.policy.state_dict(),
            "average_policy": self.average_policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "memory": None if self.memory is None else self.memory.state_dict(),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self.average_policy.load_state_dict(state["average_policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        self.rng.set_state(state["rng"])
