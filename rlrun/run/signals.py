"""Stopping a run from outside: the handler only takes a note, the loop stops at a safe point."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Which signal asked the run to stop, if one did, and whether a checkpoint is wanted."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.save = False
        """A checkpoint is wanted at the next safe point, and then to go on."""

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def is_pressing(self) -> bool:
        """Whether to break off what takes long and can be done again."""
        return self.save or bool(self)

    @property
    def exit_code(self) -> int:
        """128 + the signal, as shells count: 130 for Ctrl-C, 143 for SIGTERM; 0 for none."""
        return 0 if self.signal is None else 128 + self.signal


_standing: StopRequest | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request; a second signal ends the process at once.

    Inside of `cluster_signals` it is the request of that.
    """
    if _standing is not None:
        yield _standing
        return
    request = StopRequest()

    def take_note(number: int, frame: FrameType | None) -> None:
        if request:
            os._exit(128 + number)
        request.signal = number

    with _handled((signal.SIGINT, signal.SIGTERM), take_note):
        yield request


@contextmanager
def cluster_signals() -> Iterator[StopRequest]:
    """Take signals as a job of a cluster has to, from now on, whatever the process does.

    SIGUSR2 (the time limit is near, or a preemption) and SIGINT ask to save and stop. SIGTERM asks
    to save and go on until the process is killed: one that ends in that time counts as done, and
    the cluster would not begin it again.
    """
    global _standing
    request = StopRequest()

    def take_note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            request.save = True
        else:
            request.signal = number

    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGUSR2), take_note):
        _standing = request
        try:
            yield request
        finally:
            _standing = None


@contextmanager
def _handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
