"""From an id to environments."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrun.envs.registry import find_spec, is_atari
from rlrun.envs.vector import VectorEnv

_PROBE_STEPS = 50


def make_vec(
    env_id: str, n_envs: int, seed: int, kwargs: Mapping[str, Any] | None = None
) -> VectorEnv:
    """`n_envs` environments of one id, not yet reset.

    Args:
        env_id: Gymnasium id, or `module:id`.
        n_envs: how many, >= 1.
        seed: of all their episodes.
        kwargs: for the environment's constructor.

    Raises:
        UserError: no such id, a package is missing, or a keyword does not fit.
    """
    spec = find_spec(env_id)
    if is_atari(spec):
        from rlrun.envs.atari import AtariEnv

        return AtariEnv(spec, n_envs, seed, kwargs or {})
    from rlrun.envs.gym import GymVectorEnv

    return GymVectorEnv(spec, n_envs, seed, kwargs or {})


def is_deterministic(env_id: str, kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether two copies with the same seed and actions show the same, over some 50 steps."""
    first, second = (make_vec(env_id, 1, seed=0, kwargs=kwargs) for _ in range(2))
    try:
        actions = first.action_space
        actions.seed(0)
        if not np.array_equal(first.reset(), second.reset()):
            return False
        for t in range(_PROBE_STEPS):
            action = np.array([actions.sample()])
            action -= getattr(actions, "start", 0)
            a, b = first.step(action), second.step(action)
            same = np.array_equal(a.obs, b.obs) and np.array_equal(a.reward, b.reward)
            if t == _PROBE_STEPS // 2:
                same = same and np.array_equal(first.reset(), second.reset())
            if not same or a.episodes != b.episodes:
                return False
    finally:
        first.close()
        second.close()
    return True
