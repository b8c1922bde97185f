"""The products of ACKTR at the shapes of its factors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .network import Network

_CHUNK = 8192  # rows of statistics that are in memory at once


@dataclass
class Layer:
    """The factors of one layer, and rows that they are made of."""

    rows: int
    """That the statistics of one update have."""
    inputs: Tensor
    """`[n, in]`, `n` the smaller of `rows` and a chunk of them."""
    scores: Tensor
    """`[n, out]`."""
    a: Tensor
    g: Tensor

    def accumulate(self) -> None:
        """The products of the statistics."""
        left, keep = self.rows, 0.99
        while left > 0:
            n = min(left, len(self.inputs))
            for factor, rows in ((self.a, self.inputs[:n]), (self.g, self.scores[:n])):
                factor.addmm_(rows.T, rows, beta=keep, alpha=0.01 / self.rows)
            left, keep = left - n, 1.0


class Curvature:
    """An update of ACKTR, by its products alone.

    Args:
        network: has one layer per pair of factors.
        forward: of rows and steps, to all outputs.
        rows: `[(T + 1) B, ...]`.
        steps: `T`.
        algo: settings of ACKTR.
    """

    def __init__(
        self,
        network: Network,
        forward: Callable[[Tensor, int], list[Tensor]],
        rows: Tensor,
        steps: int,
        algo: Mapping[str, Any],
    ) -> None:
        self.network, self.forward, self.rows, self.steps = network, forward, rows, steps
        self.exact = algo["damping_rule"] == "exact"
        self.made: list[Tensor] = []  # outputs of the layers in the last forward pass
        samples = len(rows) // (steps + 1) * steps
        modules = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        shapes = self._output_shapes(modules)
        self.layers = [
            # The LSTM's linear map is not called as a module.
            _layer(module, samples, shapes.get(module, torch.Size()), algo)
            for module in modules
        ]
        for module in modules:
            module.register_forward_hook(self._remember)

    def _output_shapes(self, modules: Sequence[nn.Module]) -> dict[nn.Module, torch.Size]:
        shapes: dict[nn.Module, torch.Size] = {}

        def note(module: nn.Module, _: object, output: Tensor) -> None:
            shapes[module] = output.shape

        hooks = [module.register_forward_hook(note) for module in modules]
        with torch.no_grad():
            self.forward(self.rows, self.steps + 1)
        for hook in hooks:
            hook.remove()
        return shapes

    def _remember(self, _: nn.Module, __: object, output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.made.append(output)

    def learn(self) -> None:
        """Forward, backward to the layers' outputs, statistics, backward, preconditioning."""
        self.made.clear()
        outputs = self.forward(self.rows, self.steps + 1)
        ones = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, self.made, ones, retain_graph=True)
        self.made.clear()
        with torch.no_grad():
            for layer in self.layers:
                layer.accumulate()
        for parameter in self.network.parameters():
            parameter.grad = None
        torch.autograd.backward(outputs, ones)
        with torch.no_grad():
            for layer in self.layers:
                self._precondition(layer)

    def _precondition(self, layer: Layer) -> Tensor:
        """Two products with inverses, or four with eigenvectors."""
        gradient = layer.a.new_zeros(len(layer.g), len(layer.a))
        step = layer.g @ gradient @ layer.a
        return layer.g @ step @ layer.a if self.exact else step


def _layer(module: nn.Module, samples: int, output: torch.Size, algo: Mapping[str, Any]) -> Layer:
    weight = module.weight
    assert isinstance(weight, Tensor)
    positions = output[2:].numel() if algo["conv_factors"] == "expand" else 1
    rows = samples * positions
    inputs = weight[0].numel() + (algo["bias"] == "homogeneous")
    n, device = min(rows, _CHUNK), weight.device
    made = (torch.rand(n, width, device=device) for width in (inputs, len(weight)))
    factors = (torch.eye(width, device=device) for width in (inputs, len(weight)))
    return Layer(rows, *made, *factors)


class Decompositions:
    """The factors of all layers, decomposed: eigenvectors, or damped inverses."""

    def __init__(self, network: Network, algo: Mapping[str, Any]) -> None:
        self.exact = algo["damping_rule"] == "exact"
        with_one = algo["bias"] == "homogeneous"
        sizes = [
            size
            for module in network.modules()
            if isinstance(weight := getattr(module, "weight", None), Tensor)
            for size in (weight[0].numel() + with_one, len(weight))
        ]
        device = next(network.parameters()).device
        self.factors = [_factor(size, device) for size in sizes]

    @torch.no_grad()
    def run(self) -> None:
        """All of them, once."""
        for factor in self.factors:
            if self.exact:
                torch.linalg.eigh(factor)
            else:
                torch.cholesky_inverse(torch.linalg.cholesky(factor))


def _factor(size: int, device: torch.device) -> Tensor:
    """A second moment whose eigenvalues fall off over six orders of magnitude, damped."""
    rows = torch.randn(size, size, device=device)
    rows *= torch.logspace(0, -3, size, device=device)
    return (rows.T @ rows / size).add_(torch.eye(size, device=device), alpha=1e-2)
