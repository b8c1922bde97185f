"""The config that a run left behind: data from a file, never code.

A stored config names classes, and building them runs them. So only rlrun's own components are
accepted, each in its own place, and those of packages that the user trusts by name. Callbacks may
write files and import environments, so that those of rlrun itself have to be trusted too.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from rlrun.schema import UserError

LARGEST = 1 << 18
"""Bytes of a config; more are none, and would take long to read."""

_HOMES = {
    "algo": "rlrun.algorithms",
    "policy": "rlrun.policies",
    "logger": "rlrun.run.loggers",
    "lr_schedule": "rlrun.functional.schedules",
}


def dump(config: Mapping[str, Any]) -> str:
    """The text of a resolved config that `load` reads back, equal in every value."""
    separate = json.loads(json.dumps(config))  # a list that stands twice would become a reference
    text: str = yaml.safe_dump(separate, sort_keys=False, allow_unicode=True)
    return text


class _Loader(yaml.SafeLoader):
    """Plain YAML without references, which could make a tree endless."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references are refused")
        return super().compose_node(parent, index)


def load(path: Path, trust: Sequence[str], without: Sequence[str] = ()) -> dict[str, Any]:
    """The config in a file of a run; its values are still to be checked.

    Args:
        path: its `config.yaml`.
        trust: names of the packages besides rlrun whose components may be built.
        without: keys that are left out.

    Raises:
        UserError: the file cannot be read, holds no config, or names something that is
            not trusted; nothing of it has been imported then.
    """
    config = {key: value for key, value in read(path).items() if key not in without}
    check_trusted(path, config, trust)
    return config


def check_trusted(
    path: Path, config: Mapping[str, Any], trust: Sequence[str] = (), in_python: bool = False
) -> None:
    """Raise UserError if the config from `path` names something that is not trusted.

    Args:
        path: of the file, for the message.
        config: what is to be built of it.
        trust: names of the packages besides rlrun whose components may be built.
        in_python: say what to do in Python instead of on the command line.
    """
    for key, value in _leaves(config):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{path}: {key}: {value!r}: interpolations are refused in a stored config"
            )
        if value in ("_args_", "_recursive_", "_convert_"):
            raise UserError(f"{path}: {key}: {value} is refused in a stored config")
        if key.rpartition(".")[2] == "_target_":
            _check_target(path, key, value, trust, in_python)
    _check_env(path, config.get("env"), trust)


def read(path: Path) -> dict[str, Any]:
    """The config in a file of a run to look at, not to build from.

    Raises:
        UserError: the file cannot be read, or holds no config.
    """
    try:
        if path.stat().st_size > LARGEST or not path.is_file():
            raise ValueError
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        yaml.YAMLError,
        RecursionError,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no YAML of a config"
        raise UserError(f"{path.parent} is no run that can be read: {path}: {reason}") from error
    huge = (value for _, value in _leaves(config) if isinstance(value, int) and abs(value) >> 64)
    if not isinstance(config, dict) or any(huge):
        raise UserError(f"{path.parent} is no run that can be read: {path} holds no config")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def is_finished(result: Mapping[str, Any], total_timesteps: int) -> bool:
    """Whether a `result.json` tells of a run that did so many steps or more."""
    done = result.get("total_timesteps")
    return result.get("status") == "finished" and isinstance(done, int) and done >= total_timesteps


def _check_target(path: Path, key: str, name: Any, trust: Sequence[str], in_python: bool) -> None:
    """The text must begin with a trusted name, and the object must really be from there.

    `rlrun.algorithms.acer.torch.hub.load` begins well and is something else.
    """
    home = _HOMES.get(key.partition(".")[0]) if key.count(".") == 1 else None
    allowed = [*([home] if home else []), *trust]
    if not isinstance(name, str) or not _within(name, allowed):
        _refuse(path, key, name, in_python)
    try:
        found = resolve(name)
    except Exception as error:  # whatever an import may raise
        raise UserError(f"{path}: {key}: cannot import {name}: {error}") from error
    where = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not _within(where, allowed):
        _refuse(path, key, name, in_python)


def resolve(name: str) -> Any:
    """The object of a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    found = import_module(parts[0])
    for i, part in enumerate(parts[1:], start=1):
        if not hasattr(found, part):
            import_module(".".join(parts[: i + 1]))
        found = getattr(found, part)
    return found


def _check_env(path: Path, env: Any, trust: Sequence[str]) -> None:
    """`module:id` imports the module."""
    env_id = env.get("id") if isinstance(env, dict) else None
    if isinstance(env_id, str) and ":" in env_id:
        module = env_id.partition(":")[0]
        if not _within(module, trust):
            _refuse(path, "env.id", module)


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _refuse(path: Path, key: str, name: Any, in_python: bool = False) -> None:
    package = str(name).partition(".")[0]
    known = package == "rlrun" and not key.startswith("callback")
    hint = "" if known else f" If you trust it, add 'trust=[{package}]'."
    if in_python:
        hint = f" Give the class or function itself: load(path, {key.partition('.')[0]}=...)."
    raise UserError(
        f"{path}: {key}: {name} is refused: a stored config may only name components of rlrun "
        f"and of packages that you trust.{hint}"
    )


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar of a tree with its dotted key, and the keys themselves as texts."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{key}(key)", name
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{key}.{i}")
    else:
        yield key, node
