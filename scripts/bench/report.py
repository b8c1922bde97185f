"""Tables for people, and a JSON file for everything else."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rlrun.run.provenance import git_state, surroundings

from .training import PARTS

_MORE = ("ale-py", "stable-baselines3", "rich")


def made_with(device: torch.device) -> dict[str, Any]:
    """Machine, versions, date and commit."""
    found = surroundings(device)
    del found["threads"]  # each work has its own
    for name in _MORE:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        **found,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "command": sys.argv[1:],
    }


def _cpu(info: Path = Path("/proc/cpuinfo")) -> str:
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(path: Path, report: Mapping[str, Any]) -> None:
    """The report as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n")


def show(console: Console, name: str, work: Mapping[str, Any]) -> None:
    """A table of one work."""
    if work["rows"]:
        console.print(table(name, work))
    for note in work["notes"]:
        console.print(f"{name}: {note}", highlight=False, markup=False)


def table(name: str, work: Mapping[str, Any]) -> Table:
    """Rates, their ratios to floor and peer, and the parts of the time."""
    made = Table(title=f"{name}: {work['words']}", title_justify="left", show_lines=False)
    made.add_column("", no_wrap=True)
    for column in ("steps/s", "min..max", "quiet", "of floor", "x SB3 A2C", *PARTS):
        made.add_column(column, justify="right", no_wrap=True)
    before = None
    for row in work["rows"]:
        if before not in (None, row["kind"]):
            made.add_section()
        before = row["kind"]
        made.add_row(*_cells(row))
    return made


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["unit"] == "calls":
        rate, spread = (
            _duration(row["median"]),
            f"{_duration(row['high'])}..{_duration(row['low'])}",
        )
    else:
        rate, spread = f"{row['median']:,.0f}", f"{row['low']:,.0f}..{row['high']:,.0f}"
    floor, of_peer, parts = row.get("of_floor"), row.get("of_yardstick"), row.get("split_seconds")
    cells = [row["name"], rate, spread, f"{row['quiet']}/{row['turns']}"]
    cells.append("" if floor is None else f"{floor:.0%}")
    cells.append("" if of_peer is None else f"{of_peer['median']:.2f}")
    if parts is not None:
        whole = sum(parts.values())
        cells += [f"{parts[part] / whole:.0%}" for part in PARTS]
    return cells


def _duration(rate: float) -> str:
    """Of one call."""
    return f"{1e3 / rate:.3g} ms"
