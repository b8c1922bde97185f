"""A training of rlrun as a contestant, and where its time goes."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from rlrun import config as configs
from rlrun.build import assemble
from rlrun.run.training import Training

from .rounds import Contestant, synchronize

PARTS = ("env", "acting", "update", "replay", "curvature", "rest")
_FIXED = ["seed=0", "total_timesteps=1000000000"]


class Trained:
    """A training that goes on, a few updates at a time.

    Its unit is as many updates as have one logged among them, and one decomposition of ACKTR's
    factors, by the shares that they have in a long run.
    """

    def __init__(self, name: str, words: list[str]) -> None:
        self.name, self.words = name, words
        self.config = configs.check(configs.compose([*_FIXED, *words]))
        self.parts = assemble(self.config)
        self.training = Training(self.parts.algorithm, self.parts.collector)
        self.threads = torch.get_num_threads()
        algo = self.config["algo"]
        self.updates = math.lcm(self.config["log_interval"], algo.get("kfac_update", 1))
        self.learn(algo.get("cold_iter", 0) + 2)

    @property
    def contestant(self) -> Contestant:
        """It takes turns by units."""
        return Contestant(self.name, self.unit, self.threads, self.parts.device)

    def unit(self) -> int:
        """Environment steps of one unit, which are done."""
        return self.learn(self.updates)

    def learn(self, updates: int) -> int:
        """Environment steps of so many updates, which are done."""
        training, config = self.training, self.config
        before = training.step
        for _ in range(updates):
            rollout = training.collect()
            assert rollout is not None
            training.learn(rollout, config["total_timesteps"], config["log_interval"])
        return training.step - before

    def close(self) -> None:
        """Close the environments."""
        self.parts.collector.envs.close()


@contextmanager
def mean_replay() -> Iterator[None]:
    """Let ACER replay the mean number of segments, where it is whole, so that turns are alike."""
    draw = torch.poisson

    def mean(rates: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return rates if torch.equal(rates, rates.round()) else draw(rates, generator=generator)

    torch.poisson = mean  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.poisson = draw


class Clock:
    """Seconds by the part that is at work; at each moment it is exactly one."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._part, self._since = "rest", time.perf_counter()

    def switch(self, part: str) -> str:
        """Let another part be at work; the one that was."""
        synchronize(self._device)
        now, before = time.perf_counter(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    def calls(self, function: Callable[..., Any], part: str, stays: bool) -> Callable[..., Any]:
        """The function, whose calls are counted for a part; so is what follows, if it `stays`."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(part if stays else before)

        return counted

    def contexts(
        self, function: Callable[..., AbstractContextManager[Any]], part: str
    ) -> Callable[..., AbstractContextManager[Any]]:
        """The maker of contexts, the insides of which are counted for a part."""

        @contextmanager
        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            before = self.switch(part)
            try:
                with function(*args, **kwargs) as value:
                    yield value
            finally:
                self.switch(before)

        return counted


def split(trained: Trained, seconds: float) -> dict[str, float]:
    """Seconds per environment step by part, over whole units in at least so many seconds.

    env        the environments' own steps
    acting     the policy in them
    update     learning, apart from the next two
    replay     the memory, and learning from what it gives
    curvature  ACKTR: the passes that statistics are taken from, and the natural gradient
    rest       between these: the segments in hand, counters
    """
    algorithm, envs = trained.parts.algorithm, trained.parts.collector.envs
    clock, steps = Clock(trained.parts.device), 0
    torch.set_num_threads(trained.threads)
    with ExitStack() as stack:

        def replace(owner: object, name: str, by: Callable[..., Any]) -> None:
            stack.enter_context(_replaced(owner, name, by))

        def count(owner: object, name: str, part: str, stays: bool = False) -> None:
            replace(owner, name, clock.calls(getattr(owner, name), part, stays))

        count(envs, "step", "env")
        count(algorithm, "act", "acting")
        count(algorithm, "update", "update")
        if algorithm.memory is not None:
            count(algorithm.memory, "push", "replay")
            count(algorithm.memory, "sample", "replay", stays=True)  # learning from it follows
        optimizer: Any = getattr(algorithm, "optimizer", None)
        if hasattr(optimizer, "capture"):
            count(optimizer, "step", "curvature")
            replace(optimizer, "capture", clock.contexts(optimizer.capture, "curvature"))
        clock.switch("rest")
        clock.seconds = dict.fromkeys(PARTS, 0.0)
        while sum(clock.seconds.values()) < seconds or not steps:
            steps += trained.unit()
            clock.switch("rest")
    return {part: taken / steps for part, taken in clock.seconds.items()}


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """An attribute of this one object, replaced for a while."""
    own = vars(owner)
    before = own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
