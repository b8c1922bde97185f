"""The learning curve of a run as a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from rlrun.run.loggers import run_title
from rlrun.run.store import write_atomic

_WINDOW = 100  # episodes of the rolling mean
_DOTS = 4000  # more episodes than this are thinned out in the drawing
_INK, _FAINT, _DOT, _MEAN, _EVAL = "#1f2933", "#7b8794", "#9fb3c8", "#2162b0", "#d9641c"


def learning_curve(folder: Path) -> Path | None:
    """Draw `learning_curve.png` from the episodes and evaluations in a run's folder.

    Returns its path, or None, leaving what is there, if no episode and no evaluation is on
    record. Raises OSError if it cannot be written.
    """
    episodes = read_episodes(folder / "episodes.csv")
    evaluations = read_evaluations(folder / "evaluations.jsonl")
    if not len(episodes) and not len(evaluations):
        return None

    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if len(episodes):
        steps, returns = episodes.T
        shown = _thinned(len(steps))
        size = 14 if len(shown) < 300 else 6
        axes.scatter(
            steps[shown], returns[shown], s=size, color=_DOT, alpha=0.5, linewidths=0,
            label="episode",
        )  # fmt: skip
        label = f"mean of the last {_WINDOW} episodes"
        axes.plot(steps[shown], rolling_mean(returns)[shown], color=_MEAN, linewidth=2, label=label)
    if len(evaluations):
        steps, means, spreads = evaluations.T
        axes.errorbar(
            steps, means, spreads, color=_EVAL, marker="o", markersize=5, linestyle="none",
            elinewidth=1.2, capsize=2.5, zorder=3, label="evaluation, ± standard deviation",
        )  # fmt: skip
    axes.set_title(_title(folder / "config.yaml"), loc="left", color=_INK, fontweight="bold")
    axes.set_xlabel("environment steps", color=_INK)
    axes.set_ylabel("return of an episode", color=_INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid(color=_FAINT, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=_INK, fontsize=9)

    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    path = folder / "learning_curve.png"
    write_atomic(path, picture.getvalue())
    return path


def rolling_mean(values: NDArray[np.float64], window: int = _WINDOW) -> NDArray[np.float64]:
    """Mean of each value and the window - 1 before it; of all so far where they are fewer. [N]"""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    mean: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return mean


def _thinned(count: int) -> NDArray[np.intp]:
    """Indices of at most `_DOTS` of `count` points, evenly spread, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, _DOTS)).round().astype(np.intp))


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file that a running or killed process may have left with a torn last line."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


def read_episodes(path: Path) -> NDArray[np.float64]:
    """Step and return of each finished episode, [N, 2]."""
    rows = _whole_lines(path)[1:]
    if not rows:
        return np.empty((0, 2))
    return np.loadtxt(rows, delimiter=",", usecols=(0, 2), ndmin=2)


def read_evaluations(path: Path) -> NDArray[np.float64]:
    """Step, mean and standard deviation of the return of each evaluation, [N, 3]."""
    rows = [json.loads(line) for line in _whole_lines(path)]
    points = [[row[key] for key in ("step", "return_mean", "return_std")] for row in rows]
    known = [point for point in points if None not in point]
    return np.array(known, dtype=np.float64).reshape(-1, 3)


def _title(path: Path) -> str:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return "Learning curve"
    if not isinstance(config, dict):
        return "Learning curve"
    algo, env, seed = run_title(config)
    return f"{algo} on {env}, seed {seed}"
