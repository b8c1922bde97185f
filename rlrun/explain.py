"""What a user has to change, from the exceptions of Hydra's composition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlrun import schema, usage
from rlrun.schema import UserError

if TYPE_CHECKING:
    from omegaconf.errors import OmegaConfBaseException

_LONGEST = 400  # characters of options that a message lists


def explain(error: Exception, folders: Sequence[Path]) -> str:
    """What the user has to change, from an exception of Hydra's composition."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    cause = error.__cause__ or error
    text = str(error) or str(cause)
    if isinstance(error, OverrideParseException):
        near = schema.nearest(error.override, usage.VERBS)
        hint = f"did you mean `rlrun {near[0]} ...`?" if near else _GRAMMAR
        return f"{error.override}: not understood; {hint}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.partition("/")
        if group == "hydra":
            group, _, option = error.missing_cfg_file.rpartition("/")
        if group == "env":
            from rlrun.envs import registry

            try:
                registry.find_spec(option)
            except UserError as unknown:
                return str(unknown)
        return unknown_option(group, option, usage.options(group, folders) or error.options)
    if isinstance(cause, OmegaConfBaseException) and OmegaConf.is_dict(cause.parent_node):
        return _unknown_key(cause)
    if "Ambiguous value" in text or "requires --multirun" in text:
        word = text.split("'")[1]
        return f"{word}: several values need --multirun; one list is written KEY=[a,b], in quotes"
    if "An item is already at" in text:
        key = text.split("'")[1]
        return f"+{key}: the key is there already; leave out the +"
    if "must be a string or a list" in text:
        return "a group takes the name of an option, no number and no null (experiment=none)"
    return "\n".join(line for line in text.splitlines()[:2] if line.strip())


_GRAMMAR = "write KEY=VALUE or GROUP=OPTION, in quotes if there are brackets or blanks"


def _unknown_key(error: OmegaConfBaseException) -> str:
    """The key that does not exist, with the nearest ones beside it, or its namesakes below."""
    from omegaconf import OmegaConf

    from rlrun.config import dotted

    node = OmegaConf.to_container(error.parent_node, resolve=False)
    assert isinstance(node, dict)
    hidden = ("hydra", "_target_", "_partial_")
    known = {str(name): value for name, value in node.items() if name not in hidden}
    prefix, dot, name = str(error.full_key or error.key).rpartition(".")
    namesakes = [key for key in dotted(known) if key.endswith(f".{name}")]
    if namesakes:
        return f"{prefix}{dot}{name}: unknown key; did you mean {' or '.join(namesakes)}?"
    return schema.unknown_key(name, known, prefix=prefix + dot)


def unknown_option(group: str, option: str, known: Sequence[str]) -> str:
    """What to say of an option that a group does not have."""
    near = schema.nearest(option, known)
    there = ", ".join(known)
    if len(there) > _LONGEST:
        there = f"`rlrun list {group}s` tells them"
    hint = f"did you mean {' or '.join(near)}?" if near else f"options: {there}"
    return f"{group}={option}: unknown option; {hint}"
