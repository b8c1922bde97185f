"""Layers as K-FAC sees them: a matrix of parameters with a factor for its inputs and its outputs.

Whatever a layer is, its inputs are rows `[B, S, in]` and its scores `[B, S, out]` for `B` samples
and `S` positions that share the weights (pixels of a convolution, steps of a sequence; 1 for a
plain linear layer). Two approximations lead from there to the factors (arXiv 2311.00636):

    expand   A = mean over B and S of a a^T      G = (1 / B) sum over B and S of g g^T
    reduce   a = mean over S, g = sum over S;    A = (1 / B) sum of a a^T, G = (1 / B) sum of g g^T

Expand is KFC for convolutions; reduce is cheaper by the number of positions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rlrun.functional import kronecker
from rlrun.optim.capture import Use
from rlrun.optim.diagonal import Diagonal

Sharing = Literal["expand", "reduce"]
_CHUNK = 1 << 21  # numbers in a piece of patches: it stays in the cache and off the allocator


class Block:
    """A matrix of parameters and its factors.

    Owns `a`, `[in, in]`, and `g`, `[out, out]`; reads and never changes the layer.

    Args:
        layer: Linear or Conv2d.
        sharing: how positions that share the weights are summed up.
        with_bias: the bias is the last column of the matrix, with the input 1 (the homogeneous
            coordinate); if not, this block is that of the weight alone.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, sharing: Sharing, with_bias: bool) -> None:
        self.layer = layer
        self.sharing = sharing
        self.parameters: list[Tensor] = [layer.weight]
        self.homogeneous = with_bias and layer.bias is not None and layer.bias.requires_grad
        if self.homogeneous:
            assert layer.bias is not None
            self.parameters.append(layer.bias)
        weight = layer.weight
        self.a = weight.new_zeros([weight[0].numel() + self.homogeneous] * 2)
        self.g = weight.new_zeros([len(weight)] * 2)

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Both factors, as they are stored."""
        return {"a": self.a, "g": self.g}

    def accumulate(self, uses: Sequence[Use], keep: float, weight: float) -> None:
        """`factor <- keep * factor + weight * statistics of the uses`, for both factors."""
        samples = sum(len(use.inputs) for use in uses)
        for use in uses:
            scores = self._positions(use.scores.to(self.g))  # they may be of lower precision
            positions = scores.shape[1]
            if self.sharing == "reduce":
                scores, positions = scores.sum(1), 1
            kronecker.accumulate_(self.g, scores.flatten(0, -2), keep, weight / samples)
            keep_a = keep
            for rows in self._input_rows(use.inputs.to(self.a)):
                kronecker.accumulate_(self.a, rows, keep_a, weight / (samples * positions))
                keep_a = 1.0
            keep = 1.0

    def _positions(self, scores: Tensor) -> Tensor:
        """Scores as `[B, S, out]`."""
        if isinstance(self.layer, nn.Conv2d):
            return scores.movedim(1, -1).flatten(1, 2)
        return scores.unsqueeze(1) if scores.dim() == 2 else scores.flatten(1, -2)

    def _input_rows(self, inputs: Tensor) -> Iterator[Tensor]:
        """Inputs as `[n, in]`, a piece at a time."""
        layer = self.layer
        if isinstance(layer, nn.Conv2d) and self.sharing == "expand":
            yield from self._patch_rows(kronecker.patches(inputs, layer))
            return
        if isinstance(layer, nn.Conv2d):
            rows = kronecker.mean_patches(inputs, layer).flatten(1)
        elif inputs.dim() > 2 and self.sharing == "reduce":
            rows = inputs.flatten(1, -2).mean(1)
        else:
            rows = inputs.flatten(0, -2)
        yield kronecker.with_one(rows) if self.homogeneous else rows

    def _patch_rows(self, patches: Tensor) -> Iterator[Tensor]:
        """Patches `[B, H, W, kh, kw, C]` as rows."""
        where, what = patches.shape[1:3], patches.shape[3:]
        samples = max(1, _CHUNK // (where.numel() * len(self.a)))
        buffer = patches.new_ones(min(samples, len(patches)) * where.numel(), len(self.a))
        for piece in torch.split(patches, samples):
            rows = buffer[: len(piece) * where.numel()]
            rows[:, : what.numel()].view(piece.shape).copy_(piece)
            yield rows

    def matrix(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of the shapes of the parameters, as `[out, in]`."""
        weight = tensors[0]
        if weight.dim() == 4:
            weight = weight.movedim(1, 3)
        weight = weight.flatten(1)
        return torch.cat([weight, tensors[1].unsqueeze(1)], 1) if self.homogeneous else weight

    def split(self, matrix: Tensor) -> list[Tensor]:
        """The inverse of `matrix`."""
        if not self.homogeneous:
            return [self._weight(matrix)]
        return [self._weight(matrix[:, :-1]), matrix[:, -1]]

    def _weight(self, matrix: Tensor) -> Tensor:
        shape = self.layer.weight.shape
        if len(shape) == 2:
            return matrix
        return matrix.reshape(len(matrix), *shape[2:], shape[1]).movedim(3, 1)


class BiasBlock(Block):
    """A bias as a block of its own, with `G` alone: that of the scores summed over positions."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__(layer, "reduce", with_bias=False)
        assert layer.bias is not None
        self.parameters = [layer.bias]
        self.a = layer.bias.new_ones(1, 1)

    def _input_rows(self, inputs: Tensor) -> Iterator[Tensor]:
        yield inputs.new_ones(len(inputs), 1)

    def matrix(self, tensors: Sequence[Tensor]) -> Tensor:
        """The bias as a column."""
        return tensors[0].unsqueeze(1)

    def split(self, matrix: Tensor) -> list[Tensor]:
        """The column as a bias."""
        return [matrix[:, 0]]


def blocks_of(model: nn.Module, sharing: Sharing, homogeneous: bool) -> dict[str, Block]:
    """Blocks of all trainable Linear and Conv2d layers, by the name of the layer.

    Raises:
        ValueError: a convolution of a kind that is not supported.
    """
    blocks: dict[str, Block] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not layer.weight.requires_grad:
            continue
        if isinstance(layer, nn.Conv2d) and (
            layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        ):
            raise ValueError(
                f"{name}: convolutions in groups, or with a padding other than a number of zeros, "
                f"are not supported"
            )
        blocks[name] = Block(layer, sharing, homogeneous)
        if not homogeneous and layer.bias is not None and layer.bias.requires_grad:
            blocks[f"{name} bias"] = BiasBlock(layer)
    return blocks


def uncovered(
    named: Mapping[str, Tensor], parts: Iterable[Block | Diagonal], fisher: Mapping[str, float]
) -> dict[Tensor, float]:
    """Fisher of the parameters `named` that are in none of the parts.

    Raises:
        ValueError: `fisher` does not name just these, or a parameter is in two parts.
    """
    covered = Counter(p for part in parts for p in part.parameters)
    if covered and max(covered.values()) > 1:
        raise ValueError("two layers share a parameter: call one layer twice instead")
    bare = {name: p for name, p in named.items() if p not in covered}
    if bare.keys() != fisher.keys():
        raise ValueError(
            f"fisher must name the parameters that are in no Linear, Conv2d or LayerNorm layer: "
            f"{', '.join(bare) or 'there are none'}; it names {', '.join(fisher) or 'none'}"
        )
    return {p: fisher[name] for name, p in bare.items()}
