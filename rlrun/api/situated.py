"""An agent in its environments, and the training that goes on in them."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rlrun import config as configs
from rlrun.api.agent import Agent
from rlrun.api.envs import Batch, Env, as_batch, as_engine, require_same_spaces
from rlrun.api.learning import Record
from rlrun.api.settings import env_node
from rlrun.build import make_collector, make_envs
from rlrun.envs import VectorEnv
from rlrun.envs.batch import Environments
from rlrun.evaluation import fitting
from rlrun.run.rng import stream_seed
from rlrun.run.training import NOTHING_YET, Training

logger = logging.getLogger(__name__)


class Situated(Agent):
    """Owns the environments, and how far the training in them is."""

    _engine: VectorEnv | None
    _env: Batch | None
    _training: Training | None
    _kept: Mapping[str, Any]
    """How far a loaded model is, until it has environments."""
    _learning: bool
    """Is a training going on, and this is a callback of it?"""
    _given: configs.Given

    def _train_in(self, engine: VectorEnv) -> None:
        """Begin here, or go on where a loaded model was."""
        engine.reseed(stream_seed(self.seed, "env"))
        collector = make_collector(self.config, engine, self.algorithm, self._rngs["action"])
        self._training = Training(self.algorithm, collector)
        if self._kept:
            with fitting("the file"):
                state = self._kept["collector"]
                if state is not None and not collector.load_state_dict(state):
                    logger.warning("The environments are not where they were: new episodes begin")
                self._training.load_counters(self._kept["training"])
            self._kept = {}

    @property
    def num_timesteps(self) -> int:
        """Environment steps of the training so far; grows by `n_envs` with each step of all."""
        if self._training is not None:
            return self._training.step
        return int(self._kept["training"]["step"]) if self._kept else 0

    @property
    def logger(self) -> Record:
        """Takes what callbacks measure: `model.logger.record("group/name", value)`."""
        return Record(self._ready().recorded)

    def get_env(self) -> Batch | None:
        """The environments that the model learns in.

        Those of a loaded model are made anew from their id when they are first asked for; None if
        it was trained in an object without an id.
        """
        if self._env is None and self.config["env"]["id"] is not None:
            engine = make_envs(self.config, "env", self.config["env"]["n_envs"])
            require_same_spaces(self._interface, engine.interface)
            self._engine, self._env = engine, Environments(engine)
            self._train_in(engine)
        return self._env

    def set_env(self, env: str | Env | Batch) -> None:
        """Learn in other environments from now on.

        Weights, optimiser and counters stay; replay memory and episodes begin anew. The number of
        environments may be another.

        Raises:
            ValueError: it has other spaces, or is None.
        """
        self._require_idle("set_env")
        if env is None:
            raise ValueError("env: None cannot take the place of an environment")
        engine = as_engine(env)
        if engine is self._engine:
            return
        require_same_spaces(self._interface, engine.interface)
        state = self._progress()
        self._interface, self._engine, self._env = engine.interface, engine, as_batch(env, engine)
        self.config["env"] |= env_node(engine, self.config["env"]["clip_rewards"])
        if "algorithm" in self.__dict__:
            self.algorithm.attach(engine.interface)
            self._kept = {}
            self._train_in(engine)
            assert self._training is not None
            self._training.load_counters(state["training"])

    def _progress(self) -> Mapping[str, Any]:
        """How far the training is, and where its environments are, if there are any."""
        if self._training is None:
            return self._kept or {"collector": None, "training": NOTHING_YET}
        state = self._training.state_dict()
        return {name: state[name] for name in ("collector", "training")}

    def _ready(self) -> Training:
        """The training; raises ValueError if there is no environment for it."""
        self._require_setup()
        self.get_env()
        if self._training is None:
            raise ValueError("there is no environment to learn in; give one to set_env")
        return self._training

    def _require_idle(self, what: str) -> None:
        if self._learning:
            raise RuntimeError(f"{what}: the model is learning; end it first: return False")

    def set_random_seed(self, seed: int | None) -> None:
        """Seed everything anew: the model, its environments, Python, NumPy and PyTorch.

        Args:
            seed: None changes nothing.
        """
        if seed is None:
            return
        self.config = configs.check({**self.config, "seed": seed}, self._given)
        for name, rng in self.__dict__.get("_rngs", {}).items():
            rng.manual_seed(stream_seed(seed, name))
        if self._kept:  # new episodes begin, as they do in environments that are there
            self._kept = {**self._kept, "collector": None}
        if self._engine is not None:
            self._engine.reseed(stream_seed(seed, "env"))
        if self._interface is not None:
            self._interface.action_space.seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
