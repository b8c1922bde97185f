"""Gradients of parameters, as an optimiser takes them in."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def gradient_of(parameter: Tensor) -> Tensor:
    """Its `.grad`; zeros, if nothing flowed back to it."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def clipped(gradients: Mapping[Tensor, Tensor], norm: Tensor, bound: float) -> dict[Tensor, Tensor]:
    """Gradients whose joint norm, now `norm`, is at most `bound`; they stay as they are."""
    if bound == math.inf:
        return dict(gradients)
    factor = (bound / norm).clamp(max=1.0)
    return {p: gradient * factor for p, gradient in gradients.items()}
