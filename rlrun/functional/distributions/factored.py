"""Independent categorical factors, as of the actions in MultiDiscrete and MultiBinary spaces."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rlrun.functional.distributions.categorical import Categorical
from rlrun.functional.distributions.probabilities import Probabilities


@functools.cache
def _cells(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each statistic is in the flattened grid, `[sum(sizes)]` int64."""
    width = max(sizes)
    cells = [width * j + a for j, size in enumerate(sizes) for a in range(size)]
    with torch.inference_mode(False):  # autograd could not use one that was made in that mode
        return torch.tensor(cells, device=device)


@dataclass(frozen=True)
class Factored:
    """`J` independent factors: `pi(a) = prod_j pi_j(a_j)`.

    Statistics `[..., sum(sizes)]`, those of one factor after those of the other; actions
    `[..., J]` int64. Logarithms, entropies and KL are sums over the factors, and derivatives stand
    one after the other like the statistics.

    All factors are computed at once, in the rows of a grid `[..., J, max(sizes)]`. The cells that
    shorter rows leave over hold actions of probability zero, which add nothing to any sum.

    Args:
        base: the distribution of each factor.
        sizes: numbers of actions of the factors; `(2,) * n` for `n` bits.
    """

    base: Categorical | Probabilities
    sizes: tuple[int, ...]

    def statistics(self, output: Tensor, log_std: Tensor | None) -> Tensor:
        """Those of `base`, factor by factor, `[..., sum(sizes)]` -> `[..., sum(sizes)]`."""
        if isinstance(self.base, Categorical):
            return output
        return self._row(self.base.statistics(self._grid(output, logits=True), log_std))

    def sample(self, statistics: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action per row, `[..., sum(sizes)]` -> `[..., J]` int64."""
        return self.base.sample(self._cut(statistics), generator)

    def mode(self, statistics: Tensor) -> Tensor:
        """The most probable action of each row, `[..., sum(sizes)]` -> `[..., J]` int64."""
        return self.base.mode(self._cut(statistics))

    def log_prob(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`log pi(a) = sum_j log pi_j(a_j)`, `[...]`."""
        return self.base.log_prob(self._cut(statistics), actions).sum(-1)

    def entropy(self, statistics: Tensor) -> Tensor:
        """`H = sum_j H_j` in nats, `[...]`."""
        return self.base.entropy(self._cut(statistics)).sum(-1)

    def entropy_gradient(self, statistics: Tensor) -> Tensor:
        """`dH_j / d statistics_j` of all `j`, `[..., sum(sizes)]`."""
        return self._row(self.base.entropy_gradient(self._cut(statistics)))

    def kl(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`KL(reference || statistics) = sum_j KL_j` in nats, `[...]`."""
        return self.base.kl(self._cut(reference), self._cut(statistics)).sum(-1)

    def kl_gradient(self, reference: Tensor, statistics: Tensor) -> Tensor:
        """`d KL_j / d statistics_j` of all `j`, `[..., sum(sizes)]`."""
        return self._row(self.base.kl_gradient(self._cut(reference), self._cut(statistics)))

    def score(self, statistics: Tensor, actions: Tensor) -> Tensor:
        """`d log pi_j(a_j) / d statistics_j` of all `j`, `[..., sum(sizes)]`.

        The Fisher matrix of `Categorical` factors has one block per factor, that of each.
        """
        return self._row(self.base.score(self._cut(statistics), actions))

    def one_hots(self, actions: Tensor) -> Tensor:
        """Actions `[..., J]` as one vector of ones and zeros, `[..., sum(sizes)]` float."""
        return self._row(functional.one_hot(actions, max(self.sizes))).float()

    def _cut(self, statistics: Tensor) -> Tensor:
        return self._grid(statistics, logits=isinstance(self.base, Categorical))

    def _grid(self, row: Tensor, logits: bool) -> Tensor:
        """`[..., sum(sizes)]` -> `[..., J, max(sizes)]`, logits or probabilities."""
        shape = len(self.sizes), max(self.sizes)
        if self._even:
            return row.view(*row.shape[:-1], *shape)
        # Half of the lowest logit: the logarithm of a zero, and still finite less any other logit,
        # for zero times infinity is not zero.
        fill = torch.finfo(row.dtype).min / 2 if logits else 0.0
        grid = row.new_full((*row.shape[:-1], shape[0] * shape[1]), fill)
        grid = grid.index_copy(-1, _cells(self.sizes, row.device), row)
        return grid.view(*row.shape[:-1], *shape)

    def _row(self, grid: Tensor) -> Tensor:
        """`[..., J, max(sizes)]` -> `[..., sum(sizes)]`, the inverse of `_grid`."""
        row = grid.flatten(-2)
        return row if self._even else row.index_select(-1, _cells(self.sizes, row.device))

    @property
    def _even(self) -> bool:
        return min(self.sizes) == max(self.sizes)
