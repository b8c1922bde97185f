"""From factors to what preconditions a gradient, with one more try where rounding breaks it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlrun.functional import kronecker
from rlrun.optim.errors import NonFiniteUpdate

Basis = dict[str, Tensor]
"""Of one block: `la, qa, lg, qg` (eigenvalues and -vectors), or the damped inverses `a, g`."""

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_JITTER = 1e-6  # of the mean eigenvalue, added in the second try


@dataclass
class Decomposition:
    """The bases of all blocks, from factors as they were at one step."""

    bases: dict[str, Basis]
    step: int
    fallbacks: int = 0
    """Factors that took a second try, in float64."""
    negatives: int = 0
    """Eigenvalues below zero by rounding, set to 0."""
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """All but the seconds, which are not the same twice."""
        return {
            "bases": self.bases,
            "step": self.step,
            "fallbacks": self.fallbacks,
            "negatives": self.negatives,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> "Decomposition":
        """The inverse of `state_dict`."""
        bases = {
            name: {key: tensor.to(device, copy=True) for key, tensor in basis.items()}
            for name, basis in state["bases"].items()
        }
        return cls(bases, state["step"], state["fallbacks"], state["negatives"])


def decompose(
    factors: Mapping[str, tuple[Tensor, Tensor]], exact: bool, damping: float, step: int
) -> Decomposition:
    """Bases of blocks, by name.

    Args:
        factors: `A` and `G` of each block; not changed.
        exact: eigendecompositions; if not, inverses of the factors with factored damping.
        damping: for the inverses.
        step: for the record.

    Raises:
        NonFiniteUpdate: a factor cannot be decomposed in float64 either.
    """
    begin = time.perf_counter()
    result = Decomposition({}, step)
    for name, (a, g) in factors.items():
        if exact:
            la, qa, negatives_a = _robust(kronecker.eigenbasis, a, f"{name}: A", result)
            lg, qg, negatives_g = _robust(kronecker.eigenbasis, g, f"{name}: G", result)
            result.negatives += int(negatives_a) + int(negatives_g)
            result.bases[name] = {"la": la, "qa": qa, "lg": lg, "qg": qg}
        else:
            damping_a, damping_g = kronecker.factored_damping(a, g, damping)
            result.bases[name] = {
                "a": _inverse(a, damping_a, f"{name}: A", result),
                "g": _inverse(g, damping_g, f"{name}: G", result),
            }
    result.seconds = time.perf_counter() - begin
    return result


def precondition(gradient: Tensor, basis: Basis, damping: float) -> Tensor:
    """The natural gradient of one block, `[out, in]`."""
    if "qa" in basis:
        a, g = (basis["la"], basis["qa"]), (basis["lg"], basis["qg"])
        return kronecker.precondition_exact(gradient, a, g, damping)
    return kronecker.precondition_factored(gradient, basis["a"], basis["g"])


def spectrum(basis: Basis, a: Tensor, g: Tensor) -> tuple[float, float]:
    """Smallest and largest eigenvalue of `A (x) G`.

    From eigendecompositions they are those at their time. From inverses they are estimates by
    a few power iterations: the smallest of the damped product, the largest of the present one.
    """
    if "qa" in basis:
        low, high = basis["la"][0] * basis["lg"][0], basis["la"][-1] * basis["lg"][-1]
    else:
        largest = kronecker.largest_eigenvalue
        low = 1.0 / (largest(basis["a"]) * largest(basis["g"]))
        high = largest(a) * largest(g)
    return low.item(), high.item()


def _inverse(factor: Tensor, damping: Tensor, name: str, result: Decomposition) -> Tensor:
    def invert(matrix: Tensor) -> tuple[Tensor, ...]:
        return (kronecker.damped_inverse(matrix, damping.to(matrix)),)

    (inverse,) = _robust(invert, factor, name, result)
    return inverse


def _robust(
    function: Callable[[Tensor], tuple[Tensor, ...]],
    factor: Tensor,
    name: str,
    result: Decomposition,
) -> tuple[Tensor, ...]:
    """`function(factor)`; if it fails, once more in float64 on the CPU with jitter, counted."""
    try:
        return _finite(function(factor))
    except LinAlgError:
        result.fallbacks += 1
    matrix = factor.to("cpu", torch.float64, copy=True)
    scale = matrix.diagonal().mean()
    matrix.diagonal().add_(_JITTER * scale)
    try:
        return tuple(part.to(factor) for part in _finite(function(matrix)))
    except LinAlgError as error:
        raise NonFiniteUpdate(
            f"the curvature of {name} cannot be decomposed, not in float64 either: {error}",
            {"factor": name, "size": len(factor), "mean_eigenvalue": float(scale)},
        ) from error


def _finite(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not all(bool(torch.isfinite(part.sum())) for part in parts):
        raise LinAlgError("the result is not finite")
    # Row by row, as a checkpoint gives them back: products depend on it in the last bit.
    return tuple(part.contiguous() for part in parts)
