"""One value against one annotation: bounds that stand in a type, does it fit, what is allowed.

Bounds stand in the type of a setting: `Annotated[int, Range(1)]`.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``low <= x <= high``, or ``low < x`` where `open_low`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            low = f"above {self.low:g} and up to" if self.open_low else f"from {self.low:g} to"
            return f"{low} {self.high:g}"
        if math.isfinite(self.low):
            return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return f"of at most {self.high:g}" if math.isfinite(self.high) else ""


@dataclass(frozen=True)
class Matches:
    """A pattern that a text has to match as a whole, and what it means in words."""

    pattern: str
    words: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


def allowed(annotation: Any) -> str:
    """What an annotation allows, in words: ``a whole number of at least 1, or null``."""
    if is_dataclass(annotation):
        return "keys " + ", ".join(field.name for field in fields(annotation))
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if words := [str(extra) for extra in args[1:] if isinstance(extra, Matches)]:
            return f"one of {words[0]}"
        bounds = [str(extra) for extra in args[1:] if isinstance(extra, Range)]
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


def checkable(annotation: Any) -> bool:
    """Is this annotation made of the types that a setting may have?"""
    if annotation in (None, *_WORDS) or is_dataclass(annotation):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return checkable(args[0])
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType):
        return all(checkable(option) for option in args)
    if origin in (list, tuple, dict):
        return all(item is Ellipsis or checkable(item) for item in args)
    return False


def fits(annotation: Any, value: Any) -> bool:
    """Is the value of this type and in its range? True and False are no numbers."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [extra for extra in args[1:] if isinstance(extra, Range | Matches)]
        return fits(args[0], value) and (value is None or all(value in bound for bound in bounds))
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in args)
    if origin in (Union, types.UnionType):
        return any(fits(option, value) for option in args)
    if origin in (list, tuple) or annotation in (list, tuple):
        return _fits_items(origin or annotation, args, value)
    if origin is dict or annotation is dict:
        return isinstance(value, Mapping) and all(
            fits(args[0], k) and fits(args[1], v) for k, v in value.items() if args
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
        return all(fits(args[0], item) for item in value)
    return len(args) == len(value) and all(map(fits, args, value))


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def coerce(annotation: Any, value: Any) -> Any:
    """A number in the type that the annotation asks for: 1e6 as an int, 1 as a float or a text.

    Whatever cannot be is left as it is.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return coerce(args[0], value)
    if origin in (Union, types.UnionType):
        if any(fits(option, value) and coerce(option, value) is value for option in args):
            return value
        changed = (coerce(option, value) for option in args)
        return next((new for new in changed if new is not value), value)
    if origin is list and isinstance(value, list) and args:
        return [coerce(args[0], item) for item in value]
    if annotation is float and _is_number(value, int):
        return float(value)
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if annotation is str and _is_number(value, int):
        return str(value)
    return value
