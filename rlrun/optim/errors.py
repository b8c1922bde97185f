"""What stops an update before it changes the weights."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlrun.transfer import pinned


class NonFiniteUpdate(ArithmeticError):
    """Numbers of an update are not finite, or a matrix cannot be decomposed.

    The weights are those before the update; on a GPU they may be broken, see `FiniteCheck`.

    Args:
        message: what is wrong, and what helps.
        details: numbers to find the cause with, as JSON can hold them.
    """

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


class FiniteCheck:
    """Raises `NonFiniteUpdate` for norms of an update that are not finite.

    On the CPU it looks at once, and the weights stay those before the update. On a GPU, looking
    means to wait until all is done that the GPU was told to do. So there the norms are copied to
    the host in their turn, and `settle` looks at them. It is called where the host waits for the
    GPU anyway (for the first action after an update, before anybody takes it, and for metrics),
    and before anything is saved. By then the weights have changed, but nothing that came of them
    was used or written; the check goes on to raise, so that they never are saved.

    Args:
        device: where the norms are.
    """

    _MOST = 32  # checks that may wait: beyond, one looks at the oldest

    def __init__(self, device: torch.device) -> None:
        self.deferred = pinned(device)
        self._waiting: deque[tuple[list[str], Tensor, torch.cuda.Event | None]] = deque()

    def __call__(self, norms: Mapping[str, Tensor]) -> None:
        """Check these scalars, now or later."""
        names, numbers = list(norms), torch.stack(list(norms.values())).detach()
        if not self.deferred:
            _require_finite(names, numbers)
            return
        if len(self._waiting) == self._MOST:
            self._look()
        copied = numbers.to("cpu", non_blocking=True)
        event = None
        if numbers.is_cuda:
            event = torch.cuda.current_stream(numbers.device).record_event()
        self._waiting.append((names, copied, event))

    def settle(self) -> None:
        """Look at all norms that nobody has looked at yet, waiting for them."""
        while self._waiting:
            self._look()

    def forget(self) -> None:
        """Look at none of them: the weights have been replaced."""
        self._waiting.clear()

    def _look(self) -> None:
        names, copied, event = self._waiting[0]
        if event is not None:
            event.synchronize()
        _require_finite(names, copied)
        self._waiting.popleft()


def _require_finite(names: list[str], norms: Tensor) -> None:
    numbers = norms.tolist()
    if not all(map(math.isfinite, numbers)):
        found = dict(zip(names, numbers, strict=True))
        wrong = [f"{name} ({x})" for name, x in found.items() if not math.isfinite(x)]
        details = {"norms": {name: str(x) for name, x in found.items()}}
        raise NonFiniteUpdate(
            f"not finite: the norm of {', '.join(wrong)}; lower the learning rate, or check the "
            f"rewards and observations that go in",
            details,
        )
