"""One training: who learns, who acts, and how far they are; whatever watches is elsewhere."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from rlrun.algorithms.base import Algorithm
from rlrun.data.collector import Collector
from rlrun.data.rollout import Rollout
from rlrun.envs import Episode, Interface, Step
from rlrun.space_codec import decode, encode

WINDOW = 100  # episodes over which the return of the training is averaged
CLOSELY = 10  # updates at least from one close look to the next, which takes time to learn in


NOTHING_YET: dict[str, Any] = {
    "step": 0,
    "updates": 0,
    "episodes": 0,
    "returns": [],
    "lengths": [],
    "recorded": {},
}
"""The counters of a training that has not begun."""


class Watcher(Protocol):
    """Somebody who looks on while experience is collected, and may end it."""

    def rollout_start(self) -> None:
        """Called before a segment is collected."""

    def step(self, step: Step) -> bool:
        """Called after each step of all environments; False stops the training there."""

    def rollout_end(self) -> None:
        """Called when a segment is collected, before anything is learnt from it."""


class Ended(NamedTuple):
    """A finished episode, and the environment steps of the training up to its end."""

    step: int
    episode: Episode


class Training:
    """Owns the counters and the window of recent returns.

    Args:
        algorithm: learns.
        collector: acts.
    """

    def __init__(self, algorithm: Algorithm, collector: Collector) -> None:
        self.algorithm = algorithm
        self.collector = collector
        self.step = 0  # environment steps over all environments
        self.updates = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[int] = deque(maxlen=WINDOW)
        self.ended: list[Ended] = []  # in the last segment
        self.recorded: dict[str, float] = {}  # by watchers, for the next set of metrics

    def collect(self, watcher: Watcher | None = None) -> Rollout | None:
        """The next segment; None if the watcher has stopped.

        The steps so far stay in hand then, and the next call goes on with them.
        """

        def account(step: Step) -> bool:
            self.step += self.collector.envs.n_envs
            for episode in step.episodes:
                self.episodes += 1
                self.returns.append(episode.ret)
                self.lengths.append(episode.length)
                self.ended.append(Ended(self.step, episode))
            return watcher is None or watcher.step(step)

        self.ended.clear()
        if watcher is not None:
            watcher.rollout_start()
        rollout = self.collector.collect(self.algorithm.act, account)
        if rollout is not None and watcher is not None:
            watcher.rollout_end()
        return rollout

    def learn(self, rollout: Rollout, total_timesteps: int, log_interval: int) -> dict[str, float]:
        """Learn from a segment that was just collected.

        Args:
            rollout: the segment.
            total_timesteps: at which the training ends; tells the progress.
            log_interval: updates from one set of metrics to the next.

        Returns:
            Metrics; empty between two logged updates. Those that take passes of their own are
            there at most once in `CLOSELY` updates.
        """
        self.updates += 1
        log = self.updates % log_interval == 0
        closely = self.updates % (log_interval * math.ceil(CLOSELY / log_interval)) == 0
        progress = min(1.0, self.step / total_timesteps)
        learnt = self.algorithm.update(rollout, progress, log, closely)
        if not log:
            return {}
        metrics: dict[str, float] = {"train/episodes": self.episodes}
        return_mean, length_mean = self.recent()
        if return_mean is not None and length_mean is not None:
            metrics |= {"train/return_mean": return_mean, "train/length_mean": length_mean}
        metrics |= dict(learnt) | self.recorded
        self.recorded.clear()
        return metrics

    def recent(self) -> tuple[float | None, float | None]:
        """Mean return and length of the last episodes; None before the first has ended."""
        if not self.returns:
            return None, None
        return sum(self.returns) / len(self.returns), sum(self.lengths) / len(self.lengths)

    def state_dict(self) -> dict[str, Any]:
        """All that learning depends on, but the entries of the algorithm's memory."""
        return {
            "interface": interface_state(self.collector.envs.interface),
            "algorithm": self.algorithm.state_dict(),
            "collector": self.collector.state_dict(),
            "training": {
                "step": self.step,
                "updates": self.updates,
                "episodes": self.episodes,
                "returns": list(self.returns),
                "lengths": list(self.lengths),
                "recorded": dict(self.recorded),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take over what `state_dict` gave.

        Returns:
            Whether the environments are where they were. If they cannot be replayed, all of them
            begin new episodes.
        """
        self.algorithm.load_state_dict(state["algorithm"])
        exact = self.collector.load_state_dict(state["collector"])
        self.load_counters(state["training"])
        return exact

    def load_counters(self, kept: Mapping[str, Any]) -> None:
        """Take over how far the training is, from the part `training` of `state_dict`."""
        require_counters(kept)
        self.step = kept["step"]
        self.updates = kept["updates"]
        self.episodes = kept["episodes"]
        self.returns = deque(kept["returns"], WINDOW)
        self.lengths = deque(kept["lengths"], WINDOW)
        self.recorded.clear()
        self.recorded.update(kept["recorded"])


def require_counters(kept: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are the counters of a training."""
    counts = [kept[name] for name in ("step", "updates", "episodes")] + kept["lengths"]
    values = [*kept["returns"], *kept["recorded"].values()]
    if not all(type(n) is int and n >= 0 for n in counts) or not all(
        isinstance(value, int | float) for value in values
    ):
        raise ValueError("these are no counters of a training")


def interface_state(interface: Interface) -> dict[str, Any]:
    """What an algorithm has to know of its environments, as data."""
    return {
        "n_envs": interface.n_envs,
        "observation_space": encode(interface.observation_space),
        "action_space": encode(interface.action_space),
        "frame_stack": interface.frame_stack,
    }


def interface_of(state: Mapping[str, Any]) -> Interface:
    """`interface_state` undone; raises ValueError if it is damaged."""
    try:
        observations, actions = decode(state["observation_space"]), decode(state["action_space"])
        return Interface(state["n_envs"], observations, actions, state["frame_stack"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"this describes no environments: {error}") from error
