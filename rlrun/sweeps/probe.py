"""A training of a few seconds in a process of its own, which tells its speed and its memory."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rlrun import stored
from rlrun.schema import UserError

SECONDS = 4.0
"""From the first update on."""
_UNMEASURED = 2  # first updates, in which everything is loaded and allocated


def measure(config: dict[str, Any]) -> dict[str, float]:
    """Train for a few seconds, writing nothing.

    Replay begins as soon as there is a segment, so that its cost is in the speed.

    Args:
        config: checked.

    Returns:
        `steps_per_second`, of acting and learning alone; `memory`, of the process in bytes once
        the replay memory is full; `device_memory`, that of a GPU.
    """
    import torch

    from rlrun.build import assemble
    from rlrun.run.training import Training

    if "replay_start" in config["algo"]:
        config = {**config, "algo": {**config["algo"], "replay_start": 1}}
    parts = assemble(config)
    memory = parts.algorithm.memory
    training = Training(parts.algorithm, parts.collector)
    began, step = 0.0, 0
    try:
        while training.step < config["total_timesteps"]:
            rollout = training.collect()
            assert rollout is not None  # nobody stops it
            training.learn(rollout, config["total_timesteps"], config["log_interval"])
            if training.updates == _UNMEASURED:
                began, step = time.monotonic(), training.step
            if began and time.monotonic() - began > SECONDS:
                break
        parts.algorithm.settle()
    finally:
        parts.collector.envs.close()
    seconds = time.monotonic() - began
    peak: float = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    on_gpu = parts.device.type == "cuda"
    if memory is not None and not on_gpu:  # its pages are taken as they are written
        peak += memory.nbytes * (1 - len(memory) / memory.slots)
    return {
        "steps_per_second": (training.step - step) / seconds if began else 0.0,
        "memory": peak,
        "device_memory": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


def main() -> None:
    """Read the config in the folder `argv[1]`, trusting `argv[2:]`; leave what was measured there.

    The driver has checked and trusts it: whoever typed it did so just now.
    """
    from rlrun import config as configs
    from rlrun import process

    sys.path.append(os.getcwd())  # for the user's own modules, as the command line has it
    process.tune()
    folder = Path(sys.argv[1])
    try:
        found = measure(configs.check(stored.load(folder / "config.yaml", sys.argv[2:])))
    except UserError as error:
        sys.exit(str(error))
    (folder / "probe.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
