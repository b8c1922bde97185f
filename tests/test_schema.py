"""The checker of settings: types, ranges, names, rules across settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from rlrun import schema
from rlrun.schema import (
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UserError,
    problems,
)


class Runtime:
    """Stands for a policy or a generator: no setting."""


class Thing:
    def __init__(
        self,
        policy: Runtime,
        *,
        gamma: Fraction = 0.99,
        n_steps: PositiveInt = 20,
        rate: PositiveFloat,
        norm: PositiveFloat | None = 10.0,
        on: bool = True,
        hidden: list[PositiveInt] = [64, 64],  # noqa: B006
        shape: tuple[int, int] = (1, 2),
        kind: Literal["tanh", "relu"] = "tanh",
        kwargs: dict[str, Any] | None = None,
        name: str = "x",
        generator: Runtime | None = None,
    ) -> None: ...

    @staticmethod
    def conflicts(values: dict[str, Any]) -> list[str]:
        if values["gamma"] == 1 and values["n_steps"] == 1:
            return ["gamma: 1 needs n_steps above 1"]
        return []


FINE = {"rate": 0.1}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gamma": 0},
        {"gamma": 1, "n_steps": 2},
        {"norm": None},
        {"norm": 3},
        {"hidden": []},
        {"hidden": (1, 2)},
        {"shape": [3, 4]},
        {"kind": "relu"},
        {"kwargs": {"a": [1]}},
        {"kwargs": None},
    ],
)
def test_accepts(change: dict[str, Any]) -> None:
    assert problems(Thing, FINE | change) == []


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("gamma", 1.5, "a number from 0 to 1"),
        ("gamma", float("nan"), "a number from 0 to 1"),
        ("gamma", True, "a number"),
        ("gamma", "0.9", "a number"),
        ("n_steps", 0, "a whole number of at least 1"),
        ("n_steps", 2.0, "a whole number"),
        ("n_steps", False, "a whole number"),
        ("rate", 0, "a number above 0"),
        ("rate", float("inf"), "a number above 0"),
        ("norm", -1, "a number above 0, or null"),
        ("on", 1, "true or false"),
        ("hidden", [64, 0], "a list, each item a whole number of at least 1"),
        ("hidden", 64, "a list"),
        ("shape", [1], "a list of a whole number, a whole number"),
        ("kind", "elu", "one of tanh, relu"),
        ("kwargs", 3, "a mapping"),
        ("kwargs", {1: 2}, "a mapping"),
        ("name", 3, "text"),
        ("policy", 3, "unknown key"),
        ("generator", None, "unknown key"),
        ("gama", 0.9, "did you mean gamma?"),
        ("zzz", 1, "known: gamma, n_steps"),
    ],
)
def test_refuses(key: str, value: Any, says: str) -> None:
    (message,) = problems(Thing, FINE | {key: value})
    assert message.startswith(f"{key}: ")
    assert says in message


def test_all_problems_at_once_with_full_keys() -> None:
    found = problems(Thing, {"gamma": 2, "n_stepz": 1}, prefix="algo.")
    assert [message.split(":")[0] for message in found] == [
        "algo.n_stepz",
        "algo.gamma",
        "algo.rate",
    ]
    assert "did you mean algo.n_steps?" in found[0]


def test_partial_leaves_missing_ones_to_someone_else() -> None:
    assert problems(Thing, {}) == ["rate: missing; allowed: a number above 0"]
    assert problems(Thing, {}, partial=True) == []


def test_conflicts_see_defaults_and_only_sound_values() -> None:
    assert problems(Thing, FINE | {"gamma": 1, "n_steps": 1}, prefix="algo.") == [
        "algo.gamma: 1 needs n_steps above 1"
    ]
    assert len(problems(Thing, FINE | {"gamma": 1, "n_steps": 1, "on": 3})) == 1


def test_require_raises_all() -> None:
    with pytest.raises(UserError, match=r"(?s)gamma: 2.*rate: missing"):
        schema.require(Thing, {"gamma": 2})


@dataclass(frozen=True)
class Inner:
    keep: PositiveInt = 2
    every: Annotated[float, Range(0, 10, open_low=True)] | None = None


@dataclass(frozen=True)
class Outer:
    seed: NonNegativeInt = 0
    inner: Inner = field(default_factory=Inner)


def test_trees_of_dataclasses() -> None:
    assert problems(Outer, {"inner": {"keep": 3, "every": 10}}) == []
    assert problems(Outer, {"seed": -1, "inner": {"keep": 0, "kep": 1, "every": 11}}) == [
        "seed: -1 is not allowed; allowed: a whole number of at least 0",
        "inner.kep: unknown key; did you mean inner.keep?",
        "inner.keep: 0 is not allowed; allowed: a whole number of at least 1",
        "inner.every: 11 is not allowed; allowed: a number above 0 and up to 10, or null",
    ]
    (message,) = problems(Outer, {"inner": 3})
    assert "keys keep, every" in message


def test_coerced_gives_each_number_the_type_of_its_setting() -> None:
    values = {"gamma": 1, "n_steps": 2e1, "norm": 5, "hidden": [8.0, 9], "on": True, "zzz": 1}
    new = schema.coerced(Thing, values)
    assert new == values
    kinds = [type(new[key]) for key in ("gamma", "n_steps", "norm", "on")]
    assert kinds == [float, int, float, bool]
    assert [type(item) for item in new["hidden"]] == [int, int]
    assert type(schema.coerced(Outer, {"inner": {"keep": 3.0}})["inner"]["keep"]) is int
    assert schema.coerced(Thing, {"n_steps": 2.5, "norm": None}) == {"n_steps": 2.5, "norm": None}


class Open:
    """A user's class that annotates little."""

    def __init__(self, policy, rate=1, module: Runtime | None = None, n: int = 1, **more):  # type: ignore[no-untyped-def]
        ...


def test_what_an_author_leaves_open_is_accepted() -> None:
    assert problems(Open, {"rate": "fast", "other": 1, "module": {"_target_": "x.Y"}}) == []
    assert len(problems(Open, {"module": 3, "n": "x"})) == 2


class Derived(Thing):
    def __init__(self, *runtime: Runtime, floor: Fraction = 0.1, **more: Any) -> None: ...


def test_a_constructor_that_passes_arguments_on_is_checked_like_its_base() -> None:
    assert problems(Derived, FINE | {"floor": 0.5, "gamma": 0.5}) == []
    assert len(problems(Derived, FINE | {"floor": 2, "gama": 0.5, "n_steps": 0})) == 3
    assert problems(Derived, FINE | {"gamma": 1, "n_steps": 1}) == [
        "gamma: 1 needs n_steps above 1"
    ]


def test_nearest_ignores_case() -> None:
    assert schema.nearest("GAMA", ["gamma", "delta"]) == ["gamma"]
    assert schema.nearest("qqq", ["gamma"]) == []
