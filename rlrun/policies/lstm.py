"""The policy with a memory: an encoder, an LSTM, and heads."""

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlrun.policies.base import Head, Policy, Segment
from rlrun.policies.cnn_encoder import CnnEncoder
from rlrun.policies.heads import Activation, dense, make_heads, too_narrow
from rlrun.policies.layers import features_of, has_picture
from rlrun.schema import PositiveInt


class LstmCell(nn.Module):
    """A step of an LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers 2000).

        i, f, o, g = W [x; h] + b
        c'         = sigmoid(f) c + sigmoid(i) tanh(g)
        h'         = sigmoid(o) tanh(c')

    One linear map makes all gates, so that K-FAC has one pair of factors for it. With
    `layer_norm` there are two, `W_x x` and `W_h h`, normalised each by itself before they are
    added, and the cell is normalised inside the output's tanh (arXiv 1607.06450, eq. 20 to 22).

    Args:
        inputs: width of `x`.
        size: width `H` of cell and hidden output.
        layer_norm: see above.
        forget_bias: where the bias of `f` starts; all others start at 0.
        generator: source of the initial weights: orthogonal, for `x` and `h` apart.
    """

    def __init__(
        self,
        inputs: int,
        size: int,
        layer_norm: bool,
        forget_bias: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        x, h = (torch.empty(4 * size, width) for width in (inputs, size))
        for weight in (x, h):
            nn.init.orthogonal_(weight, generator=generator)
        if layer_norm:
            self.input, self.hidden = _linear(x, bias=False), _linear(h, bias=False)
            self.norm_input = nn.LayerNorm(4 * size)
            self.norm_hidden = nn.LayerNorm(4 * size, bias=False)
            self.norm_cell = nn.LayerNorm(size)
            bias = self.norm_input.bias
        else:
            self.gates = _linear(torch.cat([x, h], 1), bias=True)
            bias = self.gates.bias
        with torch.no_grad():
            bias[size : 2 * size] = forget_bias

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Input `[B, inputs]` and state `[B, 2 H]`, first the cell, then `h`, to the next state."""
        cell, hidden = state.chunk(2, -1)
        if self.layer_norm:
            gates = self.norm_input(self.input(x)) + self.norm_hidden(self.hidden(hidden))
        else:
            gates = self.gates(torch.cat([x, hidden], -1))
        i, f, o, g = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        shown = self.norm_cell(cell) if self.layer_norm else cell
        return torch.cat([cell, o.sigmoid() * shown.tanh()], -1)


def _linear(weight: Tensor, bias: bool) -> nn.Linear:
    """A linear layer with this weight, and a bias of zeros if there is to be one."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias:
        layer.bias = nn.Parameter(torch.zeros(len(weight)))
    return layer


class LstmPolicy(Policy, rows_in_order=True):
    """Layers chosen by the observation, an LSTM, and layers after it, shared and by head.

    Pictures go through the network of `CnnPolicy`, vectors through fully connected layers.

    Args:
        observation_space: of one environment.
        heads: the outputs, by name.
        generator: source of the initial weights.
        lstm_size: width of the LSTM.
        layer_norm: normalise inside the LSTM and before each activation of the layers below.
        forget_bias: where the bias of the forget gate starts: the higher, the longer the memory at
            first (Gers et al. 2000; Jozefowicz et al. 2015).
        before: width of each fully connected layer between vectors and LSTM.
        after: width of each layer between the LSTM and the heads, shared by them.
        towers: width of each layer that the policy has for itself.
        critic_towers: of those that every other head has for itself; None for the same widths.
        activation: after each of these layers.
        filters: of the three convolutions, for pictures.
        features_dim: width of the layer after the convolutions, for pictures.

    Raises:
        UserError: the observations do not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,  # type: ignore[type-arg]
        heads: Mapping[str, Head],
        generator: torch.Generator,
        *,
        lstm_size: PositiveInt = 256,
        layer_norm: bool = False,
        forget_bias: float = 1.0,
        before: list[PositiveInt] = [64, 64],  # noqa: B006 - read only
        after: list[PositiveInt] = [],  # noqa: B006 - read only
        towers: list[PositiveInt] = [],  # noqa: B006 - read only
        critic_towers: list[PositiveInt] | None = None,
        activation: Activation = "tanh",
        filters: tuple[PositiveInt, PositiveInt, PositiveInt] = (32, 64, 64),
        features_dim: PositiveInt = 512,
    ) -> None:
        super().__init__()
        pictures = has_picture(observation_space)
        self.features = features_of(observation_space, pictures)
        if pictures:
            self.encoder: nn.Module = CnnEncoder(self.features, filters, features_dim, generator)
            inputs = features_dim
        else:
            widths = [self.features.size, *before]
            self.encoder = nn.Sequential(*dense(widths, activation, layer_norm, generator))
            inputs = widths[-1]
        self.state_size = 2 * lstm_size
        self.cell = LstmCell(inputs, lstm_size, layer_norm, forget_bias, generator)
        widths = [lstm_size, *after]
        self.after = nn.Sequential(*dense(widths, activation, layer_norm, generator))
        self.heads = make_heads(
            widths[-1], heads, towers, activation, layer_norm, generator, critic_towers
        )

    @staticmethod
    def conflicts(values: Mapping[str, Any]) -> list[str]:
        """A layer that is normalised needs more than one unit."""
        return too_narrow(values, "lstm_size", "before", "after", "towers", "critic_towers")

    def encode(self, features: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """Unroll the LSTM over the segment; its state is zero where an episode begins."""
        steps, n_envs = segment.reset.shape
        encoded = self.encoder(features)
        inputs = encoded[: steps * n_envs].unflatten(0, (steps, n_envs))
        keep = (~segment.reset).to(inputs.dtype).unsqueeze(-1)
        state, states = segment.state, []
        for x, kept in zip(inputs, keep, strict=True):
            state = self.cell(x, state * kept)
            states.append(state)
        if len(segment.final_index):
            t, env = segment.final_index.unbind(-1)
            before = torch.stack(states)[t, env]
            states.append(self.cell(encoded[steps * n_envs :], before))
        hidden = torch.cat(states)[:, self.state_size // 2 :]
        return self.after(hidden), state
