"""The categorical distribution, told by its logits `[..., A]`; actions `[...]` int64."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rlrun.functional.distributions.probabilities import Probabilities


@dataclass(frozen=True)
class Categorical:
    """Statistics: logits `[..., A]` of `pi`; actions `[...]` int64."""

    def statistics(self, output: Tensor, log_std: Tensor | None) -> Tensor:
        """The logits themselves, `[..., A]`."""
        return output

    def sample(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row, `[..., A]` -> `[...]` int64."""
        return Probabilities().sample(logits.softmax(-1), generator)

    def mode(self, logits: Tensor) -> Tensor:
        """The most probable action of each row, `[..., A]` -> `[...]` int64."""
        return logits.argmax(-1)

    def log_prob(self, logits: Tensor, actions: Tensor) -> Tensor:
        """`log pi(a)`, `[...]`."""
        return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """`H = -sum_a pi(a) log pi(a)` in nats, `[...]`."""
        log_probs = logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def entropy_gradient(self, logits: Tensor) -> Tensor:
        """`dH / d logits = -pi (log pi + H)`, `[..., A]`."""
        log_probs = logits.log_softmax(-1)
        probs = log_probs.exp()
        entropy = -(probs * log_probs).sum(-1, keepdim=True)
        return -probs * (log_probs + entropy)

    def kl(self, reference: Tensor, logits: Tensor) -> Tensor:
        """`KL(reference || logits)` in nats, `[...]`."""
        log_probs = reference.log_softmax(-1)
        return (log_probs.exp() * (log_probs - logits.log_softmax(-1))).sum(-1)

    def kl_gradient(self, reference: Tensor, logits: Tensor) -> Tensor:
        """`d KL(reference || logits) / d logits = pi - pi_reference`, `[..., A]`."""
        return logits.softmax(-1) - reference.softmax(-1)

    def score(self, logits: Tensor, actions: Tensor) -> Tensor:
        """`d log pi(a) / d logits = onehot(a) - pi`, `[..., A]`; Fisher `diag(pi) - pi pi^T`."""
        return functional.one_hot(actions, logits.shape[-1]) - logits.softmax(-1)
