"""What rlrun asks of Slurm: sbatch, squeue, scontrol and scancel.

Slurm's own queue is the record of what has been submitted: the name of an array tells the sweep,
the index the job. So nothing can be forgotten between submitting and writing it down.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable
from typing import NamedTuple

from rlrun.schema import UserError
from rlrun.sweeps.folder import Sweep
from rlrun.sweeps.slurm_script import PER_ARRAY, array_name

_PATIENCE = 120  # seconds for one answer
_AT_ONCE = 500  # ids in one command


class SlurmError(Exception):
    """Slurm did not do what it was asked: it refuses, or its controller is away."""


class Queued(NamedTuple):
    """A job that Slurm has in hand."""

    id: str
    """As `17_3`: index 3 of array 17."""
    state: str
    """As Slurm says it: PENDING, RUNNING, COMPLETING and so on."""


class Outcome(NamedTuple):
    """How Slurm ended a job."""

    state: str
    """COMPLETED, FAILED, CANCELLED, TIMEOUT and so on; empty if Slurm has forgotten it."""
    code: int = 0
    """Exit code of the process; 0 if a signal ended it."""


def ask(*words: str, given: str | None = None) -> str:
    """Run a command of Slurm's; what it printed.

    Args:
        words: of the command.
        given: its standard input.

    Raises:
        UserError: there is no such command.
        SlurmError: it failed.
    """
    try:
        # A session of its own: Ctrl-C is for the driver, which decides what becomes of it.
        done = subprocess.run(
            words,
            input=given if given is not None else "",
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {words[0]} here: hydra/launcher=slurm works where Slurm's commands are, "
            "as on the login node. hydra.launcher.print_only=true only shows the script."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]}: no answer in {_PATIENCE} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SlurmError(lines[-1] if lines else f"{words[0]} failed: {done.returncode}")
    return done.stdout


def queued(sweep: Sweep) -> dict[int, Queued]:
    """The jobs of a sweep that wait or run, by number.

    Raises:
        UserError: there is no Slurm here.
        SlurmError: it does not answer.
    """
    parts = range(max((job.number for job in sweep.jobs), default=0) // PER_ARRAY + 1)
    names = {array_name(sweep.folder, part): part for part in parts}
    wanted = f"--name={','.join(names)}"
    told = ask("squeue", "--me", "--array", "--noheader", "--format=%j %i %T", wanted)
    rows = []
    for line in told.splitlines():
        name, job, state = line.split()
        array, _, index = job.partition("_")
        rows.append((int(array), names[name] * PER_ARRAY + int(index), Queued(job, state)))
    # The younger one, if the one before it is still being ended.
    return {number: found for _, number, found in sorted(rows)}


def submit(text: str) -> str:
    """Hand in a batch script; the number of its array.

    Raises:
        SlurmError: it was refused, or nobody answers.
    """
    return ask("sbatch", "--parsable", given=text).strip().partition(";")[0]


def outcome(job: str) -> Outcome:
    """How Slurm ended a job; it forgets after some minutes.

    Raises:
        SlurmError: the controller is away.
    """
    try:
        told = ask("scontrol", "--oneliner", "show", "job", job)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return Outcome("")
        raise
    state, code = re.search(r" JobState=(\w+)", told), re.search(r" ExitCode=(\d+):0", told)
    return Outcome(state[1] if state else "", int(code[1]) if code else 0)


def cancel(jobs: Collection[str]) -> None:
    """Have jobs ended: those that run get SIGTERM, and are killed some seconds later.

    Raises:
        SlurmError: the controller is away.
    """
    for some in _portions(list(jobs)):
        ask("scancel", *some)


def _portions(jobs: list[str]) -> Iterable[list[str]]:
    return (jobs[i : i + _AT_ONCE] for i in range(0, len(jobs), _AT_ONCE))
