"""The config of a run: its tree, its check, the name of its folder, its composition by Hydra.

A config is a plain tree of dicts, lists and scalars. The nodes `algo`, `policy`, `lr_schedule`
and `logger` name a class or function (`_target_`) and its settings; that signature says what is
allowed in them. Everything else is said by `Config` below.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from rlrun import schema
from rlrun.schema import Matches, NonNegativeInt, PositiveFloat, PositiveInt, Range, UserError
from rlrun.stored import resolve
from rlrun.usage import config_folder, options

COMPONENTS = ("policy", "algo", "logger", "lr_schedule", "callback")
"""Keys of the nodes that name a class or function."""

MAY_CHANGE = (
    "total_timesteps",
    "device",
    "threads",
    "precision",
    "compile",
    "log_interval",
    "logger",
    "callback",
    "checkpoint",
    "eval",
)
"""Keys that a run may go on with in another setting."""

_MAY_BE_EMPTY = ("logger", "callback")
_INERT = ("seed", *_MAY_BE_EMPTY, "checkpoint", "eval", "run", "sweep", "log_interval")
_INERT_IN_ALGO = ("replay_device",)
_OF_HYDRA = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
Given = Mapping[str, Callable[..., Any]]
"""Classes and functions of a program, by the key of the node in whose place they are taken."""
_Device = Annotated[str, Matches(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, mps, cuda, cuda:N")]


@dataclass(frozen=True)
class Env:
    """Node `env`, which the id fills."""

    id: str | None
    """Gymnasium id, or `module:id`; null for environments that were given as objects."""
    n_envs: Annotated[int, Range(1, 4096)] = 4
    """Parallel environments; 16 for Atari."""
    clip_rewards: bool = False
    """Learn from the sign of the rewards; true for Atari. The returns shown are never clipped."""
    normalize_observations: bool = False
    """Scale vectors by their running mean and deviation, which evaluations leave alone."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the environment's constructor."""


@dataclass(frozen=True)
class Checkpoint:
    """Node `checkpoint`."""

    every_steps: PositiveInt | None = None
    every_minutes: PositiveFloat | None = 10.0
    keep: PositiveInt = 2


@dataclass(frozen=True)
class Eval:
    """Node `eval`."""

    every_steps: PositiveInt | None = None
    episodes: NonNegativeInt = 20
    deterministic: bool = True


@dataclass(frozen=True)
class Run:
    """Node `run`."""

    dir: str = "outputs"
    overwrite: bool = False
    trust: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sweep:
    """Node `sweep`, which a single run does not read."""

    name: Annotated[str, Matches(r"[\w.-]*\w[\w.-]*", "letters, digits, and . - _")] | None = None
    estimate: bool = False


@dataclass(frozen=True)
class Config:
    """The whole tree: types, ranges and defaults; conf/config.yaml explains each key."""

    policy: dict[str, Any]
    algo: dict[str, Any]
    logger: dict[str, Any]
    lr_schedule: dict[str, Any]
    env: Env
    callback: dict[str, Any] = field(default_factory=dict)
    total_timesteps: PositiveInt = 100_000
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    device: _Device = "auto"
    threads: PositiveInt | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Literal["none", "default", "reduce-overhead"] = "none"
    log_interval: PositiveInt = 10
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    eval: Eval = field(default_factory=Eval)
    run: Run = field(default_factory=Run)
    sweep: Sweep = field(default_factory=Sweep)


def check(config: Mapping[str, Any], given: Given | None = None) -> dict[str, Any]:
    """The config with every setting, and every number in the type of its setting, if it is sound.

    Args:
        config: the whole tree; what has a default may be missing.
        given: classes and functions that are taken in place of those that the nodes name.

    Raises:
        UserError: all problems of the tree and of its components, each with the key to change.
    """
    config = schema.coerced(Config, config)
    found = schema.problems(Config, config)
    for name in COMPONENTS:
        if isinstance(config.get(name), Mapping):
            config[name], wrong = _check_component(name, config[name], given)
            found += wrong
    if not any(message.startswith("env") for message in found):
        found += _env_problems(config["env"]["id"])
    if found:
        raise UserError("\n".join(found))
    return schema.completed(Config, config)


def _check_component(
    key: str, node: Mapping[str, Any], given: Given | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The node of a component with its values coerced, and what is wrong with it."""
    if not node and key in _MAY_BE_EMPTY:
        return {}, []
    try:
        target = (given or {}).get(key) or _target(node, key)
    except UserError as error:
        return dict(node), [str(error)]
    values = {name: value for name, value in node.items() if name not in _OF_HYDRA}
    values = schema.coerced(target, values)
    found = schema.problems(target, values, partial=True, prefix=f"{key}.")
    return {**node, **schema.completed(target, values)}, found


def _target(node: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The class or function that a node names; raises UserError if there is none."""
    name = node.get("_target_")
    if not isinstance(name, str):
        raise UserError(f"{key}._target_: missing; it names a class, as in my_package.MyClass")
    try:
        target: Callable[..., Any] = resolve(name)
    except Exception as error:  # whatever an import may raise
        raise UserError(f"{key}._target_: cannot import {name}: {error}") from error
    if not callable(target):
        raise UserError(f"{key}._target_: {name} is no class and no function")
    return target


def _env_problems(env_id: str | None) -> list[str]:
    from rlrun.envs import registry

    try:
        if env_id is not None:
            registry.find_spec(env_id)
    except UserError as error:
        return [str(error)]
    return []


def instantiate(
    node: Mapping[str, Any], key: str = "component", given: Given | None = None
) -> functools.partial[Any]:
    """A partial that builds what the node names, with its settings; it takes what is missing.

    Args:
        node: `_target_` and settings, without interpolations.
        key: name of the node in messages.
        given: classes and functions that are taken in place of those that the nodes name.

    Raises:
        UserError: the node does not fit the signature of its target.
    """
    from hydra.utils import instantiate as hydra_instantiate

    checked, found = _check_component(key, node, given)
    if found:
        raise UserError("\n".join(found))
    if given and key in given:
        settings = {name: value for name, value in checked.items() if name not in _OF_HYDRA}
        return functools.partial(given[key], **settings)
    made: functools.partial[Any] = hydra_instantiate(checked, _partial_=True, _convert_="all")
    return made


def digest(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what decides the result of a run, its seed aside."""
    kept = {key: value for key, value in config.items() if key not in _INERT}
    kept["algo"] = {k: value for k, value in config["algo"].items() if k not in _INERT_IN_ALGO}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def algorithm_name(config: Mapping[str, Any]) -> str:
    """Short name of the algorithm: `acer`, or that of the user's own class."""
    target: str = config["algo"]["_target_"]
    return target.rpartition(".")[2].lower()


def run_folder(config: Mapping[str, Any]) -> Path:
    """Where a run lives, relative to the current folder: the same config has the same place."""
    env = re.sub("[/:]", "-", config["env"]["id"])
    name = f"{algorithm_name(config)}-{digest(config)}"
    return Path(config["run"]["dir"], env, name, f"seed-{config['seed']}")


def compose(overrides: list[str]) -> dict[str, Any]:
    """The config that these words of the command line compose, resolved but not checked."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from rlrun import env_source

    env_source.register()
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="rlrun"):
        return plain(hydra_compose("config", overrides))


def plain(config: Any) -> dict[str, Any]:
    """A composed config as plain data, interpolations resolved.

    Raises:
        UserError: an interpolation leads nowhere, or a value is missing (`???`).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    return data  # type: ignore[return-value]


def values_of(words: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as values by dotted key, in Hydra's grammar.

    Raises:
        UserError: a word that is not a plain `KEY=VALUE`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    values = {}
    for word in words:
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise UserError(f"{word}: not understood; write KEY=VALUE") from error
        if override.is_delete() or override.is_add() or override.is_sweep_override():
            raise UserError(f"{word}: only KEY=VALUE, with one value, is possible here")
        values[override.key_or_group] = override.value()
    return values


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All keys of a tree as one writes them on the command line, inner nodes included."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found[prefix + name] = value
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{name}.")
    return found


def changed(config: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """The checked config of a run that goes on with `KEY=VALUE` changes (and `logger=OPTION`).

    Raises:
        UserError: a key that does not exist or may not change, or a value that does not fit.
    """
    new = check(config)
    found = []
    for key, value in values_of(words).items():
        top, (parent, _, name) = key.partition(".")[0], key.rpartition(".")
        known = dotted(new)
        node = known.get(parent) if parent else new
        if not isinstance(node, dict) or name not in node:
            found.append(schema.unknown_key(key, [k for k in known if k.startswith(MAY_CHANGE)]))
        elif top not in MAY_CHANGE:
            allowed = ", ".join(MAY_CHANGE)
            found.append(f"{key}: a run cannot go on with another value; only these: {allowed}")
        elif key == "logger" and isinstance(value, str):
            loggers = options("logger", [config_folder()])
            if value in loggers:
                new["logger"] = compose([f"logger={value}"])["logger"]
            else:
                found.append(f"logger={value}: unknown option; there are: {', '.join(loggers)}")
        else:
            node[name] = value
    if found:
        raise UserError("\n".join(found))
    return check(new)
