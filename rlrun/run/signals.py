"""Stopping a run from outside: the handler only takes a note, the loop stops at a safe point."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Which signal asked the run to stop, if one did."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal, as shells count: 130 for Ctrl-C, 143 for SIGTERM; 0 for none."""
        return 0 if self.signal is None else 128 + self.signal


_open: list[StopRequest] = []
"""Requests of the sweep and of its job that this process has in hand, the inner one last."""


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request; a second signal ends the process at once.

    Whoever was asked to stop before passes that on to the requests that are opened inside.
    """
    request = StopRequest()
    request.signal = _open[-1].signal if _open else None

    def take_note(number: int, frame: FrameType | None) -> None:
        if request:
            os._exit(128 + number)
        request.signal = number

    previous = {
        number: signal.signal(number, take_note) for number in (signal.SIGINT, signal.SIGTERM)
    }
    _open.append(request)
    try:
        yield request
    finally:
        _open.pop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def pass_on(number: int) -> None:
    """Ask whoever has a request open, as the signal would that one of its jobs took."""
    if _open:
        _open[-1].signal = number
