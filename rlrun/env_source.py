"""Every registered Gymnasium id as an option of the config group `env`, without a file per game.

Hydra asks its config sources one after the other; files come first, so a hand-written
`conf/env/<name>.yaml` still wins. The source of this module answers for well-formed ids only
(`Name-v0`, `Folder/Name-v0`, `module:Name-v0`). It also lends the settings for Atari,
`experiment/<algo>/atari`, to each game that has no file of its own there.

Gymnasium is imported when such an option is composed or listed, never for `--help`.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from rlrun.schema import UserError
from rlrun.usage import config_folder, options

_SCHEME = "gym"
_ENV = re.compile(r"env/((?:[\w.]+:)?(?:[\w.-]+/)?[\w.-]+-v\d+|[\w.]+:[\w./-]+)")
_GAME = re.compile(r"experiment/([\w-]+)/((?:ALE/)?[\w.-]+-v\d+)")


class EnvSource(ConfigSource):
    """Composes `env/<id>` from what is registered under the id."""

    @staticmethod
    def scheme() -> str:
        """Name of this kind of source in a search path."""
        return _SCHEME

    def available(self) -> bool:
        """Always: the registry is in no folder."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Listed here are `env`, and the experiments that are in folders, for completion."""
        return config_path.rstrip("/") in ("", "env", "experiment")

    def is_config(self, config_path: str) -> bool:
        """Has it the form of an id? A misspelt one too: `load_config` says what is near to it."""
        path = config_path.removesuffix(".yaml")
        game = _GAME.fullmatch(path)
        return _ENV.fullmatch(path) is not None or (game is not None and _is_atari(game[2]))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The newest ids where completion or a glob asks; else one line instead of hundreds."""
        path = config_path.rstrip("/")
        if path == "":
            return [] if results_filter == ObjectType.CONFIG else ["env"]
        if results_filter == ObjectType.GROUP:
            return []
        if path == "experiment":
            return [name for name in options(path, [config_folder()]) if "/" in name]
        if path != "env":
            return []
        words = sys.argv[1:]
        if {"-sc", "--shell-completion"} & set(words) or any("glob(" in word for word in words):
            from rlrun.envs import registry

            return registry.newest_versions()
        return ["<any registered Gymnasium id>"]

    def load_config(self, config_path: str) -> ConfigResult:
        """The node `env` of an id, or the Atari settings for one game.

        Raises:
            UserError: the id is not registered (says the nearest ones), or a package is missing
                (says the command that installs it).
        """
        path = config_path.removesuffix(".yaml")
        env, game = _ENV.fullmatch(path), _GAME.fullmatch(path)
        if env is not None:
            return self._result(_env_node(env[1]), package="env")
        if game is None:
            raise UserError(f"{path} is no environment")
        atari = {f"optional /experiment/{game[1]}@_global_": "atari"}
        return self._result({"defaults": [atari]}, package="_global_")

    def _result(self, node: dict[str, Any], package: str) -> ConfigResult:
        # A fixed package: Hydra would mount env=ALE/Pong-v5 at env.ALE.
        config, header = OmegaConf.create(node), {"package": package}
        if "kwargs" in config:
            OmegaConf.set_struct(config.kwargs, False)  # open: env.kwargs.NAME=VALUE without a +
        return ConfigResult(self.provider, self.full_path(), config, dict(header))


def _env_node(env_id: str) -> dict[str, Any]:
    from rlrun.envs import registry

    spec = registry.find_spec(env_id)
    atari = registry.is_atari(spec)
    node: dict[str, Any] = {
        "id": env_id,
        "n_envs": 16 if atari else 4,
        "clip_rewards": atari,
        "normalize_observations": False,
        "kwargs": {},
    }
    if registry.is_image(spec):
        # In the group `env` the package has to be spelt out; `policy` would mean `env.policy`.
        node["defaults"] = [{"override /policy@_global_.policy": "cnn"}]
    return node


def _is_atari(env_id: str) -> bool:
    """Hydra composes the environment before it looks for its experiment: nothing new to import."""
    from rlrun.envs import registry

    try:
        return registry.is_atari(registry.find_spec(env_id))
    except UserError:
        return False


class EnvSearchPath(SearchPathPlugin):
    """Appends the source to Hydra's search path, where globs see it too."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra once for each program."""
        search_path.append(provider="rlrun", path=f"{_SCHEME}://registry")


def register() -> None:
    """Make the source known to Hydra, in this program only."""
    plugins = Plugins.instance()
    plugins.register(EnvSource)
    plugins.register(EnvSearchPath)
