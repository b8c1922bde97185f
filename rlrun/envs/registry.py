"""What is known of an environment from its registration, before one is made."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from rlrun.schema import UserError

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

EXTRAS = {"gymnasium.envs.box2d": "box2d", "gymnasium.envs.mujoco": "mujoco"}
"""Extra of rlrun that installs what the environments of a module need."""


@cache
def _registry() -> dict[str, EnvSpec]:
    """Gymnasium's registry, with the Atari games in it."""
    import ale_py  # noqa: F401 - registers its games
    import gymnasium

    return gymnasium.registry


def all_ids() -> list[str]:
    """All registered ids."""
    return list(_registry())


def newest_versions() -> list[str]:
    """The newest version of every registered id, sorted."""
    newest: dict[str, int] = {}
    for env_id in all_ids():
        name, _, version = env_id.rpartition("-v")
        if version.isdigit():
            newest[name] = max(newest.get(name, 0), int(version))
    return sorted(f"{name}-v{version}" for name, version in newest.items())


def suggestions(env_id: str, n: int = 3) -> list[str]:
    """At most `n` registered ids that `env_id` may be a slip of, the nearest first."""
    by_name: dict[str, str] = {}
    for known in all_ids():
        by_name.setdefault(known.lower(), known)
        by_name.setdefault(known.rpartition("/")[2].lower(), known)
    near = difflib.get_close_matches(env_id.lower(), by_name, n=2 * n, cutoff=0.6)
    return list(dict.fromkeys(by_name[name] for name in near))[:n]


def find_spec(env_id: str) -> EnvSpec:
    """The registration of an id; `module:id` imports the module first.

    Raises:
        UserError: there is none (with the nearest ids), or the module cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    registered = _registry()
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"env={env_id}: cannot import {module}: {error}") from error
    if name not in registered:
        near = suggestions(name)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`rlrun list envs` lists them all."
        raise UserError(
            f"env={env_id}: no environment of this name is registered. {hint} Environments of a "
            f"package of yours are named with it, as in env=my_package:{name}."
        )
    return registered[name]


def is_atari(spec: EnvSpec) -> bool:
    """Is it an Atari game seen as a picture?"""
    return _module(spec).startswith("ale_py") and spec.kwargs.get("obs_type", "rgb") != "ram"


def is_image(spec: EnvSpec) -> bool:
    """Does it show pictures, as far as its registration tells?"""
    return is_atari(spec) or _module(spec).startswith("gymnasium.envs.box2d.car_racing")


def missing_package(spec: EnvSpec, error: Exception) -> UserError:
    """The message for an environment whose package is not installed."""
    extra = next((x for module, x in EXTRAS.items() if _module(spec).startswith(module)), None)
    hint = f" Type: pip install 'rlrun[{extra}]'" if extra else ""
    reason = str(error).rstrip(".")
    return UserError(f"env={spec.id} needs a package that is not installed: {reason}.{hint}")


def _module(spec: EnvSpec) -> str:
    entry = spec.entry_point
    return entry if isinstance(entry, str) else getattr(entry, "__module__", "")
