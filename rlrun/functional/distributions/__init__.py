"""Distributions of actions, as pure functions of their statistics `[..., P]`.

`categorical` and `gaussian` have the same functions. `probabilities` is the categorical
distribution once more, told by its probabilities instead of its logits.
"""

from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """What the modules of this package have in common."""

    def sample(self, statistics: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row."""

    def mode(self, statistics: Tensor) -> Tensor:
        """The most probable action of each row."""

    def log_prob(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """Logarithm of the probability or density, `[...]`."""

    def entropy(self, statistics: Tensor) -> Tensor:
        """In nats, `[...]`."""

    def kl(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`KL(reference || distribution)` in nats, `[...]`."""

    def score(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`d log_prob / d statistics`, `[..., P]`, whose second moment is the Fisher matrix."""
