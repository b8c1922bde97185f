"""What a search maximises: from the evaluations of runs to one number for a trial."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rlrun import stored
from rlrun.sweeps.settings import Settings
from rlrun.sweeps.statistics import interquartile_mean


def curve(run: Path) -> dict[int, float]:
    """Mean return of each evaluation so far, by its step; a line half written is left out."""
    try:
        lines = (run / "evaluations.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
        return {int(row["step"]): float(row["return_mean"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def at_rungs(run: Path, every: int, settings: Settings) -> dict[int, float]:
    """Objective of a run so far at each evaluation, by the multiple of `every` that it is for.

    Segments end at other steps for other settings; multiples are the same for all trials.
    """
    found, returns = {}, []
    for step, value in curve(run).items():
        returns.append(value)
        found[step // every * every] = _of_run(returns, settings)
    return found


def at_end(run: Path, settings: Settings) -> float:
    """Objective of a finished run; not a number if it was never evaluated."""
    if settings.objective == "auc" and (returns := list(curve(run).values())):
        return _of_run(returns, settings)
    evaluation = stored.read_json(run / "result.json").get("eval") or {}
    return float(evaluation.get("return_mean", math.nan))


def over_seeds(values: Sequence[float], settings: Settings) -> float:
    """Objective of a trial, by those of its runs."""
    iqm = settings.over_seeds == "iqm"
    return interquartile_mean(values) if iqm else sum(values) / len(values)


def _of_run(returns: Sequence[float], settings: Settings) -> float:
    return returns[-1] if settings.objective == "final" else sum(returns) / len(returns)
