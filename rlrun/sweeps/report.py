"""`report.md` and `report.png` of a sweep: its table, and a learning curve for each group."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlrun.run import plots
from rlrun.run.store import write_atomic
from rlrun.sweeps import groups, table
from rlrun.sweeps.folder import Sweep

_POINTS = 200  # of a curve over the seeds of a group
_MOST = 12  # groups that one pair of axes shows
_COLOURS = ("#2162b0", "#d9641c", "#2a8c4a", "#8c3fa8", "#b8282f", "#0f8b8d", "#946c00", "#5a6772")
_STYLES = ("-", "--", ":", "-.")
_INK, _FAINT = "#1f2933", "#7b8794"

Curve = NDArray[np.float64]
"""Steps and returns, [N, 2], the steps rising."""


def write(sweep: Sweep) -> list[Path]:
    """Write both files into the folder of the sweep.

    Returns:
        Their paths; without the picture if no run has a curve yet.
    """
    picture = _draw(sweep)
    states = sweep.states()
    found = groups.measured(sweep, states)
    lines = [f"# Sweep {sweep.folder.name}", ""]
    lines += [f"    rlrun {shlex.join(command)}" for command in sweep.commands]
    lines += ["", f"{table.counted(states.values())}.", ""]
    lines += _markdown(table.HEAD, table.rows(found))
    lines += ["", f"Return: {table.meaning(found)}.", ""]
    if picture is not None:
        lines += [f"![Learning curves]({picture.name})", ""]
    for job in sweep.jobs:
        state = states[job.number]
        if state.reason:
            reason = table.first_line(state.reason)
            lines += [f"- {state.status} `{table.label(sweep, job)}`: {reason}"]
    path = sweep.folder / "report.md"
    write_atomic(path, "\n".join(lines).rstrip() + "\n")
    return [path, *([picture] if picture else [])]


def _markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    rule = ("---", *["---:"] * (len(head) - 1))
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *lines)]


def over_seeds(curves: list[Curve]) -> tuple[Curve, Curve, Curve, Curve]:
    """Steps, mean, lowest and highest return where every curve of a group is known.

    Args:
        curves: one for each seed, none of them empty.
    """
    begin = max(curve[0, 0] for curve in curves)
    end = min(curve[-1, 0] for curve in curves)
    steps = np.linspace(begin, max(begin, end), _POINTS)
    returns = np.stack([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves])
    return steps, returns.mean(0), returns.min(0), returns.max(0)


def _curves(sweep: Sweep) -> tuple[dict[str, dict[str, list[Curve]]], bool]:
    """The curves of each group, by environment and label; whether they are of evaluations.

    Evaluations are drawn if every run that has begun has two at least, else episodes.
    """
    runs = {job.number: sweep.run_folder(job) for job in sweep.jobs}
    begun = {n: folder for n, folder in runs.items() if (folder / "config.yaml").is_file()}
    tested = {n: plots.read_evaluations(path / "evaluations.jsonl") for n, path in begun.items()}
    evaluated = all(len(rows) > 1 for rows in tested.values())
    found: dict[str, dict[str, list[Curve]]] = {}
    for group in groups.grouped(sweep.jobs):
        curves = []
        for job in group.jobs:
            if job.number not in begun:
                continue
            if evaluated:
                curves.append(tested[job.number][:, :2])
                continue
            episodes = plots.read_episodes(begun[job.number] / "episodes.csv")
            if len(episodes):
                smooth = plots.rolling_mean(episodes[:, 1])
                curves.append(np.stack([episodes[:, 0], smooth], axis=1))
        if curves:
            env = Path(group.jobs[0].run).parent.parent.name
            found.setdefault(env, {})[group.label] = curves
    return found, evaluated


def _draw(sweep: Sweep) -> Path | None:
    """The curves of all groups, with axes for each environment; None if there are none yet."""
    found, evaluated = _curves(sweep)
    if not found:
        return None

    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.5 * len(found)), dpi=150, layout="constrained")
    for axes, (env, curves) in zip(
        figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True
    ):
        drawn = {label: over_seeds(seeds) for label, seeds in curves.items()}
        best = sorted(drawn, key=lambda label: drawn[label][1][-1], reverse=True)[:_MOST]
        for index, label in enumerate(label for label in drawn if label in best):
            steps, mean, low, high = drawn[label]
            seeds = curves[label]
            colour = _COLOURS[index % len(_COLOURS)]
            style = _STYLES[index // len(_COLOURS) % len(_STYLES)]
            name = f"{label} ({len(seeds)} seed{'' if len(seeds) == 1 else 's'})"
            axes.plot(steps, mean, style, color=colour, linewidth=2, label=name)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        kind = "evaluations" if evaluated else "mean of the last 100 episodes"
        title = f"{env}: {kind}; mean, lowest and highest of the seeds"
        title += f" (best {_MOST} of {len(drawn)})" if len(drawn) > _MOST else ""
        axes.set_title(title, loc="left", color=_INK, fontsize=10)
        axes.set_xlabel("environment steps", color=_INK)
        axes.set_ylabel("return of an episode", color=_INK)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        axes.grid(color=_FAINT, alpha=0.2, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_FAINT)
        axes.tick_params(colors=_INK, length=3)
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    path = sweep.folder / "report.png"
    write_atomic(path, picture.getvalue())
    return path
