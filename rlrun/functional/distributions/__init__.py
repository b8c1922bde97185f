"""Distributions of actions, as pure functions of their statistics `[..., P]`.

Each is a value without state: two of the same class and fields are equal, and can be copied,
pickled and shared. `Categorical` and `Gaussian` are the elementary ones, and `Probabilities` is the
categorical distribution once more, told by its probabilities instead of its logits. `Factored` and
`Joint` make distributions of several discrete actions at a time out of one of these two.
"""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from rlrun.functional.distributions.categorical import Categorical
from rlrun.functional.distributions.factored import Factored
from rlrun.functional.distributions.gaussian import Gaussian
from rlrun.functional.distributions.joint import Joint, joint_actions, joint_index
from rlrun.functional.distributions.probabilities import Probabilities

__all__ = [
    "Categorical",
    "Distribution",
    "Factored",
    "Gaussian",
    "Joint",
    "Probabilities",
    "joint_actions",
    "joint_index",
    "of_logits",
]


class Distribution(Protocol):
    """What the distributions of this package have in common."""

    def statistics(self, output: Tensor, log_std: Tensor | None) -> Tensor:
        """Statistics `[..., P]` from the output of a network.

        Args:
            output: `[..., A]`, logits or means.
            log_std: `[A]`, log-deviations of a Gaussian; the others do not read it.
        """

    def sample(self, statistics: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row."""

    def mode(self, statistics: Tensor) -> Tensor:
        """The most probable action of each row (of each factor, where they are independent)."""

    def log_prob(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """Logarithm of the probability or density, `[...]`."""

    def entropy(self, statistics: Tensor) -> Tensor:
        """In nats, `[...]`."""

    def entropy_gradient(self, statistics: Tensor) -> Tensor:
        """`dH / d statistics`, `[..., P]`."""

    def kl(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`KL(reference || distribution)` in nats, `[...]`."""

    def kl_gradient(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`d KL(reference || distribution) / d statistics`, `[..., P]`."""

    def score(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`d log_prob / d statistics`, `[..., P]`, whose second moment is the Fisher matrix."""


def of_logits(distribution: Distribution) -> Distribution:
    """The same distribution told by logits, whose logarithms are exact at any probability."""
    if isinstance(distribution, Probabilities):
        return Categorical()
    if isinstance(distribution, Factored | Joint):
        return replace(distribution, base=Categorical())
    return distribution
