"""From words of the command line to ranges."""

from __future__ import annotations

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlrun.schema import UserError
from rlrun.sweeps.space import space


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("a=interval(0,0.05)", FloatDistribution(0, 0.05)),
        ("a=interval(1,5)", FloatDistribution(1, 5)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(1,20))", IntDistribution(1, 20)),
        ("a=tag(log,int(interval(1,20)))", IntDistribution(1, 20, log=True)),
        ("a=range(1,10,3)", IntDistribution(1, 7, step=3)),
        ("a=range(10,1,-3)", IntDistribution(4, 10, step=3)),
        ("a=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("a=choice(5,20)", CategoricalDistribution(["5", "20"])),
        ("a=5,20,5", CategoricalDistribution(["5", "20"])),
        ("a=mlp,lstm", CategoricalDistribution(["mlp", "lstm"])),
        ("a='x y',null", CategoricalDistribution(["'x y'", "null"])),
        ("a=[64,64],[32]", CategoricalDistribution(["[64,64]", "[32]"])),
    ],
)
def test_ranges(word: str, found: BaseDistribution) -> None:
    assert space([word]).ranges == {"a": found}


def test_plain_words_hold_for_all_trials() -> None:
    found = space(["b=3", "a=1,2", "~logger", "+env.kwargs.x=[1]", "b=4"])
    assert found.fixed == ["~logger", "+env.kwargs.x=[1]", "b=4"]
    assert found.words({"a": "2"}) == ["~logger", "+env.kwargs.x=[1]", "b=4", "a=2"]


def test_of_two_words_for_one_key_the_last_counts() -> None:
    assert space(["a=1,2", "b=1,2", "a=3"]).ranges.keys() == {"b"}
    assert space(["a=3", "a=1,2"]).fixed == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=1"], "nothing to choose"),
        (["a=1,2", "seed=0,1"], r"hydra\.sweeper\.seeds=N"),
        (["a=1,2", "seed=3"], r"hydra\.sweeper\.seeds=N"),
        (["a=glob(*)"], r"a=glob\(\*\): a search takes"),
        (["a=shuffle(1,2)"], "a search takes"),
        (["a=shuffle(range(1,3))"], "a search takes"),
        (["a=tag(log,choice(1,2))"], "a search takes"),
        (["a=tag(lg,interval(1,2))"], "unknown tag lg; there is only log"),
        (["a=tag(log,interval(0,2))"], "no range"),
        (["a=interval(2,1)"], "no range"),
        (["a=range(2,1)"], "no range"),
        (["a=tag(log,range(1,10,3))"], "no range"),
        (["a=interval(1"], "not understood; a search takes"),
    ],
)
def test_what_a_search_cannot_use_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        space(words)


def test_probes_take_every_end_and_choice_and_a_value_between() -> None:
    probes = space(["a=interval(0,1)", "b=x,y,z", "c=int(interval(1,3))"]).probes()
    assert {probe["a"] for probe in probes} == {0.0, 1.0, 0.618}
    assert {probe["b"] for probe in probes} == {"x", "y", "z"}
    assert {probe["c"] for probe in probes} == {1, 3}
    assert len(probes) == 3
