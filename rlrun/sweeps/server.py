"""Imported by the fork server of a sweep, and by nothing else: what each of its jobs would import.

Imports start no thread that outlives a fork and touch no GPU, so that the jobs can be forked.
"""

import gc
import os
import signal
from importlib import import_module

from rlrun import process
from rlrun.sweeps.local import SAFE_PATH

IMPORTED = (
    "rlrun.runs",
    "rlrun.algorithms.acer",
    "rlrun.algorithms.acktr",
    "rlrun.policies.cnn",
    "rlrun.policies.lstm",
    "rlrun.policies.mlp",
    "rlrun.envs.atari",
    "rlrun.envs.gym",
    "gymnasium.envs.classic_control",
    "hydra.utils",
    "omegaconf._impl",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "torch.fx.experimental.symbolic_shapes",  # by the first backward pass
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
)

# It lives as long as a job needs it. What is sent to the driver's whole group is not for it.
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get(SAFE_PATH[0]) == SAFE_PATH[1]:
    del os.environ[SAFE_PATH[0]]
process.tune()
for name in IMPORTED:
    import_module(name)
# The collector of a job would walk through all this in vain, and so copy its memory.
gc.collect()
gc.freeze()
