"""One job of a sweep, in the process that carries it."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlrun import stored
from rlrun.schema import UserError
from rlrun.sweeps.folder import CONFIG, Job, Sweep, is_held

FINISHED, FAILED, USER_ERROR = 0, 1, 2
STOPPED = (130, 140, 143)

_PATIENCE = 30.0  # seconds


def work(folder: Path, number: int, trust: Sequence[str]) -> int:
    """Train job `number` of the sweep in `folder`, and write down how it ended.

    The current folder is that in which the sweep was begun. Nothing is raised but what ends the
    process: one job never takes others with it.

    Args:
        folder: of the sweep.
        number: of the job.
        trust: packages whose components its config may name, see `trusted`.

    Returns:
        The exit code, as of a run without a sweep.
    """
    sweep = Sweep(folder)
    job = sweep.jobs[number]
    sweep.report(job, "running")
    try:
        code, reason = _train(sweep, job, trust), ""
    except UserError as error:
        code, reason = USER_ERROR, str(error)
        print(f"rlrun: {error}", file=sys.stderr)
    except Exception as error:
        code, reason = FAILED, f"{type(error).__name__}: {error}"
        traceback.print_exc()
    if code in STOPPED:
        sweep.report(job, "stopped", "by a signal")
    elif code == FINISHED:
        sweep.report(job, "finished")
    else:
        result = stored.read_json(sweep.run_folder(job) / "result.json")
        sweep.report(job, "failed", reason or result.get("reason") or f"exit code {code}")
    return code


def _train(sweep: Sweep, job: Job, trust: Sequence[str]) -> int:
    from rlrun import config as configs
    from rlrun import runs

    config = configs.check(stored.load(sweep.job_folder(job) / CONFIG, trust))
    wait_for(configs.run_folder(config), _PATIENCE)
    return runs.train(config, job.words)


def wait_for(run: Path, seconds: float) -> None:
    """Give a process that still has the run time to end; that of a killed driver is saving it."""
    deadline = time.monotonic() + seconds
    while is_held(run) and time.monotonic() < deadline:
        time.sleep(0.1)


def trusted(config: Mapping[str, Any]) -> list[str]:
    """Packages that a config names components of; who typed it trusts them."""
    found = set(config["run"]["trust"])
    for node in config.values():
        if isinstance(node, Mapping) and "_target_" in node:
            found.add(str(node["_target_"]).partition(".")[0])
    module, colon, _ = (config["env"]["id"] or "").partition(":")
    return sorted(found | ({module} if colon else set()))
