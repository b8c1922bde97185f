"""Models from files: our own, the runs of the command line, and those of stable-baselines 2."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from rlrun import config as configs
from rlrun import schema, stored
from rlrun.api import parameters, saving
from rlrun.api.envs import as_batch, as_engine, require_same_spaces
from rlrun.api.model import Model
from rlrun.api.policies import policy_node
from rlrun.api.sb2.file import is_sb2
from rlrun.api.sb2.model import SB2Model, read, state_of
from rlrun.api.sb2.moments import moments
from rlrun.api.settings import config_of, env_node, schedule_node, target_name
from rlrun.envs import Interface
from rlrun.evaluation import find_checkpoint, fitting
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.manifest import verify
from rlrun.run.store import CheckpointError
from rlrun.run.training import interface_of, require_counters
from rlrun.schema import UserError

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)

_OF_MODEL = ("verbose", "tensorboard_log", "full_tensorboard_log")
_OF_CONFIG = {"device": "device", "n_cpu_tf_sess": "threads"}
_OF_RUN = ("precision", "compile")
_OF_ENV = ("clip_rewards", "normalize_observations")
_OF_MEMORY = ("n_steps", "buffer_size")
"""Hyperparameters that tell the shape of the replay memory and of the steps in hand."""


def load(
    kind: type[M],
    source: saving.Target,
    env: Any,
    changes: Mapping[str, Any],
    checkpoint: str | int,
    obs_rms: Mapping[str, ArrayLike] | str | os.PathLike[str] | None,
) -> M:
    """`Model.load`: the arguments are those there, `changes` the custom objects and the rest."""
    if isinstance(source, str | os.PathLike):
        path = saving.found(source)
        # What is no zip at all may be a pickle of an older version, which `read` knows to tell.
        if path.is_file() and (is_sb2(path) or not zipfile.is_zipfile(path)):
            return imported(kind, read(path, _of_sb2(changes)), env, changes, obs_rms)
    if obs_rms is not None:
        raise ValueError("obs_rms: a model of rlrun keeps its own moments")
    with saving.opened(source) as folder:
        return _from_folder(kind, folder, env, dict(changes), checkpoint)


def _from_folder(
    kind: type[M], folder: Path, env: Any, changes: dict[str, Any], checkpoint: str | int
) -> M:
    before = stored.read(folder / "config.yaml")
    if not all(isinstance(before.get(name), dict) for name in ("algo", "env", "policy")):
        raise UserError(f"{folder}: no model that can be read: its config.yaml is no config")
    engine = None if env is None else as_engine(env)
    config, given = _changed(folder, before, kind, engine is not None, changes)
    checkpointer = Checkpointer(folder, config["checkpoint"]["keep"])
    try:
        path = find_checkpoint(checkpointer, str(checkpoint))
        state, _ = checkpointer.load(path, None)
        interface = interface_of(state["interface"])
    except (CheckpointError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no model that can be read: {error}") from error
    model = _empty(kind, config, given, changes)
    model._interface = interface
    model.setup_model()
    reshaped = {n for n in _OF_MEMORY if before["algo"].get(n) != config["algo"].get(n)}
    memory, replay = model.algorithm.memory, verify(path, digests=False).window is not None
    with fitting(path):
        if memory is not None and replay and not reshaped:
            checkpointer.load(path, memory)
        elif "memory" in state["algorithm"]:
            if memory is not None and replay:
                logger.warning("The replay memory of the file is left out: it has another shape")
            state["algorithm"]["memory"] = None
        model.algorithm.load_state_dict(state["algorithm"])
        require_counters(state["training"])
        model._kept = {name: state[name] for name in ("collector", "training")}
        if state["collector"] is not None:
            model._rngs["action"].set_state(state["collector"]["rng"])
            if "n_steps" in reshaped:
                state["collector"]["segment"] = None
    if engine is not None:
        require_same_spaces(interface, engine.interface)
        if engine.interface == interface:
            model.config["env"] |= env_node(engine, config["env"]["clip_rewards"])
            model._engine, model._env = engine, as_batch(env, engine)
            model._train_in(engine)
        else:
            model.set_env(env)
    model.set_random_seed(changes.get("seed"))
    return model


def _changed(
    folder: Path, config: dict[str, Any], kind: type[M], has_env: bool, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checked config of a file with changes, and the objects that are given with them."""
    own: dict[str, Any] = {"logger": {}, "callback": {}}
    given: dict[str, Any] = {}
    examined = dict(config["policy"])
    if "policy" in changes:
        node, policy = policy_node(changes["policy"], changes.get("policy_kwargs"))
        examined.pop("_target_", None)  # what else is in the node is still from the file
        own["policy"] = {**examined, "_target_": node["_target_"]}
        if "policy_kwargs" in changes:
            own["policy"], examined = node, {}
        if policy is not None:
            given["policy"] = policy
    if "lr_schedule" in changes:
        own["lr_schedule"], function = schedule_node(changes["lr_schedule"])
        if function is not None:
            given["lr_schedule"] = function
    env = dict(config["env"])
    if has_env or ":" in str(env.get("id")):
        env["id"] = None  # nothing is imported for the sake of an environment
    own["env"] = env | {name: changes[name] for name in _OF_ENV if name in changes}
    own |= {key: changes[name] for name, key in _OF_CONFIG.items() if name in changes}
    own |= {key: changes[key] for key in _OF_RUN if key in changes}
    taken = {key: value for key, value in config.items() if key not in own}
    taken |= {"env": env, "policy": examined}
    stored.check_trusted(folder / "config.yaml", taken, in_python=True)
    if config["algo"].get("_target_") != target_name(kind.algorithm_type):
        raise ValueError(
            f"this is a model of {configs.algorithm_name(config).upper()}; load it with "
            f"{configs.algorithm_name(config).upper()}.load"
        )
    of_model = ("policy", "policy_kwargs", "lr_schedule", "seed", *_OF_MODEL)
    known = (*of_model, *_OF_CONFIG, *_OF_RUN, *_OF_ENV)
    settings = {name: value for name, value in changes.items() if name not in known}
    there = {name: value for name, value in config["algo"].items() if name != "_target_"}
    merged = schema.coerced(kind.algorithm_type, {**there, **settings})
    schema.require(kind.algorithm_type, merged, partial=True)
    checked = configs.check({**config, **own, "algo": {**config["algo"], **merged}}, given)
    if "policy_kwargs" in changes:
        _require_same_policy(checked, config["policy"], given, changes["policy_kwargs"])
    return checked, given


def _require_same_policy(
    config: Mapping[str, Any],
    trained: Mapping[str, Any],
    given: configs.Given,
    policy_kwargs: Mapping[str, Any],
) -> None:
    """Raise ValueError unless `policy_kwargs` are those of the policy that was trained."""
    node, _ = policy_node(given.get("policy", config["policy"]["_target_"]), policy_kwargs)
    asked = configs.check({**config, "policy": node}, given)["policy"]
    if {**asked, "_target_": None} != {**trained, "_target_": None}:
        raise ValueError(
            f"policy_kwargs: the model was trained with {trained}, not with {asked}; leave them "
            f"out, the file has them"
        )


def _empty(
    kind: type[M], config: dict[str, Any], given: Mapping[str, Any], changes: Mapping[str, Any]
) -> M:
    """A model of which nothing is built yet."""
    model = kind.__new__(kind)
    model._begin(config, given, changes.get("verbose", 0), changes.get("tensorboard_log"))
    return model


def _of_sb2(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that say what a file of stable-baselines could not."""
    names = ("observation_space", "action_space", "policy", "policy_kwargs", "lr_schedule")
    found = {name: changes[name] for name in names if name in changes}
    if isinstance(policy := found.get("policy"), type):
        found["policy"] = policy.__name__
    return found


def imported(
    kind: type[M],
    saved: SB2Model,
    env: Any,
    changes: Mapping[str, Any],
    obs_rms: Mapping[str, ArrayLike] | str | os.PathLike[str] | None,
) -> M:
    """A model of stable-baselines 2 as one of ours; prints the report if `verbose`.

    Raises:
        ValueError: it is one of another algorithm.
        UserError: it was trained in other spaces, or which ones is not known and `env` is None.
    """
    if kind.algorithm_type.__name__.lower() != saved.algorithm:
        name = saved.algorithm.upper()
        raise ValueError(f"this is a model of {name}; load it with {name}.load")
    engine = None if env is None else as_engine(env)
    if engine is not None:
        interface = engine.interface
    elif saved.observation_space is None or saved.action_space is None:
        raise UserError(
            "the file does not tell the spaces that the model was trained in; give the "
            "environment: load(path, env=env)"
        )
    else:
        spaces_ = saved.observation_space, saved.action_space
        interface = Interface(saved.n_envs or 1, *spaces_)
    own = {**_OF_CONFIG, "seed": "seed"}
    of_config = {key: changes[name] for name, key in own.items() if name in changes}
    others = (*own, *_OF_MODEL, *_of_sb2(changes))
    settings = {name: value for name, value in changes.items() if name not in others}
    config, given = config_of(
        kind.algorithm_type,
        engine,
        policy=policy_node(saved.policy, saved.policy_settings),
        lr_schedule=schedule_node(changes.get("lr_schedule", saved.lr_schedule or "linear")),
        clip_rewards=None,
        normalize_observations=obs_rms is not None,
        settings={**saved.settings, **settings},
        **{"seed": saved.seed or 0, "device": "auto", "threads": None, **of_config},
    )
    model = _empty(kind, config, given, {"verbose": saved.verbose, **changes})
    model._interface = interface
    if engine is not None:
        model._engine, model._env = engine, as_batch(env, engine)
    model.setup_model()
    state = state_of(saved, interface.observation_space, interface.action_space)
    if obs_rms is not None:
        values = obs_rms if isinstance(obs_rms, Mapping) else os.fspath(obs_rms)
        state |= moments(values, interface.observation_space)
    parameters.load(model.actor, {name: t.numpy() for name, t in state.items()}, True)
    model._weights_changed()
    if model.verbose:
        print("\n".join(saved.report))
    return model
