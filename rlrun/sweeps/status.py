"""How a sweep stands now, by its files and, on a cluster, by the queue: no process is asked."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping

from rlrun.run.console import say
from rlrun.run.panel import duration
from rlrun.sweeps import groups, table
from rlrun.sweeps.folder import SEARCH, Job, State, Sweep, is_held
from rlrun.sweeps.process import is_alive


def tell(sweep: Sweep) -> None:
    """A line for each job, and what is to be said of all of them."""
    states = _states(sweep)
    labels = groups.labels(sweep.jobs)
    lines = []
    for job in sweep.jobs:
        state = states[job.number]
        steps = f"{state.step:,}/{job.total_timesteps:,}"
        share = f"{100 * min(1.0, state.step / job.total_timesteps):.0f} %"
        left = _left(job, state)
        time = "" if left is None else duration(left)
        cells = (str(job.number), state.status, labels[job.number], share, steps, time)
        lines.append(cells)
    head = ("job", "state", "words", "", "steps", "left")
    for index, line in enumerate(table.columns(head, lines, left=3)):
        say(line, table.COLOURS[states[index - 1].status] if index else "bold")
    for job in sweep.jobs:
        if states[job.number].status in ("failed", "lost", "stopped"):
            table.trouble(sweep, job, states[job.number])
    say()
    done = 100 * table.progress(states, sweep.jobs)
    say(f"{sweep.folder}: {table.counted(states.values())}; {done:.0f} % of all steps", "bold")
    say(_outlook(sweep, states))


def _states(sweep: Sweep) -> Mapping[int, State]:
    if not sweep.is_on_slurm:
        return sweep.states()
    from rlrun.sweeps import slurm

    return slurm.states(sweep)


def driver(sweep: Sweep) -> int | None:
    """The process that carries the sweep, by its lock; None if there is none, 0 if unknown."""
    if not is_held(sweep.folder):
        return None
    try:
        return int((sweep.folder / "run.lock").read_text())
    except (OSError, ValueError):
        return 0


def is_here(host: object) -> bool:
    """Whether a name that was written down is that of this machine."""
    return host == socket.gethostname()


def carriers(sweep: Sweep, states: Mapping[int, State]) -> dict[int, int]:
    """Processes of this machine that run jobs, by the number of the job."""
    found: dict[int, int] = {}
    for job in sweep.jobs:
        record = sweep.record(job)
        pid, running = record.get("pid"), states[job.number].status == "running"
        if running and is_here(record.get("host")) and is_alive(pid, record.get("started")):
            found[job.number] = pid
    return found


def _left(job: Job, state: State) -> float | None:
    """Seconds that a running job still takes, if its speed is known."""
    if state.status != "running" or not state.speed:
        return None
    return max(0, job.total_timesteps - state.step) / state.speed


def _outlook(sweep: Sweep, states: Mapping[int, State]) -> str:
    """Who carries it, and when it will be done; or what to type."""
    ahead = [job for job in sweep.jobs if states[job.number].status in ("running", "waiting")]
    running = [job for job in ahead if states[job.number].status == "running"]
    pid = driver(sweep)
    if pid is not None or (sweep.is_on_slurm and ahead):
        where = f"carried by process {pid} on {sweep.host}" if pid else "carried by another process"
        where = where if pid is not None else "carried by Slurm"
        speeds = [states[job.number].speed for job in running if states[job.number].speed]
        if not ahead or not speeds:
            return where
        steps = sum(job.total_timesteps - states[job.number].step for job in ahead)
        together = math.fsum(speeds) / len(speeds) * len(running)
        longest = max(_left(job, states[job.number]) or 0.0 for job in running)
        return f"{where}; about {duration(max(steps / together, longest))} left, evaluations aside"
    if running:
        return "nobody starts further jobs of it"
    if (sweep.folder / SEARCH).is_file():
        name = sweep.folder.name
        return f"nobody carries it; `rlrun sweep report {name}` tells its trials, `retry` goes on"
    if all(state.status in ("finished", "pruned") for state in states.values()):
        return f"done; `rlrun sweep report {sweep.folder.name}` draws its curves"
    return f"nobody carries it; `rlrun sweep retry {sweep.folder.name}` runs what is not finished"
