"""The normal distribution with a diagonal covariance; statistics `[..., 2 D]`, actions `[..., D]`.

The statistics are the means followed by the logarithms of the standard deviations.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlrun.transfer import sent

FISHER_LOG_STD = 2.0
"""The Fisher matrix of the log-deviations is this times the identity, whatever they are."""


def split(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log-deviations, `[..., D]` each."""
    mean, log_std = statistics.chunk(2, -1)
    return mean, log_std


@dataclass(frozen=True)
class Gaussian:
    """Statistics: means `m`, then `log s`, `[..., 2 D]`; actions `[..., D]`."""

    def statistics(self, output: Tensor, log_std: Tensor | None) -> Tensor:
        """The means `[..., D]` and the log-deviations `[D]`, the same ones in every row."""
        if log_std is None:
            raise ValueError("a Gaussian needs log-deviations beside the means")
        return torch.cat([output, log_std.expand_as(output)], -1)

    def sample(self, statistics: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row, `[..., 2 D]` -> `[..., D]`."""
        mean, log_std = split(statistics)
        noise = torch.empty_like(mean, device=generator.device).normal_(generator=generator)
        return mean + log_std.exp() * sent(noise, mean.device)

    def mode(self, statistics: Tensor) -> Tensor:
        """The means, `[..., D]`."""
        return split(statistics)[0]

    def log_prob(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`log pi(a) = -sum_i [((a - m) / s)^2 / 2 + log s + log(2 pi) / 2]`, `[...]`."""
        mean, log_std = split(statistics)
        z = (actions - mean) * (-log_std).exp()
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, statistics: Tensor) -> Tensor:
        """`H = sum_i [log s + log(2 pi e) / 2]` in nats, `[...]`."""
        _, log_std = split(statistics)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def entropy_gradient(self, statistics: Tensor) -> Tensor:
        """`dH / dm = 0` and `dH / d log s = 1`, `[..., 2 D]`."""
        mean, log_std = split(statistics)
        return torch.cat([torch.zeros_like(mean), torch.ones_like(log_std)], -1)

    def kl(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`KL(reference || statistics)` in nats, `[...]`."""
        (mean, log_std), (mean_r, log_std_r) = split(statistics), split(reference)
        inverse = (-2.0 * log_std).exp()
        spread = ((2.0 * log_std_r).exp() + (mean_r - mean).square()) * inverse
        return (log_std - log_std_r + 0.5 * spread - 0.5).sum(-1)

    def kl_gradient(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`(m - m_r) / s^2` and `1 - (s_r^2 + (m_r - m)^2) / s^2`, `[..., 2 D]`."""
        (mean, log_std), (mean_r, log_std_r) = split(statistics), split(reference)
        inverse = (-2.0 * log_std).exp()
        spread = ((2.0 * log_std_r).exp() + (mean_r - mean).square()) * inverse
        return torch.cat([(mean - mean_r) * inverse, 1.0 - spread], -1)

    def score(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`(a - m) / s^2` and `((a - m) / s)^2 - 1`, `[..., 2 D]`; Fisher `1 / s^2` and `2`."""
        mean, log_std = split(statistics)
        inverse = (-log_std).exp()
        z = (actions - mean) * inverse
        return torch.cat([z * inverse, z.square() - 1.0], -1)
