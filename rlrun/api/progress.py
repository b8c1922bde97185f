"""The progress of a training on the terminal, as a callback."""

import time
from collections import deque

from rlrun.api.base_callback import BaseCallback
from rlrun.run.console import Screen, is_terminal
from rlrun.run.training import WINDOW


class ProgressBarCallback(BaseCallback):
    """Shows how far the training is, its speed, the time left and the recent return.

    Lines printed meanwhile appear above it. Where output is no terminal nothing is shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self._screen: Screen | None = None
        self._began = 0.0
        self._first_step = 0
        self._returns: deque[float] = deque(maxlen=WINDOW)

    def _on_training_start(self) -> None:
        self._close()  # a training that could not start left it open
        if is_terminal():
            self._began = time.monotonic()
            self._first_step = self.num_timesteps
            screen = Screen(
                type(self.model).__name__, {}, self.locals["total_timesteps"], self.num_timesteps
            )
            self._screen = screen.__enter__()

    def _on_step(self) -> bool:
        if self._screen is not None:
            steps = self.num_timesteps - self._first_step
            self._returns += self.locals.get("ep_returns", ())
            recent = self._returns
            self._screen.update(
                self.num_timesteps,
                steps / max(1e-9, time.monotonic() - self._began),
                {},
                sum(recent) / len(recent) if recent else None,
                None,
            )
        return True

    def _on_training_end(self) -> None:
        self._close()

    def _close(self) -> None:
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.__exit__(None, None, None)
