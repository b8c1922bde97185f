"""From factors to what preconditions a gradient, with one more try where rounding breaks it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    negatives: Tensor | int = 0
    """Eigenvalues below zero by rounding, set to 0; on a GPU nobody waits to count them."""
    seconds: float = 0.0

    def tensors(self) -> list[Tensor]:
        """All of it that a GPU has, if it was made there."""
        made = [tensor for basis in self.bases.values() for tensor in basis.values()]
        return [*made, self.negatives] if isinstance(self.negatives, Tensor) else made

    def state_dict(self) -> dict[str, Any]:
        """All but the seconds, which are not the same twice."""
        return {
            "bases": self.bases,
            "step": self.step,
            "fallbacks": self.fallbacks,
            "negatives": int(self.negatives),
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
    tasks = []
    for name, (a, g) in factors.items():
        added = kronecker.factored_damping(a, g, damping) if not exact else (None, None)
        tasks += [_Task(f"{name}: A", a, added[0]), _Task(f"{name}: G", g, added[1])]
    solved = _solve_alike(tasks, result) if _in_batches(tasks) else _solve_each(tasks, result)
    for name, of_a, of_g in zip(factors, solved[::2], solved[1::2], strict=True):
        if exact:
            (la, qa, negatives_a), (lg, qg, negatives_g) = of_a, of_g
            result.negatives = result.negatives + negatives_a + negatives_g
            result.bases[name] = {"la": la, "qa": qa, "lg": lg, "qg": qg}
        else:
            result.bases[name] = {"a": of_a[0], "g": of_g[0]}
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


class _Task(NamedTuple):
    """A factor to decompose, or several of one size."""

    name: str
    factor: Tensor
    """`[..., d, d]`."""
    damping: Tensor | None
    """`[...]`, of its inverse; None for eigenvalues and -vectors."""

    def solve(self) -> tuple[Tensor, ...]:
        """The parts of the result.

        Raises:
            LinAlgError: there is none, or it is not finite.
        """
        if self.damping is None:
            parts: tuple[Tensor, ...] = kronecker.eigenbasis(self.factor)
        else:
            parts = (kronecker.damped_inverse(self.factor, self.damping.to(self.factor)),)
        sums = torch.stack([part.sum().to(self.factor) for part in parts])
        if not torch.isfinite(sums).all():
            raise LinAlgError("the result is not finite")
        # Row by row, as a checkpoint gives them back: products depend on it in the last bit.
        return tuple(part.contiguous() for part in parts)


def _in_batches(tasks: list[_Task]) -> bool:
    """A GPU does several matrices of one size at a time; on the CPU a batch is a loop."""
    return any(task.factor.is_cuda for task in tasks)


def _solve_alike(tasks: list[_Task], result: Decomposition) -> list[tuple[Tensor, ...]]:
    """What comes of each of the tasks, those of one size done together."""
    alike: dict[int, list[_Task]] = {}
    for task in tasks:
        alike.setdefault(len(task.factor), []).append(task)
    solved: dict[str, tuple[Tensor, ...]] = {}
    for group in alike.values():
        names = [task.name for task in group]
        solved |= zip(names, _solve_together(group, result), strict=True)
    return [solved[task.name] for task in tasks]


def _solve_together(tasks: list[_Task], result: Decomposition) -> list[tuple[Tensor, ...]]:
    if len(tasks) == 1:
        return _solve_each(tasks, result)
    dampings = [task.damping for task in tasks if task.damping is not None]
    stacked = torch.stack([task.factor for task in tasks])
    try:
        parts = _Task("", stacked, torch.stack(dampings) if dampings else None).solve()
    except LinAlgError:  # of one of them, which only a try of each can tell
        return _solve_each(tasks, result)
    # Each in memory of its own, as a checkpoint gives them back.
    return [tuple(part.clone() for part in each) for each in zip(*parts, strict=True)]


def _solve_each(tasks: list[_Task], result: Decomposition) -> list[tuple[Tensor, ...]]:
    return [_robust(task, result) for task in tasks]


def _robust(task: _Task, result: Decomposition) -> tuple[Tensor, ...]:
    """A task solved; if that fails, once more in float64 on the CPU with jitter, counted."""
    try:
        return task.solve()
    except LinAlgError:
        result.fallbacks += 1
    matrix = task.factor.to("cpu", torch.float64, copy=True)
    scale = matrix.diagonal().mean()
    matrix.diagonal().add_(_JITTER * scale)
    try:
        if not torch.isfinite(matrix).all():
            raise LinAlgError("it is not finite")
        return tuple(part.to(task.factor) for part in task._replace(factor=matrix).solve())
    except LinAlgError as error:
        raise NonFiniteUpdate(
            f"the curvature of {task.name} cannot be decomposed, not in float64 either: {error}",
            {"factor": task.name, "size": len(matrix), "mean_eigenvalue": float(scale)},
        ) from error
