"""A policy and a state value on one network, and the distribution of the actions."""

import math

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.functional.distributions import Distribution, categorical, gaussian
from rlrun.policies.base import Policy
from rlrun.schema import UserError


class ActorCritic(nn.Module):
    """Statistics of the distribution of actions, and values.

    Discrete actions are categorical, those in boxes Gaussian with a standard deviation that does
    not depend on the state.

    Args:
        policy: network with the heads of `ActorCritic.heads`.
        action_space: of one environment.
        log_std_init: where the logarithm of the standard deviation starts, for boxes.
    """

    def __init__(
        self,
        policy: Policy,
        action_space: spaces.Space,  # type: ignore[type-arg]
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.distribution: Distribution = categorical
        self.log_std: nn.Parameter | None = None
        self.n_statistics = outputs = self.heads(action_space)["policy"]
        if isinstance(action_space, spaces.Box):
            device = next(policy.parameters()).device
            self.distribution = gaussian
            self.log_std = nn.Parameter(torch.full((outputs,), log_std_init, device=device))
            self.n_statistics = 2 * outputs

    @staticmethod
    def heads(action_space: spaces.Space) -> dict[str, int]:  # type: ignore[type-arg]
        """Logits or means of the policy, and one value; raises UserError for other spaces."""
        if isinstance(action_space, spaces.Discrete):
            return {"policy": int(action_space.n), "value": 1}
        if isinstance(action_space, spaces.Box) and action_space.dtype in ("float32", "float64"):
            return {"policy": math.prod(action_space.shape), "value": 1}
        raise UserError(
            f"algo: acktr and a2c act in Discrete spaces and in Box spaces of floats, "
            f"not in {action_space}."
        )

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Observations `[N, ...]` to statistics `[N, P]` and values `[N]`."""
        output, values = self.policy(self.policy.features(observations))
        return self._statistics(output), values.squeeze(-1)

    def statistics(self, observations: Tensor) -> Tensor:
        """Those of the distribution of actions alone, `[N, P]`."""
        return self._statistics(self.policy.head("policy", self.policy.features(observations)))

    def split(
        self,
        space: spaces.Space,  # type: ignore[type-arg]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Trainable parameters that the statistics depend on, and those that only the values do.

        Raises:
            UserError: some serve neither.
        """
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        observation = torch.as_tensor(space.sample()).unsqueeze(0)
        statistics, values = self(observation.to(next(self.parameters()).device))
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

    def _statistics(self, output: Tensor) -> Tensor:
        if self.log_std is None:
            return output
        return torch.cat([output, self.log_std.expand_as(output)], -1)

    @torch.no_grad()
    def act(self, observations: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample actions, `[B]` int64 or `[B, D]`; the statistics `[B, P]` behind them."""
        statistics = self._on_cpu(observations)
        return self.distribution.sample(statistics, rng), statistics

    @torch.no_grad()
    def act_greedily(self, observations: Tensor) -> Tensor:
        """The most probable actions."""
        return self.distribution.mode(self._on_cpu(observations))

    def _on_cpu(self, observations: Tensor) -> Tensor:
        return self.statistics(observations.to(next(self.parameters()).device)).cpu()
