"""Typed settings: bounds written as types, and the one checker that reads them.

A setting is a parameter of a constructor (or a field of a dataclass) whose annotation is made
of ``bool``, ``int``, ``float``, ``str``, ``None``, ``Literal``, unions, ``list``, ``tuple``,
``dict`` and dataclasses. Parameters of any other type (a policy, a generator, an observation
space) are runtime objects: they are no settings and are left alone.

The constructor is the single source of names, types, ranges and defaults; the configuration
and the Python classes are both checked against it with `problems`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rlrun.bounds import Matches as Matches
from rlrun.bounds import Range as Range

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping from keys to values",
    Any: "any value",
}


class UserError(Exception):
    """Something the user has to change; the command line prints the message and exits with 2."""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
"""A float from 0 to 1, both included."""


@dataclass(frozen=True)
class Setting:
    """One setting of a target: its annotation, and its default (`MISSING` if it has none)."""

    name: str
    annotation: Any
    default: Any


@cache
def settings(target: Callable[..., Any]) -> dict[str, Setting]:
    """Settings of a class or function, by name, in the order of its signature."""
    if is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        factories = {f.name: f.default_factory for f in fields(target)}
    else:
        function = target.__init__ if inspect.isclass(target) else target
        hints = get_type_hints(function, include_extras=True)
        factories = {}
    found = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in hints or not _checkable(hints[name]):
            continue
        default = parameter.default
        factory = factories.get(name, MISSING)
        if factory is not MISSING:
            default = factory()
        elif default is inspect.Parameter.empty:
            default = MISSING
        found[name] = Setting(name, hints[name], default)
    return found


def problems(
    target: Callable[..., Any],
    values: Mapping[str, Any],
    *,
    partial: bool = False,
    prefix: str = "",
) -> list[str]:
    """Everything that is wrong with `values` as settings of `target`.

    Args:
        target: class, dataclass or function whose signature says what is allowed. A static or
            class method ``conflicts(values) -> list[str]`` adds rules across settings; it gets
            the values completed by the defaults, and only if each setting is fine by itself.
            Its messages begin with the name of the setting to change.
        values: settings by name.
        partial: a missing setting without default is no problem (someone else passes it).
        prefix: put before each name in the messages, for example ``"algo."``.

    Returns:
        One message per problem, each beginning with the full key; empty if all is well.
    """
    known = settings(target)
    found = [
        unknown_key(name, known, prefix=prefix)
        for name, value in values.items()
        if name not in known and not _unchecked(target, name, value)
    ]
    complete: dict[str, Any] = {}
    missing = False
    for name, setting in known.items():
        if name in values:
            found += _problems_of(setting.annotation, values[name], prefix + name)
            complete[name] = values[name]
        elif setting.default is not MISSING:
            complete[name] = setting.default
        else:
            missing = True
            if not partial:
                found.append(f"{prefix}{name}: missing; allowed: {allowed(setting.annotation)}")
    conflicts = getattr(target, "conflicts", None)
    if conflicts is not None and not found and not missing:
        found += [prefix + message for message in conflicts(complete)]
    return found


def require(
    target: Callable[..., Any], values: Mapping[str, Any], *, partial: bool = False
) -> None:
    """Raise `UserError` with all `problems` of the values, if there are any."""
    found = problems(target, values, partial=partial)
    if found:
        raise UserError("\n".join(found))


def coerced(target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the type their setting asks for: 1e6 as an int, 1 as a float or as text.

    So that ``total_timesteps=1e6`` works, and equal settings have equal text. Whatever does not
    fit is left as it is for `problems` to report.
    """
    known = settings(target)
    return {
        name: _coerced(known[name].annotation, value) if name in known else value
        for name, value in values.items()
    }


def unknown_key(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Message for a key that does not exist, with the nearest known one or all of them."""
    known = list(known)
    near = nearest(str(name), known)
    if near:
        hint = "did you mean " + " or ".join(prefix + word for word in near) + "?"
    else:
        hint = "known: " + (", ".join(known) or "nothing can be set here")
    return f"{prefix}{name}: unknown key; {hint}"


def nearest(word: str, known: Iterable[str], n: int = 2) -> list[str]:
    """At most `n` known words that `word` may be a slip of, the nearest first."""
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.lower(), candidate)
    close = difflib.get_close_matches(word.lower(), list(folded), n=n, cutoff=0.6)
    return [folded[match] for match in close]


def allowed(annotation: Any) -> str:
    """What an annotation allows, in words: ``a whole number of at least 1, or null``."""
    if is_dataclass(annotation):
        return "keys " + ", ".join(settings(annotation))  # type: ignore[arg-type]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [str(extra) for extra in args[1:] if isinstance(extra, Range | Matches)]
        return " ".join([allowed(args[0]), *bounds]).strip()
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in args)
    if origin in (Union, types.UnionType):
        return ", or ".join(allowed(option) for option in args)
    if origin in (list, tuple):
        if origin is list or (len(args) == 2 and args[1] is Ellipsis):
            return f"a list, each item {allowed(args[0])}"
        return "a list of " + ", ".join(allowed(item) for item in args)
    if origin is dict:
        return _WORDS[dict]
    return _WORDS[annotation]


def _unchecked(target: Callable[..., Any], name: str, value: Any) -> bool:
    """Is this a parameter that nothing is said about, or a component for a runtime object?

    Authors of a component of their own need not annotate it: what they leave open is accepted.
    """
    parameters = inspect.signature(target).parameters
    if name not in parameters:
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    open_ = parameters[name].annotation is inspect.Parameter.empty
    return open_ or (isinstance(value, Mapping) and "_target_" in value)


def _checkable(annotation: Any) -> bool:
    """Is this annotation made of the types that a setting may have?"""
    if annotation in (None, *_WORDS) or is_dataclass(annotation):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _checkable(args[0])
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType):
        return all(_checkable(option) for option in args)
    if origin in (list, tuple, dict):
        return all(item is Ellipsis or _checkable(item) for item in args)
    return False


def _problems_of(annotation: Any, value: Any, key: str) -> list[str]:
    """Problems of one value; at most one message, except inside a tree of dataclasses."""
    if is_dataclass(annotation) and isinstance(value, Mapping):
        return problems(annotation, value, prefix=f"{key}.")  # type: ignore[arg-type]
    if _fits(annotation, value):
        return []
    return [f"{key}: {value!r} is not allowed; allowed: {allowed(annotation)}"]


def _fits(annotation: Any, value: Any) -> bool:
    """Is the value of this type and in its range? True and False are no numbers."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [extra for extra in args[1:] if isinstance(extra, Range | Matches)]
        return _fits(args[0], value) and (value is None or all(value in bound for bound in bounds))
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in args)
    if origin in (Union, types.UnionType):
        return any(_fits(option, value) for option in args)
    if origin in (list, tuple) or annotation in (list, tuple):
        return _fits_items(origin or annotation, args, value)
    if origin is dict or annotation is dict:
        return isinstance(value, Mapping) and all(
            _fits(args[0], k) and _fits(args[1], v) for k, v in value.items() if args
        )
    if annotation is Any:
        return True
    if annotation is None:
        return value is None
    if annotation is float:
        return _is_number(value, int | float) and math.isfinite(value)
    if annotation is int:
        return _is_number(value, int)
    return not is_dataclass(annotation) and isinstance(value, annotation)


def _fits_items(kind: Any, args: tuple[Any, ...], value: Any) -> bool:
    """Do the items of a list or tuple fit? YAML has lists only, so a tuple may come as one."""
    if not isinstance(value, list | tuple):
        return False
    if not args:
        return True
    if kind is list or (len(args) == 2 and args[1] is Ellipsis):
        return all(_fits(args[0], item) for item in value)
    return len(args) == len(value) and all(map(_fits, args, value))


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _coerced(annotation: Any, value: Any) -> Any:
    if is_dataclass(annotation) and isinstance(value, Mapping):
        return coerced(annotation, value)  # type: ignore[arg-type]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _coerced(args[0], value)
    if origin in (Union, types.UnionType):
        if any(_fits(option, value) and _coerced(option, value) is value for option in args):
            return value
        changed = (_coerced(option, value) for option in args)
        return next((new for new in changed if new is not value), value)
    if origin is list and isinstance(value, list) and args:
        return [_coerced(args[0], item) for item in value]
    if annotation is float and _is_number(value, int):
        return float(value)
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if annotation is str and _is_number(value, int):
        return str(value)
    return value
