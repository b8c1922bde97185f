"""`rlrun sweep VERB [SWEEP]`: what one does with a sweep from any shell."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from rlrun.run.console import say
from rlrun.schema import UserError, nearest
from rlrun.sweeps import status as stands
from rlrun.sweeps import table
from rlrun.sweeps.folder import CANCEL, SEARCH, Sweep, find, names
from rlrun.sweeps.work import STOPPED

VERBS = ("status", "retry", "cancel", "report")
"""What may follow `rlrun sweep`."""

_ROOT = Path("outputs/sweeps")
Again = Callable[[list[str]], int]
"""Runs the command line `rlrun` with these words, and returns its exit code."""


def sweep(words: Sequence[str], again: Again) -> int:
    """`status|retry|cancel|report [SWEEP]`: a name in outputs/sweeps, or a folder.

    Args:
        words: of the command line, after `sweep`.
        again: the command line.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such verb, or no such sweep.
    """
    if not words or words[0] not in VERBS:
        near = nearest(words[0], VERBS) if words else []
        hint = f"did you mean `rlrun sweep {near[0]}`?" if near else f"one of {', '.join(VERBS)}"
        raise UserError(f"rlrun sweep {' '.join(words)}: {hint}".replace(" :", ":"))
    if len(words) > 2:
        raise UserError(f"rlrun sweep {words[0]} takes one sweep, not {' '.join(words[1:])}")
    found = _found(words[0], words[1:])
    if words[0] == "status":
        stands.tell(found)
        return 0
    if words[0] == "retry":
        return _retry(found, again)
    if words[0] == "cancel":
        return _cancel(found)
    return _report(found)


def completions(words: Sequence[str]) -> list[str]:
    """What the last of the words after `rlrun sweep` may become: a verb, or a sweep."""
    *before, begun = words or [""]
    known = (VERBS, names(_ROOT))[len(before)] if len(before) < 2 else ()
    return [name for name in known if name.startswith(begun)]


def _found(verb: str, words: Sequence[str]) -> Sweep:
    if words:
        return find(words[0], _ROOT)
    known = names(_ROOT)
    if len(known) == 1:
        return find(known[0], _ROOT)
    if not known:
        raise UserError(f"there are no sweeps in {_ROOT}; say which: rlrun sweep {verb} FOLDER")
    raise UserError(f"say which sweep: rlrun sweep {verb} {' | '.join(known)}")


def _retry(sweep: Sweep, again: Again) -> int:
    """Type the commands of the sweep once more in their folder: finished runs are left alone."""
    if not sweep.home.is_dir():
        raise UserError(f"{sweep.folder} was begun in {sweep.home}, which is not there any more")
    os.chdir(sweep.home)
    code = 0
    for command in sweep.commands:
        words = [word for word in command if not word.startswith("run.overwrite=")]
        say(f"in {sweep.home}: rlrun {shlex.join(words)}", "bold")
        code = again(words) or code
        if code in STOPPED:  # it was meant for all of them
            break
    return code


def _cancel(sweep: Sweep) -> int:
    """Ask whoever carries the sweep, and else its jobs, to save and to end."""
    pid, told = stands.driver(sweep), 0
    if (sweep.folder / SEARCH).is_file():
        (sweep.folder / CANCEL).touch()  # there may be several drivers, and all of them look
    if pid is not None and not stands.is_here(sweep.host):
        raise UserError(f"{sweep.folder} is carried on {sweep.host}; cancel it there")
    if pid:
        os.kill(pid, signal.SIGTERM)
        say(f"process {pid} lets its jobs save themselves, and ends")
        told = 1
    else:
        for number, worker in stands.carriers(sweep, sweep.states()).items():
            os.kill(worker, signal.SIGTERM)
            say(f"process {worker} saves job {number}, and ends")
            told += 1
    if sweep.is_on_slurm:
        from rlrun.sweeps import slurm

        count = slurm.cancel(sweep)
        say(f"Slurm cancels {count} job{'' if count == 1 else 's'}")
        told += count
    if not told:
        say(f"{sweep.folder}: nobody carries it")
    return 0


def _report(sweep: Sweep) -> int:
    """The table on the terminal, and with the curves in the folder of the sweep."""
    table.summary(sweep)
    from rlrun.sweeps import report

    say(f"written: {', '.join(table.shown(path) for path in report.write(sweep))}")
    if (sweep.folder / SEARCH).is_file():
        from rlrun.sweeps import search_report

        return search_report.report(sweep)
    return 0
