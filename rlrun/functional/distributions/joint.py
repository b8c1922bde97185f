"""MultiDiscrete actions as one categorical distribution over all their combinations."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlrun.functional.distributions.categorical import Categorical
from rlrun.functional.distributions.probabilities import Probabilities


@functools.cache
def _radices(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The sizes, and how far apart in the index two neighbours of a factor are, `[J]` int64."""
    strides = [math.prod(sizes[j + 1 :]) for j in range(len(sizes))]
    return torch.tensor(sizes, device=device), torch.tensor(strides, device=device)


def joint_index(actions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Number of a combination, the last factor fastest, `[..., J]` int64 -> `[...]` int64."""
    _, strides = _radices(sizes, actions.device)
    return (actions * strides).sum(-1)


def joint_actions(index: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The inverse of `joint_index`, `[...]` int64 -> `[..., J]` int64."""
    radices, strides = _radices(sizes, index.device)
    return index.unsqueeze(-1) // strides % radices


@dataclass(frozen=True)
class Joint:
    """One probability per combination of the factors, which thus need not be independent.

    Statistics `[..., prod(sizes)]`, those of `base` over the combinations in the order of
    `joint_index`; actions `[..., J]` int64.

    Args:
        base: the distribution over the combinations.
        sizes: numbers of actions of the factors.
    """

    base: Categorical | Probabilities
    sizes: tuple[int, ...]

    def statistics(self, output: Tensor, log_std: Tensor | None) -> Tensor:
        """Those of `base`, `[..., prod(sizes)]` -> `[..., prod(sizes)]`."""
        return self.base.statistics(output, log_std)

    def sample(self, statistics: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row, `[..., prod(sizes)]` -> `[..., J]` int64."""
        return joint_actions(self.base.sample(statistics, generator), self.sizes)

    def mode(self, statistics: Tensor) -> Tensor:
        """The most probable combination of each row, `[..., prod(sizes)]` -> `[..., J]` int64."""
        return joint_actions(self.base.mode(statistics), self.sizes)

    def log_prob(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`log pi(a)`, `[...]`."""
        return self.base.log_prob(statistics, joint_index(actions, self.sizes))

    def entropy(self, statistics: Tensor) -> Tensor:
        """In nats, `[...]`."""
        return self.base.entropy(statistics)

    def entropy_gradient(self, statistics: Tensor) -> Tensor:
        """`dH / d statistics`, `[..., prod(sizes)]`."""
        return self.base.entropy_gradient(statistics)

    def kl(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`KL(reference || statistics)` in nats, `[...]`."""
        return self.base.kl(reference, statistics)

    def kl_gradient(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`d KL(reference || statistics) / d statistics`, `[..., prod(sizes)]`."""
        return self.base.kl_gradient(reference, statistics)

    def score(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`d log pi(a) / d statistics`, `[..., prod(sizes)]`."""
        return self.base.score(statistics, joint_index(actions, self.sizes))
