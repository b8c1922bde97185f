"""The categorical distribution told by its probabilities `[..., A]`, the statistics of ACER."""

import torch
from torch import Tensor

EPSILON = 1e-6  # inside logarithms and divisions, as in the published implementations


def sample(probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one action per row, `[..., A]` -> `[...]` int64.

    The action that first fires among independent exponential clocks of rates `probs` is
    distributed as `probs`; this takes one draw per action and no cumulative sum.
    """
    clocks = torch.empty_like(probs).exponential_(generator=generator)
    return (probs / clocks).argmax(-1)


def entropy(probs: Tensor) -> Tensor:
    """`H = -sum_a f(a) log f(a)` in nats, `[..., A]` -> `[...]`."""
    return -(probs * (probs + EPSILON).log()).sum(-1)


def entropy_gradient(probs: Tensor) -> Tensor:
    """`dH / df`, `[..., A]` -> `[..., A]`."""
    return -(probs + EPSILON).log() - probs / (probs + EPSILON)


def kl(reference: Tensor, probs: Tensor) -> Tensor:
    """`KL(reference || probs)` in nats, `[..., A]` -> `[...]`."""
    return (reference * ((reference + EPSILON).log() - (probs + EPSILON).log())).sum(-1)


def kl_gradient(reference: Tensor, probs: Tensor) -> Tensor:
    """`d KL(reference || probs) / d probs = -reference / probs`, `[..., A]` -> `[..., A]`."""
    return -reference / (probs + EPSILON)
