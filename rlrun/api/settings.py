"""From the arguments of a constructor to the nodes of a config."""

from collections.abc import Callable, Mapping
from typing import Any

from rlrun import config as configs
from rlrun import schema
from rlrun.envs import VectorEnv
from rlrun.functional import schedules
from rlrun.schema import nearest
from rlrun.stored import resolve

Component = tuple[dict[str, Any], Callable[..., Any] | None]
"""The node of a component, and what builds it, if that was given as an object."""
SCHEDULES = ("constant", "linear", "double_linear_con", "middle_drop", "double_middle_drop")


def target_name(component: Callable[..., Any]) -> str:
    """Dotted name of a class or function."""
    return f"{component.__module__}.{component.__qualname__}"


def schedule_node(
    schedule: str | Callable[[float], float],
) -> Component:
    """The node of a learning-rate schedule, and the function itself if it was given as an object.

    Args:
        schedule: a name of `SCHEDULES`, a dotted name, or a function of the progress.

    Raises:
        ValueError: there is none of this name.
        TypeError: it is no function.
    """
    if callable(schedule):
        if not hasattr(schedule, "__qualname__"):
            raise TypeError(
                f"lr_schedule: a {type(schedule).__name__} has no name; define a function"
            )
        return {"_target_": target_name(schedule), "_partial_": True}, schedule
    if not isinstance(schedule, str):
        raise TypeError(
            f"lr_schedule: {schedule!r} is neither a name nor a function of the progress"
        )
    if schedule in SCHEDULES:
        return {"_target_": target_name(getattr(schedules, schedule)), "_partial_": True}, None
    try:
        resolve(schedule if "." in schedule else "")
    except Exception as error:  # whatever an import may raise
        near = nearest(schedule, SCHEDULES)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"lr_schedule: there is no {schedule!r}; {hint}allowed: {', '.join(SCHEDULES)}, a "
            f"dotted name, or a function of the progress in [0, 1]"
        ) from error
    return {"_target_": schedule, "_partial_": True}, None


def env_node(engine: VectorEnv | None, clip_rewards: bool | None) -> dict[str, Any]:
    """The node of the environments; Atari games clip rewards unless told otherwise."""
    if engine is None:
        return {"id": None, "n_envs": 1, "clip_rewards": bool(clip_rewards), "kwargs": {}}
    env_id, kwargs = engine.origin or (None, {})
    return {
        "id": env_id,
        "n_envs": engine.n_envs,
        "clip_rewards": engine.clips_rewards if clip_rewards is None else clip_rewards,
        "kwargs": kwargs,
    }


def config_of(
    algorithm: type[Any],
    engine: VectorEnv | None,
    *,
    policy: Component,
    lr_schedule: Component,
    seed: int,
    device: str,
    threads: int | None,
    clip_rewards: bool | None,
    normalize_observations: bool,
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], configs.Given]:
    """The checked config of a model, and the classes and functions that were given as objects.

    Args:
        algorithm: class of the algorithm.
        engine: the environments, if there are any yet.
        policy: as `policy_node` gives it.
        lr_schedule: as `schedule_node` gives it.
        seed: as in the config, like those that follow.
        device: as above.
        threads: as above.
        clip_rewards: as above; None for what the environments say.
        normalize_observations: as above.
        settings: hyperparameters. `num_procs` and `nprocs`, as the number of threads was called
            before, stand for `threads`.

    Raises:
        UserError: a setting that does not exist or does not fit, with what is allowed.
    """
    hyperparameters = schema.coerced(algorithm, settings)
    for name in ("num_procs", "nprocs"):
        threads = hyperparameters.pop(name, threads)
    schema.require(algorithm, hyperparameters, partial=True)
    nodes = {"policy": policy, "lr_schedule": lr_schedule}
    given = {key: made for key, (_, made) in nodes.items() if made is not None}
    config = {
        "policy": policy[0],
        "algo": {"_target_": target_name(algorithm), **hyperparameters},
        "logger": {},
        "lr_schedule": lr_schedule[0],
        "env": env_node(engine, clip_rewards) | {"normalize_observations": normalize_observations},
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    return configs.check(config, given), given
