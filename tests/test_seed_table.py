"""The README says what has become of each part of the interface of stable-baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlrun
from tests import seed_table

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_readme_has_the_tables() -> None:
    assert seed_table.tables() in README, "`python -m tests.seed_table` prints them"


@pytest.mark.parametrize("owner", seed_table.CONSTRUCTORS)
def test_every_argument_of_a_constructor_is_here_or_told(owner: str) -> None:
    here = seed_table.here(owner)
    told = {name for name in seed_table.NOTES if "." not in name}
    missing = set(seed_table.CONSTRUCTORS[owner]) - set(here)
    assert missing <= told
    assert missing == ({"momentum"} if owner == "A2C" else set())


def test_every_part_is_here_or_told() -> None:
    owners = {**seed_table.METHODS, **seed_table.FUNCTIONS}
    missing = {owner for owner in owners if not seed_table.exists(owner)}
    assert missing == {"get_vec_normalize_env", "make_atari_env", "VecFrameStack", "VecNormalize"}
    assert missing <= set(seed_table.NOTES)


def test_notes_belong_to_something() -> None:
    names = {name for row in seed_table.CONSTRUCTORS.values() for name in row}
    for owner, arguments in {**seed_table.METHODS, **seed_table.FUNCTIONS}.items():
        names |= {owner, *(f"{owner}.{name}" for name in arguments)}
    names |= {f"{owner}.{name}" for owner, row in seed_table.CONSTRUCTORS.items() for name in row}
    assert set(seed_table.NOTES) <= names


@pytest.mark.parametrize("name", sorted(set(rlrun.__all__) - {"__version__"}))
def test_public_names_are_documented(name: str) -> None:
    public = getattr(rlrun, name)
    if isinstance(public, str):  # the name of a policy stands for itself
        assert public == name
        return
    assert public.__doc__
    if not isinstance(public, type):
        return
    for method, value in vars(public).items():
        if not method.startswith("_") and callable(value):
            inherited = any(
                getattr(getattr(b, method, None), "__doc__", None) for b in public.__mro__
            )
            assert inherited, f"{name}.{method}"
