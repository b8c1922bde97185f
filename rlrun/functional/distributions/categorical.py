"""The categorical distribution, told by its logits `[..., A]`; actions `[...]` int64."""

import torch
from torch import Tensor
from torch.nn import functional

from rlrun.functional.distributions import probabilities


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one action per row."""
    return probabilities.sample(logits.softmax(-1), generator)


def mode(logits: Tensor) -> Tensor:
    """The most probable action of each row."""
    return logits.argmax(-1)


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """`log pi(a)`, `[...]`."""
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """`H = -sum_a pi(a) log pi(a)` in nats, `[...]`."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def kl(reference: Tensor, logits: Tensor) -> Tensor:
    """`KL(reference || logits)` in nats, `[...]`."""
    log_probs = reference.log_softmax(-1)
    return (log_probs.exp() * (log_probs - logits.log_softmax(-1))).sum(-1)


def score(logits: Tensor, actions: Tensor) -> Tensor:
    """`d log pi(a) / d logits = onehot(a) - pi`, `[..., A]`; Fisher `diag(pi) - pi pi^T`."""
    return functional.one_hot(actions, logits.shape[-1]) - logits.softmax(-1)
