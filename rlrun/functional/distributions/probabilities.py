"""The categorical distribution told by its probabilities `[..., A]`, the statistics of ACER."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rlrun.transfer import sent

EPSILON = 1e-6  # inside logarithms and divisions, as in the published implementations


@dataclass(frozen=True)
class Probabilities:
    """Statistics `f`, `[..., A]`; actions `[...]` int64.

    The derivatives are those of a function of `A` free numbers: nothing in them knows that the
    probabilities sum to one.
    """

    def statistics(self, output: Tensor, log_std: Tensor | None) -> Tensor:
        """The softmax of the logits, `[..., A]` -> `[..., A]`."""
        return output.softmax(-1)

    def sample(self, probs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row, `[..., A]` -> `[...]` int64.

        The action that first fires among independent exponential clocks of rates `probs` is
        distributed as `probs`; this takes one draw per action and no cumulative sum.
        """
        clocks = torch.empty_like(probs, device=generator.device).exponential_(generator=generator)
        return (probs / sent(clocks, probs.device)).argmax(-1)

    def mode(self, probs: Tensor) -> Tensor:
        """The most probable action of each row, `[..., A]` -> `[...]` int64."""
        return probs.argmax(-1)

    def log_prob(self, probs: Tensor, actions: Tensor) -> Tensor:
        """`log f(a)`, `[...]`."""
        return (probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1) + EPSILON).log()

    def entropy(self, probs: Tensor) -> Tensor:
        """`H = -sum_a f(a) log f(a)` in nats, `[..., A]` -> `[...]`."""
        return -(probs * (probs + EPSILON).log()).sum(-1)

    def entropy_gradient(self, probs: Tensor) -> Tensor:
        """`dH / df`, `[..., A]` -> `[..., A]`."""
        return -(probs + EPSILON).log() - probs / (probs + EPSILON)

    def kl(self, reference: Tensor, probs: Tensor) -> Tensor:
        """`KL(reference || probs)` in nats, `[..., A]` -> `[...]`."""
        return (reference * ((reference + EPSILON).log() - (probs + EPSILON).log())).sum(-1)

    def kl_gradient(self, reference: Tensor, probs: Tensor) -> Tensor:
        """`d KL(reference || probs) / d probs = -reference / probs`, `[..., A]` -> `[..., A]`."""
        return -reference / (probs + EPSILON)

    def score(self, probs: Tensor, actions: Tensor) -> Tensor:
        """`d log f(a) / df = onehot(a) / f`, `[..., A]`; Fisher `diag(1 / f)`."""
        return functional.one_hot(actions, probs.shape[-1]) / (probs + EPSILON)
