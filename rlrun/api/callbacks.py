"""Callbacks that most trainings need: saving, evaluating, stopping, and doing so now and then."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlrun.api.base_callback import BaseCallback as BaseCallback
from rlrun.api.base_callback import CallbackList as CallbackList
from rlrun.api.base_callback import ConvertCallback as ConvertCallback
from rlrun.api.base_callback import EventCallback as EventCallback
from rlrun.api.base_callback import as_callback as as_callback
from rlrun.api.envs import engine_of
from rlrun.api.evaluation import evaluate_policy
from rlrun.run.console import say
from rlrun.run.store import make_folder, write_atomic


class CheckpointCallback(BaseCallback):
    """Saves the model now and then, as `{name_prefix}_{num_timesteps}_steps.zip`.

    Args:
        save_freq: after how many calls; a call is a step of all environments, so this is every
            `save_freq * n_envs` environment steps. `EveryNTimesteps` counts the latter.
        save_path: folder of the files, made if it is missing.
        name_prefix: begins their names.
        verbose: 2 to print a line for each.
        include_replay: save the replay memory, too (large).

    Raises:
        ValueError: `save_freq` is below 1.
    """

    def __init__(
        self,
        save_freq: int,
        save_path: str | Path,
        name_prefix: str = "rl_model",
        verbose: int = 0,
        include_replay: bool = False,
    ) -> None:
        super().__init__(verbose)
        if save_freq < 1:
            raise ValueError(f"save_freq has to be at least 1, not {save_freq}")
        self.save_freq = save_freq
        self.save_path = Path(save_path)
        self.name_prefix = name_prefix
        self.include_replay = include_replay

    def _init_callback(self) -> None:
        make_folder(self.save_path.absolute())

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            path = self.save_path / f"{self.name_prefix}_{self.num_timesteps}_steps.zip"
            self.model.save(path, include_replay=self.include_replay)
            if self.verbose > 1:
                say(f"saved the model as {path}")
        return True


class EvalCallback(EventCallback):
    """Evaluates the model now and then in an environment of its own, and keeps the best.

    Nothing of the training is touched: neither its environments nor its generators. What the
    model has learnt about the scale of observations is part of the model.

    `best_mean_reward` and `last_mean_reward` are the mean returns of the best evaluation and of
    the last one, -inf before the first. If the model has a logger, the numbers are recorded
    under `eval/`.

    Args:
        eval_env: an id, an environment or a batch of environments. It must not be one that is
            trained in. From an id, new environments are made for each evaluation.
        callback_on_new_best: called after each evaluation that is better than all before.
        n_eval_episodes: episodes of one evaluation.
        eval_freq: after how many calls; a call is a step of all environments of the training.
            0 or less: never.
        log_path: folder of `evaluations.npz`, with `timesteps` `[K]`, and `results` (returns) and
            `ep_lengths` `[K, n_eval_episodes]`; written anew after each of the K evaluations.
        best_model_save_path: folder of `best_model.zip`.
        deterministic: take the most probable actions instead of drawing them.
        render: show the environment.
        verbose: 1 to print a line for each evaluation.
    """

    def __init__(
        self,
        eval_env: str | gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any],
        callback_on_new_best: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10000,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        deterministic: bool = True,
        render: bool = False,
        verbose: int = 1,
    ) -> None:
        super().__init__(callback_on_new_best, verbose)
        self.eval_env = eval_env
        self.n_eval_episodes = n_eval_episodes
        self.eval_freq = eval_freq
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = (
            None if best_model_save_path is None else (Path(best_model_save_path))
        )
        self.deterministic = deterministic
        self.render = render
        self.best_mean_reward = -np.inf
        self.last_mean_reward = -np.inf
        self.evaluations_timesteps: list[int] = []
        self.evaluations_results: list[list[float]] = []
        self.evaluations_length: list[list[int]] = []

    def _init_callback(self) -> None:
        trained_in = [self.training_env, *getattr(self.training_env, "envs", [])]
        engine = engine_of(self.eval_env)
        shared = engine is not None and engine is engine_of(self.training_env)
        if shared or any(_same(self.eval_env, env) for env in trained_in):
            raise ValueError(
                "eval_env is an environment of the training, whose episodes an evaluation would "
                "break off; make another one, or give its id"
            )
        for folder in (self.log_path, self.best_model_save_path):
            if folder is not None:
                make_folder(folder.absolute())

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return True
        returns, lengths = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            deterministic=self.deterministic,
            render=self.render,
            return_episode_rewards=True,
        )
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(returns)
        self.evaluations_length.append(lengths)
        self._write()
        mean, std, length = float(np.mean(returns)), float(np.std(returns)), float(np.mean(lengths))
        self.last_mean_reward = mean
        is_best = mean > self.best_mean_reward
        if self.logger is not None:
            self.logger.record("eval/mean_reward", mean)
            self.logger.record("eval/std_reward", std)
            self.logger.record("eval/mean_ep_length", length)
        if self.verbose > 0:
            say(
                f"evaluation at step {self.num_timesteps:,}: return {mean:.2f} +- {std:.2f} over "
                f"{len(returns)} episodes, length {length:.1f}{', the best so far' * is_best}"
            )
        if not is_best:
            return True
        self.best_mean_reward = mean
        if self.best_model_save_path is not None:
            self.model.save(self.best_model_save_path / "best_model.zip")
        return self._on_event()

    def _write(self) -> None:
        if self.log_path is None:
            return
        data = io.BytesIO()
        np.savez(
            data,
            timesteps=self.evaluations_timesteps,
            results=self.evaluations_results,
            ep_lengths=self.evaluations_length,
        )
        write_atomic(self.log_path / "evaluations.npz", data.getvalue())


def _same(one: Any, other: Any) -> bool:
    """Whether two environments are one, inside of all their wrappers."""
    innermost = [getattr(env, "unwrapped", env) for env in (one, other)]
    return innermost[0] is innermost[1]


class StopTrainingOnRewardThreshold(BaseCallback):
    """Ends the training once an evaluation is good enough: the child of an `EvalCallback`.

    Args:
        reward_threshold: the mean return to reach.
        verbose: 1 to print why the training ends.
    """

    def __init__(self, reward_threshold: float, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.reward_threshold = reward_threshold

    def _init_callback(self) -> None:
        if not hasattr(self.parent, "best_mean_reward"):
            raise ValueError(
                "StopTrainingOnRewardThreshold looks at the evaluations of an EvalCallback; give "
                "it to one: EvalCallback(env, callback_on_new_best=...)"
            )

    def _on_step(self) -> bool:
        best = self.parent.best_mean_reward
        if best < self.reward_threshold:
            return True
        if self.verbose > 0:
            say(f"the mean return {best:.2f} has reached {self.reward_threshold}: training ends")
        return False


class EveryNTimesteps(EventCallback):
    """Calls another callback every `n_steps` environment steps, at the first call after them.

    Args:
        n_steps: environment steps, over all environments.
        callback: called then.

    Raises:
        ValueError: `n_steps` is below 1.
    """

    def __init__(self, n_steps: int, callback: BaseCallback) -> None:
        super().__init__(callback)
        if n_steps < 1:
            raise ValueError(f"n_steps has to be at least 1, not {n_steps}")
        self.n_steps = n_steps
        self.last_time_trigger = 0

    def _on_training_start(self) -> None:
        # A loaded model has steps from before; in a new training the count may begin again.
        if self.n_calls == 0 or self.num_timesteps < self.last_time_trigger:
            self.last_time_trigger = self.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps - self.last_time_trigger < self.n_steps:
            return True
        self.last_time_trigger = self.num_timesteps
        return self._on_event()
