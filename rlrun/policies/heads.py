"""Heads: a tower of fully connected layers for each output of a policy."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from rlrun.policies.base import Head
from rlrun.policies.layers import linear

Activation = Literal["tanh", "relu", "elu"]
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}
INTERACTION = [64]  # hidden layers where a head without any has to combine latents with inputs


def dense(
    widths: Sequence[int], activation: Activation, layer_norm: bool, generator: torch.Generator
) -> list[nn.Module]:
    """Hidden layers of the given widths, that of the input first, each with its activation."""
    layers: list[nn.Module] = []
    for inputs, width in itertools.pairwise(widths):
        layers.append(linear(inputs, width, math.sqrt(2), generator))
        if layer_norm:
            layers.append(nn.LayerNorm(width))
        layers.append(ACTIVATIONS[activation]())
    return layers


def too_narrow(values: Mapping[str, Any], *names: str) -> list[str]:
    """Complaints about layers of width 1 that are to be normalised: nothing would come through."""
    if not values["layer_norm"]:
        return []
    widths = {name: values[name] for name in names}
    return [
        f"{name}: {width} with layer_norm=true: a layer of width 1 is the same whatever goes in; "
        f"widen it, or set layer_norm=false"
        for name, width in widths.items()
        if 1 in (width if isinstance(width, list) else [width])
    ]


def make_heads(
    latents: int,
    heads: Mapping[str, Head],
    hidden: Sequence[int],
    activation: Activation,
    layer_norm: bool,
    generator: torch.Generator,
    critic_hidden: Sequence[int] | None = None,
) -> nn.ModuleDict:
    """One tower per head: hidden layers of its own, then a linear one with a gain of 0.01.

    Args:
        latents: width of what all towers read.
        heads: the outputs, by name.
        hidden: width of each hidden layer of a tower.
        activation: after each hidden layer.
        layer_norm: normalise the inputs of each activation.
        generator: source of the initial weights.
        critic_hidden: as `hidden`, for every head but `policy`; None for the same widths.
    """
    towers = {}
    for name, head in heads.items():
        own = hidden if critic_hidden is None or name == "policy" else critic_hidden
        inner = own or (INTERACTION if head.inputs else [])
        widths = [latents + head.inputs, *inner]
        layers = dense(widths, activation, layer_norm, generator)
        towers[name] = nn.Sequential(*layers, linear(widths[-1], head.outputs, 0.01, generator))
    return nn.ModuleDict(towers)
