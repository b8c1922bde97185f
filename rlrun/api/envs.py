"""Environments from whatever a user has: an id, a class, one of Gymnasium's, or a batch of them."""

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import gymnasium
from ale_py.vector_env import AtariVectorEnv
from gymnasium import vector
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, NormalizeReward

from rlrun.envs import Interface, VectorEnv, make_vec
from rlrun.envs.batch import Environments
from rlrun.envs.gym import GymVectorEnv
from rlrun.envs.registry import find_spec, is_atari
from rlrun.schema import UserError

Env = gymnasium.Env[Any, Any]
Batch = vector.VectorEnv[Any, Any, Any]


def make_vec_env(
    env_id: str | Callable[..., Env],
    n_envs: int = 1,
    seed: int | None = None,
    *,
    wrapper_class: Callable[[Env], Env] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    vec_env_cls: Callable[..., Batch] = SyncVectorEnv,
    vec_env_kwargs: Mapping[str, Any] | None = None,
) -> Environments:
    """Several environments of one kind, to train on or to play in.

    Atari games come from the emulator's own batch, with the preprocessing of DeepMind: 84x84 grey
    pictures, stacks of 4 on the first axis, no-ops and FIRE at the start, a lost life terminates.

    Args:
        env_id: Gymnasium id, `module:id`, or a class or function that makes an environment.
        n_envs: how many.
        seed: of all their episodes; None for one from the system. A model that is trained on them
            seeds them by its own.
        wrapper_class: put around each environment.
        env_kwargs: for the constructor of each environment.
        vec_env_cls: `gymnasium.vector.SyncVectorEnv`, or `AsyncVectorEnv` for one process each,
            which pays where a step takes milliseconds.
        vec_env_kwargs: for the constructor of the batch.

    Raises:
        UserError: no such id, a package is missing, or a keyword does not fit.
        ValueError: fewer environments than one.
    """
    if n_envs < 1:
        raise ValueError(f"n_envs: {n_envs}; at least 1")
    seed = secrets.randbits(31) if seed is None else seed
    kwargs = dict(env_kwargs or {})
    plain = wrapper_class is None and vec_env_cls is SyncVectorEnv and not vec_env_kwargs
    if isinstance(env_id, str) and plain:
        engine = make_vec(env_id, n_envs, seed, kwargs)
        if not _is_data(kwargs):
            engine.origin = None
        return Environments(engine)
    if isinstance(env_id, str) and is_atari(find_spec(env_id)):
        raise UserError(
            f"{env_id}: games come preprocessed, in a batch of their own; leave out "
            f"wrapper_class, vec_env_cls and vec_env_kwargs, or give a function that makes one game"
        )

    def make() -> Env:
        if isinstance(env_id, str):
            env = gymnasium.make(find_spec(env_id), **kwargs)
        else:
            env = env_id(**kwargs)
        return env if wrapper_class is None else wrapper_class(env)

    batch = vec_env_cls(
        [make] * n_envs, autoreset_mode=AutoresetMode.DISABLED, **(vec_env_kwargs or {})
    )
    return Environments(GymVectorEnv(batch, seed))


def as_engine(env: str | Env | Batch) -> VectorEnv:
    """The environments that stand behind `env`, or that are made around it.

    Raises:
        TypeError: it is no environment.
        UserError: a batch that cannot be used.
    """
    if known := engine_of(env):
        return known
    if isinstance(env, str):
        return make_vec_env(env).engine
    if isinstance(env, gymnasium.Env):
        one = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
        engine = GymVectorEnv(one, secrets.randbits(31))
        engine.origin = _origin(env)
    elif isinstance(env, vector.VectorEnv):
        engine = GymVectorEnv(_usable(env), secrets.randbits(31))
    else:
        raise TypeError(
            f"env: a {type(env).__name__} is no environment; give an id, a gymnasium.Env or a "
            f"gymnasium.vector.VectorEnv"
        )
    _engines[id(env)] = engine
    return engine


_engines: WeakValueDictionary[int, VectorEnv] = WeakValueDictionary()
"""By the `id` of the environment that each was made around, which it keeps alive."""


def engine_of(env: Any) -> VectorEnv | None:
    """The engine behind an environment, if there is one already."""
    return env.engine if isinstance(env, Environments) else _engines.get(id(env))


def use(env: Any) -> None:
    """To be called before an environment is stepped by another way than by its engine.

    A model that learns in it then begins new episodes instead of going on where it was.
    """
    engine = engine_of(env)
    if engine is not None:
        engine.turn += 1


def _usable(batch: Batch) -> Batch:
    """The batch, if its environments can be reset one by one; raises UserError."""
    if not isinstance(batch.unwrapped, (SyncVectorEnv, AsyncVectorEnv, AtariVectorEnv)):
        raise UserError(
            f"env: the environments of a {type(batch.unwrapped).__name__} cannot be reset one by "
            f"one; use rlrun.make_vec_env, or gymnasium's SyncVectorEnv or AsyncVectorEnv"
        )
    layer: Any = batch
    while isinstance(layer, vector.VectorWrapper):
        if isinstance(layer, (NormalizeObservation, NormalizeReward)):
            raise UserError(
                f"env: {type(layer).__name__} cannot reset its environments one by one; leave it "
                f"out, and use normalize_observations=True or normalize_rewards=True"
            )
        layer = layer.env
    if batch.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
        raise UserError(
            "env: the last observation of an episode is needed, and this batch resets in the same "
            "step; make it with autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP"
        )
    return batch


def _origin(env: Env) -> tuple[str, dict[str, Any]] | None:
    """Id and keywords from which an environment equal to `env` can be made; None if not."""
    spec = env.spec
    if spec is None or spec.additional_wrappers or spec.id not in gymnasium.registry:
        return None
    registered = gymnasium.registry[spec.id]
    limit = spec.max_episode_steps
    unlimited = limit is None and registered.max_episode_steps is not None  # cannot be asked for
    if unlimited or spec.entry_point != registered.entry_point or is_atari(spec):
        return None
    there = {**registered.kwargs, "render_mode": spec.kwargs.get("render_mode")}
    kwargs = {k: v for k, v in spec.kwargs.items() if k not in there or v != there[k]}
    if limit != registered.max_episode_steps:
        kwargs["max_episode_steps"] = limit
    return (spec.id, kwargs) if _is_data(kwargs) else None


def _is_data(kwargs: Mapping[str, Any]) -> bool:
    """Can the keywords be written into a config?"""
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError):
        return False
    return True


def as_batch(env: str | Env | Batch, engine: VectorEnv) -> Batch:
    """The batch that a user steps: the one that was given, or one around the engine."""
    return env if isinstance(env, vector.VectorEnv) else Environments(engine)


def require_same_spaces(trained: Interface | None, given: Interface) -> None:
    """Raise ValueError, naming both, unless the spaces are equal; None fits all."""
    if trained is None:
        return
    for name in ("observation_space", "action_space"):
        before, now = getattr(trained, name), getattr(given, name)
        if before != now:
            raise ValueError(f"env: its {name} is {now}, and the model was trained in {before}")
    if trained.frame_stack != given.frame_stack:
        raise ValueError(
            f"env: its observations hold {given.frame_stack} frames, those of the model "
            f"{trained.frame_stack}"
        )
