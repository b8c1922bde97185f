"""Contestants take turns, round after round, so that a slow minute meets all of them."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

QUIET = 0.2
"""Cores: a turn is left out in which other processes used more than that."""
_BUSY = (0, 1, 2, 5, 6, 7)  # columns of /proc/stat: all but idle, and waiting for disks


@dataclass(frozen=True)
class Contestant:
    """Somebody who works in units."""

    name: str
    unit: Callable[[], int]
    """Does one unit of work, and returns how much it was, in steps or calls."""
    threads: int
    """Of PyTorch, which all contestants share."""
    device: torch.device


class Turn(NamedTuple):
    """What one turn came to."""

    rate: float
    """Steps, or calls, per second."""
    noise: float
    """Cores that other processes used meanwhile, on average."""


class Summary(NamedTuple):
    """What is left of all turns, those left out that others disturbed."""

    median: float
    low: float
    high: float
    quiet: int
    """How many turns were quiet; all of them count if fewer than two were."""
    turns: int


def summary(turns: Sequence[Turn]) -> Summary:
    """Median and range of the rates of the quiet turns; of all, if fewer than two were quiet."""
    quiet = [turn.rate for turn in turns if turn.noise <= QUIET]
    rates = quiet if len(quiet) >= 2 else [turn.rate for turn in turns]
    return Summary(statistics.median(rates), min(rates), max(rates), len(quiet), len(turns))


def ratio(turns: Sequence[Turn], others: Sequence[Turn]) -> Summary:
    """Of the rates of two contestants in the same rounds, which are quiet if both turns are."""
    pairs = zip(turns, others, strict=True)
    return summary([Turn(a.rate / b.rate, max(a.noise, b.noise)) for a, b in pairs])


def noise(busy: float, own: float, seconds: float) -> float:
    """Cores that others used, from the busy seconds of all cores and the CPU seconds of our own."""
    return max(0.0, (busy - own) / seconds)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that the cores of the machine were busy, summed; None where nobody counts them."""
    try:
        ticks = stat.read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    return sum(int(ticks[i]) for i in _BUSY) / os.sysconf("SC_CLK_TCK")


def take_turn(contestant: Contestant, seconds: float) -> Turn:
    """Whole units, for at least so many seconds."""
    torch.set_num_threads(contestant.threads)
    synchronize(contestant.device)
    busy, own, begin, done = busy_seconds(), time.process_time(), time.perf_counter(), 0
    while True:
        done += contestant.unit()
        synchronize(contestant.device)
        taken = time.perf_counter() - begin
        if taken >= seconds:
            break
    own, after = time.process_time() - own, busy_seconds()
    of_all = own if busy is None or after is None else after - busy
    return Turn(done / taken, noise(of_all, own, taken))


def take_turns(
    contestants: Sequence[Contestant], rounds: int, seconds: float, tell: Callable[[str], None]
) -> dict[str, list[Turn]]:
    """A B C A B C; the turns of each contestant by its name."""
    turns: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    for number in range(1, rounds + 1):
        for contestant in contestants:
            tell(f"round {number} of {rounds}: {contestant.name}")
            turns[contestant.name].append(take_turn(contestant, seconds))
    return turns


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summaries(turns: Mapping[str, Sequence[Turn]]) -> dict[str, Summary]:
    """A summary of each contestant."""
    return {name: summary(taken) for name, taken in turns.items()}
