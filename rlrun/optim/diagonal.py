"""Layers whose parameters K-FAC has by the diagonal of their Fisher matrix: LayerNorm.

Its gain and bias act elementwise, so that their scores are known sample by sample at no cost, and
need no Kronecker product. With the normalised inputs `x` and the scores `g` at the outputs, both
`[B, S, *shape]` for `B` samples and `S` positions that share the parameters:

    gain   mean over B of (sum over S of g x)^2
    bias   mean over B of (sum over S of g)^2
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlrun.optim.capture import Use


class Diagonal:
    """The trainable parameters of a LayerNorm and the diagonals of their Fisher matrices.

    Owns `statistics`: the diagonals by the name of the parameter, each of its shape; reads and
    never changes the layer.
    """

    def __init__(self, layer: nn.LayerNorm) -> None:
        self.layer = layer
        named = {name: p for name, p in layer.named_parameters() if p.requires_grad}
        self.parameters: list[Tensor] = list(named.values())
        self.statistics = {name: torch.zeros_like(p) for name, p in named.items()}

    def accumulate(self, uses: Sequence[Use], keep: float, weight: float) -> None:
        """`diagonal <- keep * diagonal + weight * statistics of the uses`, for all diagonals."""
        layer, samples = self.layer, sum(len(use.inputs) for use in uses)
        for use in uses:
            inputs, scores = (t.to(self.parameters[0]) for t in use)  # may be of lower precision
            x = nn.functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
            products = {"weight": scores * x, "bias": scores}
            for name, diagonal in self.statistics.items():
                rows = products[name].reshape(len(inputs), -1, *layer.normalized_shape).sum(1)
                diagonal.mul_(keep).add_(rows.square().sum(0), alpha=weight / samples)
            keep = 1.0


def diagonals_of(model: nn.Module) -> dict[str, Diagonal]:
    """Those of all LayerNorms with something to train, by the name of the layer."""
    layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, nn.LayerNorm)}
    diagonals = {name: Diagonal(layer) for name, layer in layers.items()}
    return {name: diagonal for name, diagonal in diagonals.items() if diagonal.parameters}
