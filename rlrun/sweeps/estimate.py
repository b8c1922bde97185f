"""`sweep.estimate=true`: what a sweep would take, by short probes; nothing of it is begun."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlrun import stored
from rlrun.run.console import say
from rlrun.run.panel import duration
from rlrun.schema import UserError
from rlrun.sweeps import groups, table
from rlrun.sweeps.folder import CONFIG, Job, Sweep
from rlrun.sweeps.pool import jobs_at_once
from rlrun.sweeps.work import trusted

MOST = 6
"""Kinds of jobs that are probed; more are taken for the slowest of these."""
_SECONDS_LIMIT = 300  # of one probe, loading included
_START_UP = 4.0  # seconds that a job takes before it trains and after it

Probe = Callable[[Mapping[str, Any]], dict[str, float]]


def probed(config: Mapping[str, Any]) -> dict[str, float]:
    """What `rlrun.sweeps.probe.measure` tells, of a process of its own.

    Raises:
        UserError: it breaks down.
    """
    with tempfile.TemporaryDirectory(prefix="rlrun-probe-") as name:
        folder = Path(name)
        (folder / CONFIG).write_text(stored.dump(config), encoding="utf-8")
        words = [sys.executable, "-P", "-m", "rlrun.sweeps.probe", name, *trusted(config)]
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            done = subprocess.run(
                words, env=environment, capture_output=True, text=True, timeout=_SECONDS_LIMIT
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the probe has not come to {_SECONDS_LIMIT} s: it is too slow for an estimate"
            ) from None
        found = stored.read_json(folder / "probe.json")
        if not found:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError(f"the probe broke down, as the jobs would: {said}")
        return found


def tell(
    jobs: Sequence[Job], configs: Sequence[Mapping[str, Any]], sweep: Sweep, probe: Probe = probed
) -> None:
    """Probe one job of each kind, and say what time and memory the sweep takes.

    Args:
        jobs: of the sweep, planned.
        configs: of these.
        sweep: which may have been begun already.
        probe: measures a config.
    """
    config_of = {job.number: config for job, config in zip(jobs, configs, strict=True)}
    kinds = groups.grouped(jobs)
    chosen = kinds
    if len(kinds) > MOST:
        places = {round(i * (len(kinds) - 1) / (MOST - 1)) for i in range(MOST)}
        chosen = [kinds[i] for i in sorted(places)]
        say(f"{len(kinds)} kinds of jobs: {MOST} are probed, the others taken for the slowest")
    found = {}
    for kind in chosen:
        say(f"probing {kind.label} ...", "dim")
        found[kind.label] = probe(config_of[kind.jobs[0].number])
    slowest = min(found.values(), key=lambda one: one["steps_per_second"])
    lines, total, longest, left = [], 0.0, 0.0, 0
    for kind in kinds:
        one = found.get(kind.label, slowest)
        steps = kind.jobs[0].total_timesteps
        speed = one["steps_per_second"]
        seconds = steps / speed + _START_UP if speed else _START_UP
        missing = [job for job in kind.jobs if not _is_finished(sweep, job)]
        total += seconds * len(missing)
        longest = max(longest, seconds if missing else 0.0)
        left += len(missing)
        if kind.label in found:
            lines.append(_line(kind, len(missing), seconds, one))
    say()
    head = ("jobs", "to run", "steps", "steps/s", "time each", "memory each")
    for index, line in enumerate(table.columns(head, lines)):
        say(line, "" if index else "bold")
    say()
    most = max(one["memory"] for one in found.values())
    at_once = min(jobs_at_once(sweep.launcher) or 1, max(1, left))
    time = duration(max(total / at_once, longest))
    many = f", {at_once} at once: {_bytes(most * at_once)}" if at_once > 1 else ""
    say(f"{left} of {len(jobs)} jobs to run: about {time}{many}", "bold")
    say("Evaluations come on top. Nothing was started; leave out sweep.estimate=true to do so.")


def _is_finished(sweep: Sweep, job: Job) -> bool:
    result = stored.read_json(sweep.run_folder(job) / "result.json")
    return stored.is_finished(result, job.total_timesteps)


def _line(kind: groups.Group, missing: int, seconds: float, one: dict[str, float]) -> list[str]:
    memory = _bytes(one["memory"])
    if one["device_memory"]:
        memory += f" + {_bytes(one['device_memory'])} on the GPU"
    steps = f"{kind.jobs[0].total_timesteps:,}"
    speed = f"{one['steps_per_second']:,.0f}"
    return [kind.label, f"{missing}/{len(kind.jobs)}", steps, speed, duration(seconds), memory]


def _bytes(count: float) -> str:
    power = min(3, int(math.log(max(count, 1), 1024)))
    return f"{count / 1024**power:.{1 if power == 3 else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
