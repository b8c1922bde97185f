"""The jobs of a sweep that differ in their seeds alone, as one row: its name, and what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrun import stored
from rlrun.sweeps import statistics
from rlrun.sweeps.folder import Job, State, Sweep


@dataclass
class Group:
    """Jobs with one config but for the seed."""

    label: str
    """What tells it from the other groups."""
    jobs: list[Job]
    finished: int = 0
    returns: statistics.Summary | None = None
    """Of the seeds that are finished and have a return."""
    speed: float | None = None
    """Mean steps per second of the seeds that are finished."""


@dataclass
class Groups:
    """All groups of a sweep, and what their returns are."""

    rows: list[Group] = field(default_factory=list)
    from_evaluation: bool = True
    """Whether all returns are of the last evaluation; else all are those of the training."""


def labels(jobs: Sequence[Job]) -> dict[int, str]:
    """By the number of each job, the words that not all jobs share, its seed included."""
    names = _names(jobs)
    return {job.number: f"{names[job.group]} seed={job.seed}".strip() for job in jobs}


def grouped(jobs: Sequence[Job]) -> list[Group]:
    """The groups, in the order in which they come first."""
    names = _names(jobs)
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(job.group, []).append(job)
    return [Group(names[digest] or place(jobs[0]), mine) for digest, mine in members.items()]


def measured(sweep: Sweep, states: Mapping[int, State]) -> Groups:
    """The groups of a sweep with what their finished seeds gave."""
    groups = Groups(grouped(sweep.jobs))
    results = {
        job.number: stored.read_json(sweep.run_folder(job) / "result.json")
        for job in sweep.jobs
        if states[job.number].status == "finished"
    }
    evaluated = [evaluation_return(result) for result in results.values()]
    groups.from_evaluation = None not in evaluated
    read = evaluation_return if groups.from_evaluation else training_return
    for group in groups.rows:
        mine = [results[job.number] for job in group.jobs if job.number in results]
        group.finished = len(mine)
        returns = [value for result in mine if (value := read(result)) is not None]
        group.returns = statistics.summary(returns) if returns else None
        speeds = [value for result in mine if (value := number(result, "steps_per_second"))]
        group.speed = math.fsum(speeds) / len(speeds) if speeds else None
    return groups


def evaluation_return(result: Mapping[str, Any]) -> float | None:
    """Mean return of the last evaluation that a `result.json` tells of."""
    return number(result.get("eval"), "return_mean")


def training_return(result: Mapping[str, Any]) -> float | None:
    """Mean return of the last episodes of the training."""
    return number(result, "train_return_last100")


def number(data: Any, key: str) -> float | None:
    """A finite number of a file, if it is there."""
    value = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def place(job: Job) -> str:
    """Algorithm and environment of a job, by the folder of its run."""
    algorithm, env = Path(job.run).parent, Path(job.run).parent.parent
    return f"{algorithm.name.rpartition('-')[0]} on {env.name}"


def _names(jobs: Sequence[Job]) -> dict[str, str]:
    """By the digest of each group: its words, without those of all jobs and of single seeds.

    Two commands may have brought one sweep words that say the same in other ways: if two groups
    would be called alike, each is called by its place and its digest.
    """
    found: dict[str, list[str]] = {}
    for job in jobs:
        words = [word for word in job.words if word.lstrip("+").partition("=")[0] != "seed"]
        known = found.setdefault(job.group, words)
        found[job.group] = [word for word in known if word in words]
    shared = set.intersection(*map(set, found.values())) if found else set()
    names = {
        digest: " ".join(word for word in words if word not in shared)
        for digest, words in found.items()
    }
    if len(set(names.values())) < len(names):
        return {job.group: f"{place(job)} ({job.group})" for job in jobs}
    return names
