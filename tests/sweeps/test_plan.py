"""From the words of a sweep to its jobs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rlrun import config
from rlrun.schema import UserError
from rlrun.sweeps import plan

BASE = config.compose([])


def compose(words: list[str]) -> dict[str, Any]:
    """As the planner, for words of plain keys."""
    composed = copy.deepcopy(BASE)
    for key, value in config.values_of(words).items():
        *path, name = key.split(".")
        node = composed
        for part in path:
            node = node[part]
        node[name] = value
    return composed


def test_every_combination_in_order() -> None:
    words = ["algo.delta=1,2", "seed=range(2)", "algo.gamma=0.9"]
    assert plan.combinations(words) == [
        ["algo.delta=1", "seed=0", "algo.gamma=0.9"],
        ["algo.delta=1", "seed=1", "algo.gamma=0.9"],
        ["algo.delta=2", "seed=0", "algo.gamma=0.9"],
        ["algo.delta=2", "seed=1", "algo.gamma=0.9"],
    ]


def test_the_last_of_several_words_counts() -> None:
    assert plan.combinations(["seed=range(5)", "seed=7"]) == [["seed=7"]]


def test_nothing_to_sweep_is_one_job() -> None:
    assert plan.combinations([]) == [[]]
    (job,), (checked,) = plan.planned([[]], compose)
    assert checked == config.check(BASE)
    assert job.run == str(config.run_folder(checked))
    assert (job.words, job.seed, job.total_timesteps) == ([], 0, 100_000)


def test_jobs_of_one_group_differ_in_the_seed_alone() -> None:
    jobs, _ = plan.planned(plan.combinations(["algo.delta=1,2", "seed=3,4"]), compose)
    assert [job.number for job in jobs] == [0, 1, 2, 3]
    assert [job.seed for job in jobs] == [3, 4, 3, 4]
    first, second = jobs[0].group, jobs[2].group
    assert [job.group for job in jobs] == [first, first, second, second]
    assert first != second


def test_what_decides_nothing_makes_no_group_of_its_own() -> None:
    (one,), _ = plan.planned([["eval.episodes=3", "log_interval=5"]], compose)
    (other,), _ = plan.planned([[]], compose)
    assert one.group == other.group


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(UserError) as refused:
        plan.planned(plan.combinations(["eval.episodes=3,4", "seed=0,1"]), compose)
    assert str(refused.value) == (
        "2 of 4 jobs cannot be run, so that none was started:\n"
        "  eval.episodes=4 seed=0: is the same run as `eval.episodes=3 seed=0`, for what differs "
        "decides nothing about it\n"
        "  eval.episodes=4 seed=1: is the same run as `eval.episodes=3 seed=1`, for what differs "
        "decides nothing about it"
    )


def test_all_problems_are_told_at_once() -> None:
    words = ["algo.gamma=2,0.9", "total_timesteps=0,100", "seed=0,1"]
    with pytest.raises(UserError) as refused:
        plan.planned(plan.combinations(words), compose)
    told = str(refused.value).splitlines()
    assert told[0] == "6 of 8 jobs cannot be run, so that none was started:"
    assert "algo.gamma=2 total_timesteps=0 seed=0 (and 1 more): total_timesteps" in told[1]
    assert any("algo.gamma=2 total_timesteps=100 seed=0 (and 1 more): algo.g" in x for x in told)
    assert any("algo.gamma=0.9 total_timesteps=0 seed=0 (and 1 more): total" in x for x in told)


def test_many_problems_are_counted() -> None:
    with pytest.raises(UserError, match="and 3 problems more"):
        plan.planned(plan.combinations(["seed=range(-8,0)"]), compose)
