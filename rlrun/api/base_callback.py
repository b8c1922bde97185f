"""What a callback is: a training tells it what happens, and each step it may end the training.

A training calls, in this order:

    init_callback(model)
    on_training_start(locals, globals)
        on_rollout_start()
            update_locals(locals), on_step()      after every step of all environments
        on_rollout_end()                          before the update
    on_training_end()                             always, also after an exception

Each may look into `locals`:

    self, callback                    the model, and what was given to `learn`
    total_timesteps                   environment steps at which the training ends
    log_interval, tb_log_name, reset_num_timesteps
    obs, rewards, dones               `[B, ...]`, of the last step; rewards are raw
    ep_returns, ep_lengths            of the episodes that ended in it

Own callbacks override the methods with an underscore: `_on_step` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np

Function = Callable[[dict[str, Any], dict[str, Any]], bool | None]
"""A callback in short: called with `locals` and `globals` after every step of the environments."""


class Logger(Protocol):
    """Takes numbers that a callback wants to have written with those of the training."""

    def record(self, key: str, value: float) -> None:
        """Keep a number under `group/name` for the next time that numbers are written."""


class BaseCallback:
    """Does nothing; a base for callbacks of one's own.

    Args:
        verbose: 0 to print nothing, 1 for news, 2 for more.
    """

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
        self.model: Any = None
        """The model that learns."""
        self.training_env: Any = None
        """Its environments: `model.get_env()`."""
        self.n_calls = 0
        """How often `on_step` was called; one call is a step of ALL environments."""
        self.num_timesteps = 0
        """The model's count of environment steps: `n_envs` more at each call."""
        self.locals: dict[str, Any] = {}
        """What the training tells of itself: see above. Arrays are valid until the next step."""
        self.globals: dict[str, Any] = {}
        self.logger: Logger | None = None
        self.parent: Any = None
        """The callback whose event calls this one, if any."""

    def init_callback(self, model: Any) -> None:
        """Get to know the model, before the training."""
        self.model = model
        self.training_env = model.get_env()
        self.logger = getattr(model, "logger", None)
        self._init_callback()

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """The training begins; the dicts are kept, not copied."""
        self.locals = locals_
        self.globals = globals_
        self.num_timesteps = self.model.num_timesteps
        self._on_training_start()

    def on_rollout_start(self) -> None:
        """The steps for the next update begin."""
        self._on_rollout_start()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Put new values into `locals`."""
        self.locals.update(locals_)

    def on_step(self) -> bool:
        """Count a step of all environments, or an event of the parent; False to stop."""
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        go_on = self._on_step()
        # numpy's False is what a comparison of arrays gives: as explicit as Python's.
        return not (isinstance(go_on, bool | np.bool_) and not go_on)

    def on_rollout_end(self) -> None:
        """The steps for an update are complete; the update comes next."""
        self._on_rollout_end()

    def on_training_end(self) -> None:
        """The training is over, whatever the reason."""
        self._on_training_end()

    def _init_callback(self) -> None:
        """To override."""

    def _on_training_start(self) -> None:
        """To override."""

    def _on_rollout_start(self) -> None:
        """To override."""

    def _on_step(self) -> bool | None:
        """To override; False, and nothing else, ends the training."""
        return True

    def _on_rollout_end(self) -> None:
        """To override."""

    def _on_training_end(self) -> None:
        """To override."""


class _Forwarding(BaseCallback):
    """Tells other callbacks all it is told, except for steps.

    It does so in the methods without an underscore, so that a class that overrides the others
    need not remember it.
    """

    def _others(self) -> Sequence[BaseCallback]:
        raise NotImplementedError

    def init_callback(self, model: Any) -> None:
        super().init_callback(model)
        for callback in self._others():
            callback.init_callback(model)

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        super().on_training_start(locals_, globals_)
        for callback in self._others():
            callback.on_training_start(locals_, globals_)

    def on_rollout_start(self) -> None:
        super().on_rollout_start()
        for callback in self._others():
            callback.on_rollout_start()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        super().update_locals(locals_)
        for callback in self._others():
            callback.update_locals(locals_)

    def on_rollout_end(self) -> None:
        super().on_rollout_end()
        for callback in self._others():
            callback.on_rollout_end()

    def on_training_end(self) -> None:
        with ExitStack() as rest:  # each has something to close, even if another one fails
            for callback in reversed(self._others()):
                rest.callback(callback.on_training_end)
            super().on_training_end()


class EventCallback(_Forwarding):
    """A base for callbacks that call another one when something happens: `_on_event`.

    Args:
        callback: its `parent` becomes this one; its `n_calls` counts events.
        verbose: as in `BaseCallback`.
    """

    def __init__(self, callback: BaseCallback | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.callback = callback
        if callback is not None:
            callback.parent = self

    def _others(self) -> Sequence[BaseCallback]:
        return [] if self.callback is None else [self.callback]

    def _on_event(self) -> bool:
        """Call the other one; False if it wants to stop."""
        return self.callback is None or self.callback.on_step()


class CallbackList(_Forwarding):
    """Several callbacks, one after the other.

    All are called at each step, also those after one that wants to stop. As a child of an
    `EventCallback` it hands its parent on.

    Args:
        callbacks: callbacks, functions or lists of them.
    """

    def __init__(self, callbacks: Sequence[BaseCallback | Function | Sequence[Any]]) -> None:
        super().__init__()
        self.callbacks = [as_callback(callback) for callback in callbacks]

    def _others(self) -> Sequence[BaseCallback]:
        return self.callbacks

    def init_callback(self, model: Any) -> None:
        """Get to know the model, and tell the others of it and of the parent."""
        if self.parent is not None:
            for callback in self.callbacks:
                callback.parent = self.parent
        super().init_callback(model)

    def _on_step(self) -> bool:
        wishes = [callback.on_step() for callback in self.callbacks]
        return all(wishes)


class ConvertCallback(BaseCallback):
    """A function as a callback, called after every step of the environments.

    Args:
        callback: called with `locals` and `globals`; False ends the training, None does not.
        verbose: as in `BaseCallback`.
    """

    def __init__(self, callback: Function, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.callback = callback

    def _on_step(self) -> bool | None:
        return self.callback(self.locals, self.globals)


def as_callback(callback: BaseCallback | Function | Sequence[Any] | None) -> BaseCallback:
    """One callback of whatever may be given for callbacks; None gives one that does nothing.

    Raises:
        TypeError: it is something else.
    """
    if callback is None:
        return BaseCallback()
    if isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, Sequence) and not isinstance(callback, str | bytes):
        return CallbackList(callback)
    if isinstance(callback, type):
        raise TypeError(
            f"the callback is the class {callback.__name__}; make an object of it first: "
            f"{callback.__name__}(...)"
        )
    if callable(callback):
        return ConvertCallback(callback)
    raise TypeError(
        "a callback is a BaseCallback, a function(locals, globals), a list of these, or None; "
        f"got {type(callback).__name__}"
    )
