"""A policy and a state value on one network."""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.functional.distributions import Categorical
from rlrun.policies.actor import Actor, distribution_of
from rlrun.policies.base import Head, Policy, Segment
from rlrun.schema import UserError
from rlrun.spaces import example


class ActorCritic(Actor):
    """Statistics of the distribution of actions, and values.

    Args:
        policy: network with the heads of `ActorCritic.heads`.
        action_space: of one environment.
        log_std_init: where the logarithm of the standard deviation starts, for boxes.
    """

    def __init__(
        self, policy: Policy, action_space: spaces.Space[Any], log_std_init: float = 0.0
    ) -> None:
        super().__init__(policy, *distribution_of(action_space, Categorical()), log_std_init)

    @staticmethod
    def heads(action_space: spaces.Space[Any]) -> dict[str, Head]:
        """Logits or means of the policy, and one value; raises UserError for other spaces."""
        _, outputs = distribution_of(action_space, Categorical())
        return {"policy": Head(outputs), "value": Head(1)}

    def forward(self, observations: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Observations `[N, ...]` of a segment to statistics `[N, P]` and values `[N]`."""
        latents, _ = self.latents(self.policy.features(observations), segment)
        return self.statistics(latents), self.policy.head("value", latents).squeeze(-1)

    def split(self, space: spaces.Space[Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Trainable parameters that the statistics depend on, and those that only the values do.

        Args:
            space: of the observations.

        Raises:
            UserError: some serve neither.
        """
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        first = torch.ones(1, dtype=torch.bool, device=self.device)
        state = torch.zeros(1, self.policy.state_size, device=self.device)
        statistics, values = self(example(space).to(self.device), Segment.step(state, first))
        used = [
            torch.autograd.grad(
                output.sum(), list(named.values()), retain_graph=True, allow_unused=True
            )
            for output in (statistics, values)
        ]
        acting, valuing, idle = [], [], []
        for (name, p), by_statistics, by_values in zip(named.items(), *used, strict=True):
            if by_statistics is not None:
                acting.append(p)
            elif by_values is not None:
                valuing.append(p)
            else:
                idle.append(name)
        if idle:
            raise UserError(
                f"policy: no head depends on {', '.join(idle)}; leave it out of the network, or "
                f"call requires_grad_(False) on it"
            )
        return acting, valuing
