"""The normal distribution with a diagonal covariance; statistics `[..., 2 D]`, actions `[..., D]`.

The statistics are the means followed by the logarithms of the standard deviations.
"""

import math

import torch
from torch import Tensor

FISHER_LOG_STD = 2.0
"""The Fisher matrix of the log-deviations is this times the identity, whatever they are."""


def split(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log-deviations, `[..., D]` each."""
    mean, log_std = statistics.chunk(2, -1)
    return mean, log_std


def sample(statistics: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one action per row."""
    mean, log_std = split(statistics)
    noise = torch.empty_like(mean).normal_(generator=generator)
    return mean + log_std.exp() * noise


def mode(statistics: Tensor) -> Tensor:
    """The means."""
    return split(statistics)[0]


def log_prob(statistics: Tensor, actions: Tensor) -> Tensor:
    """`log pi(a) = -sum_i [((a - m) / s)^2 / 2 + log s + log(2 pi) / 2]`, `[...]`."""
    mean, log_std = split(statistics)
    z = (actions - mean) * (-log_std).exp()
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def entropy(statistics: Tensor) -> Tensor:
    """`H = sum_i [log s + log(2 pi e) / 2]` in nats, `[...]`."""
    _, log_std = split(statistics)
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def kl(reference: Tensor, statistics: Tensor) -> Tensor:
    """`KL(reference || statistics)` in nats, `[...]`."""
    (mean, log_std), (mean_r, log_std_r) = split(statistics), split(reference)
    inverse = (-2.0 * log_std).exp()
    spread = ((2.0 * log_std_r).exp() + (mean_r - mean).square()) * inverse
    return (log_std - log_std_r + 0.5 * spread - 0.5).sum(-1)


def score(statistics: Tensor, actions: Tensor) -> Tensor:
    """`(a - m) / s^2` and `((a - m) / s)^2 - 1`, `[..., 2 D]`; Fisher `1 / s^2` and `2`."""
    mean, log_std = split(statistics)
    inverse = (-log_std).exp()
    z = (actions - mean) * inverse
    return torch.cat([z * inverse, z.square() - 1.0], -1)
