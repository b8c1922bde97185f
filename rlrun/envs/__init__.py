"""Environments: any Gymnasium id as a batch of environments whose state can be restored."""

from rlrun.envs.make import is_deterministic, make_vec
from rlrun.envs.vector import Episode, ReplayMismatch, Step, VectorEnv

__all__ = ["Episode", "ReplayMismatch", "Step", "VectorEnv", "is_deterministic", "make_vec"]
