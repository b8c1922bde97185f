"""Draw the returns of finished runs against steps and seconds, one line per algorithm.

    python scripts/curves.py outputs/results/pong.png outputs/Pong*/*

Each folder holds the seeds of one setting; the band runs from the lowest to the highest seed.
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]
POINTS = 200


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--title", default="")
    parser.add_argument("--window", type=int, default=100, help="episodes to average over")
    arguments = parser.parse_args()
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for folder in arguments.folders:
        label = folder.name.rpartition("-")[0].upper()
        seeds = [read(path, arguments.window) for path in sorted(folder.glob("seed-*"))]
        for panel, column, unit in zip(panels, (0, 1), ("steps", "seconds"), strict=True):
            start = max(seed[column][0] for seed in seeds)
            grid = np.linspace(start, min(seed[column][-1] for seed in seeds), POINTS)
            lines = np.array([np.interp(grid, seed[column], seed[2]) for seed in seeds])
            (line,) = panel.plot(grid, lines.mean(0), label=label)
            panel.fill_between(grid, lines.min(0), lines.max(0), color=line.get_color(), alpha=0.2)
            panel.set_xlabel(unit)
            panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"return, mean of {arguments.window} episodes")
    panels[0].legend()
    figure.suptitle(arguments.title)
    figure.savefig(arguments.picture, dpi=110)


def read(folder: Path, window: int) -> tuple[Curve, Curve, Curve]:
    """Steps, seconds and rolling mean return of a run."""
    with (folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps, seconds, returns = (
        np.array([float(row[name]) for row in rows]) for name in ("step", "time", "return")
    )
    means = np.convolve(returns, np.ones(window) / window, "valid")
    return steps[window - 1 :], seconds[window - 1 :], means


if __name__ == "__main__":
    main()
