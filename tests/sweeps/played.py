"""A stand-in for a training: begins fast, goes on where it stopped, and can be told to fail.

It waits in its middle while there is a file `hold`.

Its return grows evenly to 1e4 times the learning rate plus the square of the seed. Each step of a
thousand is a line of `steps.log`, which is its checkpoint as well: a line that stands there twice
was trained twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rlrun import stored
from rlrun.sweeps.folder import CONFIG, Sweep

HOLD = "hold"


def value(config: dict[str, Any]) -> float:
    return float(1e4 * config["algo"]["learning_rate"] + config["seed"] ** 2)


def play(folder: Path, number: int) -> int:
    sweep = Sweep(folder)
    job = sweep.jobs[number]
    config = stored.read(sweep.job_folder(job) / CONFIG)
    run = sweep.run_folder(job)
    run.mkdir(parents=True, exist_ok=True)
    sweep.report(job, "running")
    with (run / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sweep.report(job, "failed", f"{run} is in use")
            return 2
        if config["algo"]["ent_coef"] == 0.5:
            sweep.report(job, "failed", "planted")
            return 3
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(143))
        result: dict[str, Any] = {"status": "stopped", "total_timesteps": job.total_timesteps}
        for step in range(1000, job.total_timesteps + 1, 1000):
            result["step"] = step
            if step in steps(run):
                continue
            time.sleep(float(os.environ.get("PLAY_SECONDS", "0")))
            while step == 3000 and Path(HOLD).exists():
                time.sleep(0.02)
            if stopped:
                (run / "result.json").write_text(json.dumps(result | {"step": step - 1000}))
                sweep.report(job, "stopped", "by a signal")
                return 143
            mean = value(config) * step / job.total_timesteps
            with (run / "evaluations.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "return_mean": mean}) + "\n")
            with (run / "steps.log").open("a") as file:
                file.write(f"{step}\n")
        result |= {"status": "finished", "eval": {"return_mean": value(config)}}
        (run / "result.json").write_text(json.dumps(result))
        sweep.report(job, "finished")
    return 0


def steps(run: Path) -> list[int]:
    try:
        return [int(line) for line in (run / "steps.log").read_text().splitlines()]
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(play(Path(sys.argv[1]), int(sys.argv[2])))
