"""A model: an algorithm, its environments and all that belongs to them, as one object.

The constructor makes a config of the same kind as the command line's, and from there on everything
is built by the same functions: the same settings, seed and steps give the same weights.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from numpy.typing import ArrayLike

from rlrun import config as configs
from rlrun.api import saving
from rlrun.api.base_callback import BaseCallback, Function, as_callback
from rlrun.api.envs import Batch, Env, as_batch, as_engine
from rlrun.api.learning import Report, Watch, train
from rlrun.api.policies import policy_node, require_observations
from rlrun.api.settings import config_of, schedule_node
from rlrun.api.situated import Situated
from rlrun.build import make_algorithm
from rlrun.run.rng import generator
from rlrun.run.training import interface_state
from rlrun.schema import UserError


class Model(Situated):
    """What ACER, ACKTR and A2C have in common; use one of these.

    Args:
        policy: "MlpPolicy", "MlpLstmPolicy", "MlpLnLstmPolicy", "CnnPolicy", "CnnLstmPolicy",
            "CnnLnLstmPolicy"; a name given to `register_policy`; a class, or its dotted name:
            a `torch.nn.Module` that encodes observations, or a whole `rlrun.Policy`.
        env: id of an environment, a `gymnasium.Env`, or a `gymnasium.vector.VectorEnv`.
        policy_kwargs: settings of the policy: ours, or `net_arch`, `act_fun`, `layers`, `n_lstm`.
        lr_schedule: factor on the learning rate as a function of the progress in [0, 1]: the name
            of a function in `rlrun.functional.schedules`, a dotted name, or a function.
        seed: of all random numbers; None for one from the system, which is then in `model.seed`.
        verbose: 1 prints the metrics and what is going on.
        tensorboard_log: folder that takes TensorBoard's runs.
        full_tensorboard_log: nothing more is logged; taken for the sake of older programs.
        n_cpu_tf_sess: CPU threads of PyTorch; None for one for vectors, all cores for pictures.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:N", "mps".
        clip_rewards: learn from the sign of the rewards; None for Atari games only.
        normalize_observations: scale vectors by their running mean and deviation.
        settings: hyperparameters of the algorithm.

    Raises:
        UserError: a setting that does not exist or does not fit, with what is allowed.
        TypeError: `env` is no environment.
        ValueError: there is no such policy.
    """

    algorithm_type: ClassVar[type[Any]]
    """The algorithm of the model."""

    def __init__(
        self,
        policy: str | Callable[..., Any],
        env: str | Env | Batch | None,
        *,
        policy_kwargs: Mapping[str, Any] | None = None,
        lr_schedule: str | Callable[[float], float] = "linear",
        seed: int | None = None,
        verbose: int = 0,
        tensorboard_log: str | os.PathLike[str] | None = None,
        full_tensorboard_log: bool = False,
        n_cpu_tf_sess: int | None = None,
        device: str = "auto",
        clip_rewards: bool | None = None,
        normalize_observations: bool = False,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        engine = None if env is None else as_engine(env)
        config, given = config_of(
            self.algorithm_type,
            engine,
            policy=policy_node(policy, policy_kwargs),
            lr_schedule=schedule_node(lr_schedule),
            seed=secrets.randbits(31) if seed is None else seed,
            device=device,
            threads=n_cpu_tf_sess,
            clip_rewards=clip_rewards,
            normalize_observations=normalize_observations,
            settings=settings,
        )
        self._begin(config, given, verbose, tensorboard_log)
        if env is not None and engine is not None:
            require_observations(policy, engine.observation_space)
            self._engine, self._env = engine, as_batch(env, engine)
            self._interface = engine.interface
        if _init_setup_model:
            self.setup_model()

    def _begin(
        self,
        config: dict[str, Any],
        given: configs.Given,
        verbose: int,
        tensorboard_log: str | os.PathLike[str] | None,
    ) -> None:
        """What there is before anything is built."""
        self.config, self._given = config, given
        self.verbose, self.tensorboard_log = verbose, tensorboard_log
        self._interface = self._engine = self._env = self._training = None
        self._kept, self._learning = {}, False

    def setup_model(self) -> None:
        """Build networks, optimiser and memory anew; the constructor does it, unless told not to.

        Raises:
            UserError: there is no environment yet, or they do not fit each other.
        """
        self._require_idle("setup_model")
        if self._interface is None:
            raise UserError("env: there is none; give one to the constructor or to set_env")
        self._rngs = {n: generator(self.seed, n) for n in ("replay", "action", "predict")}
        rng = self._rngs["replay"]
        self.algorithm = make_algorithm(self.config, self._interface, rng, self._given)
        self._threads = torch.get_num_threads()
        if self._engine is not None:
            self._train_in(self._engine)

    def learn(
        self,
        total_timesteps: int,
        callback: BaseCallback | Function | Sequence[Any] | None = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
    ) -> Self:
        """Train.

        Episodes and the replay memory go on from call to call.

        Args:
            total_timesteps: steps over all environments; the last segment may overshoot.
            callback: looks on at every step, and stops by returning False: a `BaseCallback`, a
                function of two dicts (locals, globals), or a list of them.
            log_interval: updates from one row of metrics to the next; metrics that take time to
                learn in are at least 10 updates apart.
            tb_log_name: name of the run in TensorBoard; None for that of the class.
            reset_num_timesteps: count the steps from zero. If not, go on with the last run of
                TensorBoard, and with the schedule: its progress is over all steps, also the past.

        Returns:
            The model.

        Raises:
            ValueError: there is no environment, or no step to take.
            NonFiniteUpdate: the algorithm broke down; the weights are those before the update. On a
                GPU they may be broken: they are saved no more then.
        """
        self._require_idle("learn")
        training, looking_on = self._ready(), as_callback(callback)
        if int(total_timesteps) < 1 or int(log_interval) < 1:
            raise ValueError(
                f"total_timesteps={total_timesteps}, log_interval={log_interval}: at least 1"
            )
        if reset_num_timesteps:
            training.step = 0
        total = training.step + int(total_timesteps)
        settings = {"total_timesteps": total, "log_interval": int(log_interval)}
        self.config = {**self.config, **settings}
        name = tb_log_name or type(self).__name__
        told = {"tb_log_name": name, "reset_num_timesteps": reset_num_timesteps, **settings}
        report = Report(self.verbose > 0, self.tensorboard_log, name, training.step)
        self._learning = True
        try:
            with report, Watch(self, looking_on, told) as watch:
                train(training, total, int(log_interval), watch, report)
        finally:
            self._learning = False
        return self

    def save(self, save_path: saving.Target, include_replay: bool = True) -> None:
        """Save the whole training into one file, without pickle, from which it goes on exactly.

        Args:
            save_path: path, to which `.zip` is added if it has no suffix, or a binary file.
            include_replay: whether the replay memory of ACER goes with it; without it files are
                small, and a training that goes on begins with an empty one.

        Raises:
            OSError: the disk refuses; a file that was there stays as it was.
        """
        if self._interface is None:
            raise ValueError("there is nothing to save before there is an environment")
        self._require_setup()
        state = {
            "interface": interface_state(self._interface),
            "algorithm": self.algorithm.state_dict(),
            **(self._progress()),
        }
        if not include_replay and "memory" in state["algorithm"]:
            state["algorithm"]["memory"] = None
        memory = self.algorithm.memory if include_replay else None
        saving.write(save_path, self.config, state, memory)

    @classmethod
    def load(
        cls,
        load_path: saving.Target,
        env: str | Env | Batch | None = None,
        custom_objects: Mapping[str, Any] | None = None,
        *,
        checkpoint: str | int = "last",
        obs_rms: Mapping[str, ArrayLike] | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A saved model, a run of the command line, or a model of stable-baselines 2.

        In the environments of before (or in equal ones, as many) training goes on exactly where it
        was; in others it begins new episodes.

        Args:
            load_path: file, or folder of a run.
            env: None for one made from the id in the file when it is first needed.
            custom_objects: in place of what the file names: policy, lr_schedule.
            checkpoint: of a run: "last", "best", or a step.
            obs_rms: moments of the observations, for a model of stable-baselines 2 that was
                trained with `VecNormalize`: arrays `mean` and `var`, or a .json or .npz of them.
            kwargs: arguments of the constructor that are to be other than in the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds another algorithm, or a policy with other settings.
            UserError: it is damaged, or names classes that are not rlrun's.
        """
        from rlrun.api import loading  # which makes models, and so stands above this file

        changes = {**(custom_objects or {}), **kwargs}
        return loading.load(cls, load_path, env, changes, checkpoint, obs_rms)
