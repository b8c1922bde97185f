"""The training loop: collect, learn, and what is due between two updates.

The loop knows no algorithm. Its named parts are the checkpoint; watching (logs, evaluation,
checkpoints, the screen) draws on no generator of the training and changes none of its state.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlrun.run.checkpoint import Checkpointer
from rlrun.run.console import Screen
from rlrun.run.evaluate import Evaluation
from rlrun.run.loggers import View
from rlrun.run.logs import EpisodeLog, MetricsLog
from rlrun.run.signals import StopRequest
from rlrun.run.training import Training, Watcher

logger = logging.getLogger(__name__)

WARM_UP = 2  # updates left out of the speed: first calls allocate and compile


class NotSavedError(OSError):
    """The checkpoint at the end of a process could not be written; the one before is intact."""


class Trainer:
    """A training in a folder of its own. Owns the best evaluation and the clock.

    Args:
        training: learns, one segment at a time.
        total_timesteps: environment steps over all environments; the last segment may overshoot.
        log_interval: updates from one logged row to the next.
        evaluate: plays the evaluation episodes; returns None if it was stopped. None itself for
            no evaluation.
        evaluate_every: environment steps between evaluations; None for only one at the end.
        save_every: environment steps between checkpoints; None for not by steps.
        save_every_seconds: None for not by time.
        checkpointer, metrics_log, episode_log, evaluation_log: where things go.
        stop: asked between updates.
        watcher: looks on at each step, and may end the training.
    """

    def __init__(
        self,
        training: Training,
        *,
        total_timesteps: int,
        log_interval: int,
        evaluate: Callable[[], Evaluation | None] | None,
        evaluate_every: int | None,
        save_every: int | None,
        save_every_seconds: float | None,
        checkpointer: Checkpointer,
        metrics_log: MetricsLog,
        episode_log: EpisodeLog,
        evaluation_log: MetricsLog,
        stop: StopRequest,
        watcher: Watcher | None = None,
    ) -> None:
        self.training = training
        self.total_timesteps = total_timesteps
        self.log_interval = log_interval
        self.evaluate = evaluate
        self.evaluate_every = evaluate_every
        self.save_every = save_every
        self.save_every_seconds = save_every_seconds
        self.checkpointer = checkpointer
        self.metrics_log = metrics_log
        self.episode_log = episode_log
        self.evaluation_log = evaluation_log
        self.stop = stop
        self.watcher = watcher

        self.watcher_stopped = False
        self.best_return = float("-inf")
        self.evaluated_at = 0
        self.last_evaluation: dict[str, Any] | None = None
        self.seconds_before = 0.0  # spent by earlier processes of this run
        # Of the loop, evaluations and the first updates of each process left out.
        self.timed_steps = 0
        self.timed_seconds = 0.0
        self._started = time.monotonic()
        self._shown: dict[str, float] = {}

    def begin(self) -> None:
        """Start from nothing: first episodes, empty logs."""
        self.training.collector.reset()
        for log in self._logs().values():
            log.rewind(0)

    def run(self, screen: Screen, views: Sequence[View]) -> bool:
        """Train until the steps are done or a stop is requested, then save.

        Args:
            screen: shows the progress.
            views: take every logged row, beside the files.

        Returns:
            Whether the training is finished, or its watcher has stopped it.

        Raises:
            NonFiniteUpdate: the algorithm broke down; the last checkpoint is intact.
            NotSavedError: the last checkpoint could not be written.
        """
        self.screen, self.views = screen, views
        self._started = time.monotonic()
        self._schedule_saves()
        warm_up = WARM_UP
        while True:
            if self._evaluation_is_due():
                self._evaluate()
            if self._saved_on_request():
                continue  # an evaluation was broken off for it
            if self.stop or self.step >= self.total_timesteps:
                break
            begin, before = time.perf_counter(), self.step
            self._save_if_due()
            if not self._iterate():
                self.watcher_stopped = True
                break
            if warm_up:
                warm_up -= 1
            else:
                self.timed_steps += self.step - before
                self.timed_seconds += time.perf_counter() - begin
        while self.watcher_stopped and self._evaluation_is_due():
            self._evaluate()
            if not self._saved_on_request():
                break
        try:
            self._save(best=False)
        except OSError as error:
            raise NotSavedError(f"the last checkpoint could not be saved: {error}") from error
        return self._is_over() and not self._evaluation_is_due()

    def _is_over(self) -> bool:
        return self.step >= self.total_timesteps or self.watcher_stopped

    @property
    def steps_per_second(self) -> float:
        """Environment steps over the seconds of the loop; 0 before it is known."""
        return self.timed_steps / self.timed_seconds if self.timed_seconds else 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds spent on this run, by all its processes."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def step(self) -> int:
        """Environment steps so far, over all environments."""
        return self.training.step

    def _iterate(self) -> bool:
        """Collect one segment and learn from it; False if the watcher has stopped it."""
        training = self.training
        rollout = training.collect(self.watcher)
        for step, episode in training.ended:
            self.episode_log.write(step, episode.env, episode.ret, episode.length, self.seconds)
        if rollout is None:
            return False
        metrics = training.learn(rollout, self.total_timesteps, self.log_interval)
        if metrics:
            metrics["time/seconds"] = self.seconds
            metrics["time/steps_per_second"] = self.steps_per_second
            self.metrics_log.write(self.step, metrics)
            self._view(metrics)
            self._shown = self._shown | metrics
        self.screen.update(self.step, self.steps_per_second, self._shown, *training.recent())
        return True

    def _view(self, metrics: Mapping[str, float]) -> None:
        for view in self.views:
            view.write(self.step, metrics)

    def _evaluation_is_due(self) -> bool:
        if self.evaluate is None or self.evaluated_at == self.step:
            return False
        if self._is_over():
            return True
        every = self.evaluate_every
        return every is not None and self.step // every > self.evaluated_at // every

    def _evaluate(self) -> None:
        """Play the evaluation episodes; a stop leaves them due, for the resumed run to play."""
        assert self.evaluate is not None
        evaluation = self.evaluate()
        if evaluation is None:
            return
        self.evaluated_at = self.step
        self.last_evaluation = {"step": self.step, **evaluation.to_json()}
        mean, std, episodes = evaluation.mean, evaluation.std, len(evaluation.returns)
        row = {"return_mean": mean, "return_std": std, "episodes": episodes}
        self.evaluation_log.write(self.step, row)
        self._view({"eval/return_mean": mean, "eval/return_std": std})
        self.screen.evaluation(self.step, mean, std, episodes)
        if mean > self.best_return:
            before, self.best_return = self.best_return, mean
            if not self._try_to_save(best=True):
                self.best_return = before

    def _schedule_saves(self) -> None:
        """Set when the next checkpoint is due, by steps and by time."""
        every, seconds = self.save_every, self.save_every_seconds
        self._save_at_step = math.inf if every is None else (self.step // every + 1) * every
        self._save_at_time = math.inf if seconds is None else time.monotonic() + seconds

    def _save_if_due(self) -> None:
        if self.step >= self._save_at_step or time.monotonic() >= self._save_at_time:
            self._try_to_save(best=False)

    def _saved_on_request(self) -> bool:
        """Save if somebody wants a checkpoint now; whether it was so."""
        wanted, self.stop.save = self.stop.save, False
        if wanted:
            logger.info("Saving at step %s, for the process may be killed", f"{self.step:,}")
            self._try_to_save(best=False)
        return wanted

    def _try_to_save(self, best: bool) -> bool:
        """Save; if the disk fails, training goes on and the next checkpoint tries again."""
        try:
            self._save(best)
        except OSError as error:
            logger.warning("no checkpoint at step %d, will retry: %s", self.step, error)
            return False
        finally:
            self._schedule_saves()
        return True

    def _save(self, best: bool) -> None:
        memory = self.training.algorithm.memory
        self.checkpointer.save(self.step, self.state_dict(), memory, best=best, meta={})

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return self.training.state_dict() | {
            "run": {
                "best_return": self.best_return,
                "evaluated_at": self.evaluated_at,
                "last_evaluation": self.last_evaluation,
                "seconds": self.seconds,
                "timed_steps": self.timed_steps,
                "timed_seconds": self.timed_seconds,
                "logs": {name: log.offset for name, log in self._logs().items()},
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take over what `state_dict` gave; the logs are cut to where they were then.

        A state without the part `run` is that of a model that was trained without a folder.

        Returns:
            Whether the environments are where they were. If they cannot be replayed, all of them
            begin new episodes.
        """
        exact = self.training.load_state_dict(state)
        offsets = dict.fromkeys(self._logs(), 0)
        if kept := state.get("run"):
            self.best_return = kept["best_return"]
            self.evaluated_at = kept["evaluated_at"]
            self.last_evaluation = kept["last_evaluation"]
            self.seconds_before = kept["seconds"]
            self.timed_steps = kept["timed_steps"]
            self.timed_seconds = kept["timed_seconds"]
            offsets = kept["logs"]
        for name, log in self._logs().items():
            log.rewind(offsets[name])
        return exact

    def result(self) -> dict[str, Any]:
        """What came out, for `result.json`."""
        return_mean, _ = self.training.recent()
        return {
            "step": self.step,
            "total_timesteps": self.total_timesteps,
            "steps_per_second": self.steps_per_second,
            "eval": self.last_evaluation,
            "train_return_last100": return_mean,
        }

    def close(self) -> None:
        """Close the logs."""
        for log in self._logs().values():
            log.close()

    def _logs(self) -> dict[str, MetricsLog | EpisodeLog]:
        return {
            "metrics": self.metrics_log,
            "episodes": self.episode_log,
            "evaluations": self.evaluation_log,
        }
