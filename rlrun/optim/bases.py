"""When the factors are decomposed, and from when on the result is used."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from rlrun.optim.decompose import Decomposition, decompose


class Bases:
    """The decomposition in force, and the next one in the making.

    Args:
        interval: steps from the beginning of one to that of the next.
        lag: steps from the beginning of one to its use, at most `interval`; the first is used at
            once.
        background: decompose in a thread, on a GPU in a stream of its own. It changes no result: a
            step waits for what it needs.
        exact: by eigenvectors; if not, by inverses.
        damping: of the inverses.
    """

    def __init__(
        self, interval: int, lag: int, background: bool, exact: bool, damping: float
    ) -> None:
        if not 0 <= lag <= interval:
            raise ValueError(f"lag={lag} is not from 0 to update_interval={interval}")
        self.interval, self.lag = interval, lag
        self.exact, self.damping = exact, damping
        self.current: Decomposition | None = None
        self.fallbacks = 0
        self.negatives: Tensor | int = 0
        self._pending: Future[Decomposition] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None
        if background:
            # It computes with as many threads as this one: the last bits depend on it.
            threads = (torch.get_num_threads(),)
            self._pool = ThreadPoolExecutor(1, "kfac", torch.set_num_threads, threads)

    def at(self, step: int, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Decomposition:
        """What is in force at a step, counted from the first that asks; renewed if that is due.

        Raises:
            NonFiniteUpdate: the factors cannot be decomposed.
        """
        if self._pending and step % self.interval == self.lag % self.interval:
            self._take_over()
        if step % self.interval == 0:
            self._begin(step, factors)
            if self.lag == 0 or self.current is None:
                self._take_over()
        assert self.current is not None
        return self.current

    def _begin(self, step: int, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        if self._pool is None:
            self._pending = _done(decompose(factors, self.exact, self.damping, step))
        else:  # the factors go on changing
            copies = {name: (a.clone(), g.clone()) for name, (a, g) in factors.items()}
            devices = [a.device for a, _ in copies.values() if a.is_cuda]
            copied = None
            if devices:
                self._stream = self._stream or torch.cuda.Stream(devices[0])  # type: ignore[no-untyped-call]
                copied = torch.cuda.current_stream(devices[0]).record_event()
            how = copies, self.exact, self.damping, step
            self._pending = self._pool.submit(_beside, self._stream, copied, *how)

    def _take_over(self) -> None:
        """Put the pending decomposition in force, waiting for it."""
        assert self._pending is not None
        pending, self._pending = self._pending, None  # also if it failed
        self.current = pending.result()
        if self._stream is not None:
            # The allocator knows of the stream that they were made in alone, and would give their
            # memory back to it while this one still reads them.
            for tensor in self.current.tensors():
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        self.fallbacks += self.current.fallbacks
        self.negatives += self.current.negatives

    def state_dict(self) -> dict[str, Any]:
        """Both decompositions, the one in the making waited for, and the counts."""
        pending = self._pending.result() if self._pending else None
        return {
            "current": self.current and self.current.state_dict(),
            "pending": pending and pending.state_dict(),
            "fallbacks": self.fallbacks,
            "negatives": int(self.negatives),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take over what `state_dict` gave."""
        current, pending = (
            state[name] and Decomposition.from_state_dict(state[name], device)
            for name in ("current", "pending")
        )
        self.current = current
        self._pending = _done(pending) if pending else None
        self.fallbacks, self.negatives = state["fallbacks"], state["negatives"]


def _beside(
    stream: torch.cuda.Stream | None, copied: torch.cuda.Event | None, *how: Any
) -> Decomposition:
    """`decompose` in a thread; on a GPU in `stream`, when `copied` says that the factors are there.

    This thread waits for the GPU, and nobody else: what it returns is complete, for any stream,
    and nothing reads the copies of the factors any more.
    """
    if stream is None or copied is None:
        return decompose(*how)
    with torch.cuda.stream(stream):
        stream.wait_event(copied)
        try:
            return decompose(*how)
        finally:
            stream.synchronize()


def _done(decomposition: Decomposition) -> Future[Decomposition]:
    """A future that holds its result already."""
    future: Future[Decomposition] = Future()
    future.set_result(decomposition)
    return future
