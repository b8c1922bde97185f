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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

from rlrun.annotations import Matches as Matches
from rlrun.annotations import Range as Range
from rlrun.annotations import allowed, checkable, coerce, fits


class UserError(Exception):
    """Something the user has to change; the command line prints the message and exits with 2."""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
"""A float from 0 to 1, both included."""
LogDeviation = Annotated[float, Range(-10, 5)]
"""Logarithm of a standard deviation, within what single precision bears."""


@dataclass(frozen=True)
class Setting:
    """One setting of a target: its annotation, and its default (`MISSING` if it has none)."""

    name: str
    annotation: Any
    default: Any


@cache
def settings(target: Callable[..., Any]) -> dict[str, Setting]:
    """Settings of a class or function, by name, in the order of its signature."""
    factories = {}
    if is_dataclass(target):
        factories = {f.name: f.default_factory for f in fields(target)}
    found: dict[str, Setting] = {}
    for function in _functions(target):
        hints = get_type_hints(function, include_extras=True)
        for name, parameter in inspect.signature(function).parameters.items():
            named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if named and name in hints and name not in found and checkable(hints[name]):
                default = parameter.default
                factory = factories.get(name, MISSING)
                if factory is not MISSING:
                    default = factory()
                elif default is inspect.Parameter.empty:
                    default = MISSING
                found[name] = Setting(name, hints[name], default)
    return found


def _functions(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """What takes the arguments: a constructor that has `**kwargs` passes them on to its base."""
    if not inspect.isclass(target):
        return [target]
    found = []
    for base in target.__mro__[:-1]:
        constructor = vars(base).get("__init__")
        if constructor is not None:
            found.append(constructor)
            if not _takes_more(constructor):
                break
    return found


def _takes_more(function: Callable[..., Any]) -> bool:
    kinds = (p.kind for p in inspect.signature(function).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds


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
    new = dict(values)
    for name, value in values.items():
        if name in known:
            annotation = known[name].annotation
            if is_dataclass(annotation) and isinstance(value, Mapping):
                new[name] = coerced(annotation, value)  # type: ignore[arg-type]
            elif fits(annotation, fitting := coerce(annotation, value)):
                new[name] = fitting
    return new


def completed(target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values and, for all others that have one, the default."""
    new = dict(values)
    for name, setting in settings(target).items():
        annotation, default = setting.annotation, setting.default
        if is_dataclass(annotation) and (name in new or default is not MISSING):
            new[name] = completed(annotation, new.get(name, {}))  # type: ignore[arg-type]
        elif name not in new and default is not MISSING:
            new[name] = list(default) if isinstance(default, tuple) else default
    return new


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


def _unchecked(target: Callable[..., Any], name: str, value: Any) -> bool:
    """Is this a parameter that nothing is said about, or a component for a runtime object?

    Authors of a component of their own need not annotate it: what they leave open is accepted.
    """
    functions = _functions(target)
    for function in functions:
        parameter = inspect.signature(function).parameters.get(name)
        if parameter is not None:
            unannotated = parameter.annotation is inspect.Parameter.empty
            return unannotated or (isinstance(value, Mapping) and "_target_" in value)
    return bool(functions) and _takes_more(functions[-1])


def _problems_of(annotation: Any, value: Any, key: str) -> list[str]:
    """Problems of one value; at most one message, except inside a tree of dataclasses."""
    if is_dataclass(annotation) and isinstance(value, Mapping):
        return problems(annotation, value, prefix=f"{key}.")  # type: ignore[arg-type]
    if fits(annotation, value):
        return []
    return [f"{key}: {value!r} is not allowed; allowed: {allowed(annotation)}"]
