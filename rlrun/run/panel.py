"""What the live screen and the plain lines say about a run, as text and styles only.

A line is a list of (text, style) pairs; nothing here knows a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Line = list[tuple[str, str]]

_CURVE_CELLS = 120
_MAX_WIDTH = 120
_INDENT = "  "
_LABEL = 12  # columns of the labels left of the content
_NAME, _VALUE, _GAP = 18, 9, 4  # columns of a metric, and between two groups
_SHOWN_ABOVE = {"train/return_mean", "train/length_mean", "time/steps_per_second", "time/seconds"}


@dataclass
class Status:
    """What is known of a run now; steps count environment steps over all environments."""

    total_steps: int
    step: int
    elapsed: float = 0.0
    """Seconds since this process began to train."""
    steps_per_second: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    return_mean: float | None = None
    length_mean: float | None = None
    evaluation: list[str] = field(default_factory=list)
    """What the last evaluation gave, in short parts."""
    ended: bool = False
    curve: list[float | None] = field(default_factory=lambda: [None] * _CURVE_CELLS)
    """Mean return by progress: the last one known in each of equal parts of the run."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return min(1.0, self.step / max(1, self.total_steps))

    def remember_return(self) -> None:
        """Enter the present mean return into the curve."""
        self.curve[min(_CURVE_CELLS - 1, int(self.progress * _CURVE_CELLS))] = self.return_mean

    def time_left(self) -> str:
        """Time to the end at the present speed."""
        if self.steps_per_second <= 0:
            return "?"
        return duration((self.total_steps - self.step) / self.steps_per_second)


def duration(seconds: float) -> str:
    """Seconds as m:ss, h:mm:ss or days and hours."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def short(value: float) -> str:
    """A return or a length: one decimal, none from 10 000 on."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.1f}"


def number(name: str, value: float) -> str:
    """A metric in at most nine columns; a share is shown in percent."""
    if not math.isfinite(value):
        return str(float(value))
    if name.endswith("share"):
        return f"{100 * value:.1f} %"
    size = abs(value)
    if size == 0:
        return "0"
    if isinstance(value, int) or size >= 1000:
        return f"{value:,.0f}" if size < 10_000_000 else f"{value:.2e}"
    if 0 < size < 0.001:
        return f"{value:.2e}"
    return f"{value:.{4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1}f}"


def plain_line(status: Status) -> str:
    """The state of the run in one line, for files and pipes."""
    parts = [
        f"step {status.step:,}/{status.total_steps:,} ({100 * status.progress:.0f} %)",
        "return -" if status.return_mean is None else f"return {short(status.return_mean)}",
        f"{status.steps_per_second:,.0f} steps/s",
    ]
    if not status.ended:
        parts.append(f"ETA {status.time_left()}")
    return "  ".join(parts)


def lines(status: Status, width: int, unicode: bool = True) -> list[Line]:
    """The live screen, in lines of less than `width` columns."""
    width = min(width - 1, _MAX_WIDTH)
    room = width - len(_INDENT) - _LABEL
    cells = max(4, room - 9)
    percent = int(100 * status.progress)
    result = [
        [],
        [_label("progress"), *_bar(status.progress, cells, unicode), (f"{percent:>7} %", "bold")],
    ]
    if status.return_mean is None:
        result.append([_label("return"), ("no episode has ended yet", "dim")])
    else:
        spark = _sparkline(status, cells, unicode)
        value = (f"{short(status.return_mean):>9}", "bold")
        result.append([_label("return"), (f"{spark:<{cells}}", "green"), value])
    result.append([])

    times = [f"{duration(status.elapsed)} elapsed"]
    if not status.ended:
        times.append(f"{status.time_left()} left")
    steps = f"{status.step:,} of {status.total_steps:,}"
    result += _flow("steps", [steps, f"{status.steps_per_second:,.0f} per second", *times], room)
    if status.return_mean is not None and status.length_mean is not None:
        episodes = [f"return {short(status.return_mean)}", f"length {short(status.length_mean)}"]
        result += _flow("episodes", [*episodes, "mean of the last 100"], room)
    if status.evaluation:
        result += _flow("evaluation", status.evaluation, room)
    return result + _metrics(status.metrics, width)


def _label(text: str) -> tuple[str, str]:
    return f"{_INDENT}{text:<{_LABEL}}", "dim"


def _flow(label: str, parts: Sequence[str], room: int) -> list[Line]:
    """Parts side by side, on as many lines as they need."""
    rows = [parts[0]]
    for part in parts[1:]:
        if len(rows[-1]) + 3 + len(part) <= room:
            rows[-1] += "   " + part
        else:
            rows.append(part)
    return [[_label("" if i else label), (row, "")] for i, row in enumerate(rows)]


def _bar(share: float, cells: int, unicode: bool) -> Line:
    full, half, rest = "━╸─" if unicode else "=> "
    done = int(share * cells)
    tip = half if done < cells and share * cells - done >= 0.5 else ""
    style = "green" if share >= 1 else "cyan"
    return [(full * done + tip, style), (rest * (cells - done - len(tip)), "dim")]


def _sparkline(status: Status, cells: int, unicode: bool) -> str:
    """The curve below the bar, on the same scale of steps; blank where nothing is known."""
    levels = "▁▂▃▄▅▆▇█" if unicode else "_.-=+*#@"
    means: list[float | None] = []
    last: float | None = None
    for cell in range(max(1, math.ceil(status.progress * cells))):
        first = cell * _CURVE_CELLS // cells
        stop = max(first + 1, (cell + 1) * _CURVE_CELLS // cells)
        known = [r for r in status.curve[first:stop] if r is not None]
        last = sum(known) / len(known) if known else last
        means.append(last)
    heights = [mean for mean in means if mean is not None and math.isfinite(mean)]
    low, high = min(heights, default=0.0), max(heights, default=0.0)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if mean is None or not math.isfinite(mean) else levels[round((mean - low) * scale)]
        for mean in means
    )


def _metrics(metrics: Mapping[str, float], width: int) -> list[Line]:
    """Groups of metrics in as many columns as fit, each group below the shortest column."""
    groups: dict[str, list[Line]] = {}
    for key, value in metrics.items():
        if key in _SHOWN_ABOVE:
            continue
        group, _, name = key.rpartition("/")
        row = groups.setdefault(group, [])
        name = name.replace("_", " ")[:_NAME]
        style = "" if math.isfinite(value) else "bold red"
        row.append([(f"{name:<{_NAME}}", "dim"), (f"{number(name, value):>{_VALUE}}", style)])
    wide = _NAME + _VALUE
    count = max(1, (width - len(_INDENT) + _GAP) // (wide + _GAP))
    columns: list[list[Line]] = [[] for _ in range(count)]
    for group, rows in groups.items():
        title = f"{group.replace('_', ' '):<{wide}}"[:wide]
        shortest = min(columns, key=len)
        shortest += [[(" " * wide, "")], [(title, "cyan")], *rows]
    result = []
    for i in range(max(map(len, columns))):
        line: Line = [(_INDENT, "")]
        for column in columns:
            cell: Line = column[i] if i < len(column) else [(" " * wide, "")]
            line += [*cell, (" " * _GAP, "")]
        result.append(line[:-1])
    return result
