"""Plain PyTorch networks of the shapes of rlrun's, to measure what their products alone take."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

_KERNELS, _STRIDES = (8, 4, 3), (4, 2, 1)


class Network(nn.Module):
    """An encoder, an LSTM or none, and a tower for each output.

    Args:
        policy: node of rlrun's config.
        space: of the observations.
        heads: width of each output and of what it reads beside the latents, by name.
    """

    def __init__(
        self,
        policy: Mapping[str, Any],
        space: spaces.Space[Any],
        heads: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        shape = space.shape or ()
        kind = str(policy["_target_"]).rpartition(".")[2]
        activation = nn.ReLU if kind == "CnnPolicy" else nn.Tanh
        self.picture = len(shape) == 3
        self.memory = int(policy.get("lstm_size", 0))
        self.input_shape = shape if self.picture else (math.prod(shape),)
        if self.picture:
            self.encoder = _convolutions(shape, policy["filters"], policy["features_dim"])
            width = policy["features_dim"]
        else:
            hidden = policy["before" if self.memory else "shared"]
            width = [*self.input_shape, *hidden][-1]
            self.encoder = _dense([*self.input_shape, *hidden], activation)
        if self.memory:
            self.cell = nn.Linear(width + self.memory, 4 * self.memory)
            self.after = _dense([self.memory, *policy["after"]], activation)
            width = [self.memory, *policy["after"]][-1]
        self.latents = width
        own = policy.get("hidden", policy.get("towers", []))
        critics = policy.get("critic_hidden", policy.get("critic_towers"))
        self.towers = nn.ModuleDict()
        for name, (outputs, inputs) in heads.items():
            tower = own if name == "policy" or critics is None else critics
            widths = [width + inputs, *(tower or ([64] if inputs else []))]
            layers = _dense(widths, activation)
            self.towers[name] = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        if self.picture:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def weights(self) -> list[tuple[int, ...]]:
        """Shapes of all weights, sorted."""
        return shapes_of(self)

    def inputs(self, rows: int, device: torch.device) -> Tensor:
        """Floats to read, `[rows, ...]`."""
        found = torch.rand(rows, *self.input_shape, device=device)
        return found.to(memory_format=torch.channels_last) if self.picture else found

    def encode(self, inputs: Tensor, steps: int) -> Tensor:
        """Latents `[rows, L]` of a segment of so many steps."""
        encoded: Tensor = self.encoder(inputs)
        if not self.memory:
            return encoded
        weight_x, weight_h = self.cell.weight.tensor_split([encoded.shape[1]], 1)
        ahead = nn.functional.linear(encoded, weight_x, self.cell.bias).chunk(steps)
        hidden = cell = encoded.new_zeros(len(ahead[0]), self.memory)
        states = []
        for step in ahead:
            i, f, o, g = torch.addmm(step, hidden, weight_h.T).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        return self.after(torch.cat(states))  # type: ignore[no-any-return]


def shapes_of(module: nn.Module) -> list[tuple[int, ...]]:
    """Shapes of the weights of linear maps, sorted; those of biases follow from them."""
    return sorted(tuple(p.shape) for p in module.parameters() if p.dim() > 1)


def _dense(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, width in pairwise(widths):
        layers += [nn.Linear(inputs, width), activation()]
    return nn.Sequential(*layers)


def _convolutions(shape: tuple[int, ...], filters: Sequence[int], features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, *sides = shape
    for outputs, kernel, stride in zip(filters, _KERNELS, _STRIDES, strict=True):
        layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
        channels, sides = outputs, [(side - kernel) // stride + 1 for side in sides]
    inputs = channels * math.prod(sides)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, features), nn.ReLU())
