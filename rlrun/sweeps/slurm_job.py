"""One job of a sweep on Slurm: `python -m rlrun.sweeps.slurm_job SWEEP FIRST [PACKAGE...]`.

FIRST is added to the index in the array; PACKAGEs are trusted. The job saves when it is asked to,
and puts itself back in the queue before its time is over; begun again it goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from rlrun import process, stored
from rlrun.run.signals import cluster_signals
from rlrun.sweeps.folder import Job, Sweep
from rlrun.sweeps.slurm_queue import SlurmError, ask
from rlrun.sweeps.work import FAILED, FINISHED, wait_for, work

STARTS = "starts.json"
IDLE_STARTS = 3
"""So often in a row a job may be begun again without having come further."""

_LOCK_SECONDS = 45.0  # a process that is being killed may hold the run for a while
_REQUEUE_SECONDS = 300.0  # a controller that is being restarted does not answer
_TIME_IS_UP = 128 + signal.SIGUSR2


def main(words: list[str]) -> int:
    """Carry the job that Slurm has started; its exit code."""
    with cluster_signals():
        sys.path.append(os.getcwd())  # for the user's own modules; last, to shadow nothing
        sys.argv[0] = str(Path(sys.executable).with_name("rlrun"))  # for commands that are told
        process.tune()
        array, index = os.environ["SLURM_ARRAY_JOB_ID"], os.environ["SLURM_ARRAY_TASK_ID"]
        sweep = Sweep(Path(words[0]))
        job = sweep.jobs[int(words[1]) + int(index)]
        if count_start(sweep, job) > IDLE_STARTS + 1:
            return _give_up(sweep, job)
        wait_for(sweep.run_folder(job), _LOCK_SECONDS)
        code = work(sweep.folder, job.number, words[2:])
        return _requeue(sweep, job, f"{array}_{index}") if code == _TIME_IS_UP else code


def count_start(sweep: Sweep, job: Job) -> int:
    """How often the job has been begun, this time included, at the step where its run is now."""
    path = sweep.job_folder(job) / STARTS
    before, step = stored.read_json(path), saved_step(sweep.run_folder(job))
    starts = before.get("starts", 0) + 1 if before.get("step") == step else 1
    path.write_text(json.dumps({"step": step, "starts": starts}), encoding="utf-8")
    return starts


def saved_step(run: Path) -> int:
    """Step of the newest checkpoint of a run, from which it goes on; 0 without one."""
    names = [path.name.removeprefix("step-") for path in run.glob("checkpoints/step-*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _give_up(sweep: Sweep, job: Job) -> int:
    step = saved_step(sweep.run_folder(job))
    reason = (
        f"begun {IDLE_STARTS + 1} times without getting past step {step:,}: give it more time "
        "(hydra.launcher.time), or save more often (checkpoint.every_minutes)"
    )
    sweep.report(job, "failed", reason)
    print(f"rlrun: {reason}", file=sys.stderr)
    return FAILED


def _requeue(sweep: Sweep, job: Job, name: str) -> int:
    """Back into the queue; Slurm ends this process then, if it has not ended by itself."""
    sweep.report(job, "waiting", "its time was up; it goes on when its turn comes")
    end = time.monotonic() + _REQUEUE_SECONDS
    while True:
        try:
            ask("scontrol", "requeue", name)
            return FINISHED
        except SlurmError as error:
            if time.monotonic() > end:
                sweep.report(job, "stopped", f"could not be put back in the queue: {error}")
                return _TIME_IS_UP
            time.sleep(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
