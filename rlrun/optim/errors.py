"""What stops an update before it changes the weights."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class NonFiniteUpdate(ArithmeticError):
    """Numbers of an update are not finite, or a matrix cannot be decomposed.

    The weights are those before the update.

    Args:
        message: what is wrong, and what helps.
        details: numbers to find the cause with, as JSON can hold them.
    """

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


def require_finite(values: Mapping[str, Tensor]) -> None:
    """Raise `NonFiniteUpdate` if one of these scalars is not finite; one look at the device."""
    numbers = torch.stack(list(values.values())).tolist()
    if not all(map(math.isfinite, numbers)):
        found = dict(zip(values, numbers, strict=True))
        wrong = [f"{name} ({x})" for name, x in found.items() if not math.isfinite(x)]
        details = {"norms": {name: str(x) for name, x in found.items()}}
        raise NonFiniteUpdate(
            f"not finite: the norm of {', '.join(wrong)}; lower the learning rate, or check the "
            f"rewards and observations that go in",
            details,
        )
