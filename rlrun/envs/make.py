"""From an id to environments."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrun.envs.registry import find_spec, is_atari
from rlrun.envs.vector import VectorEnv
from rlrun.spaces import as_acted

_PROBE_STEPS = 25


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
    settings = dict(kwargs or {})
    envs: VectorEnv
    if is_atari(spec):
        from rlrun.envs.atari import AtariEnv

        envs = AtariEnv(spec, n_envs, seed, settings)
    else:
        from rlrun.envs.gym import GymVectorEnv, make_batch

        envs = GymVectorEnv(make_batch(spec, n_envs, settings), seed)
    envs.origin = env_id, settings
    return envs


def is_deterministic(env_id: str, kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether equal seeds and actions show the same, whatever was before the reset.

    Known of Atari games, whose cartridge a seed loads anew; others are tried.
    """
    return is_atari(find_spec(env_id)) or plays_alike(env_id, kwargs)


def plays_alike(env_id: str, kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether two copies show the same, by a probe that is no proof.

    They play the same two short episodes in opposite order, so that what a reset leaves behind
    shows as well as what no seed controls.
    """
    shown = []
    for order in ((1, 2), (2, 1)):
        env = make_vec(env_id, 1, seed=0, kwargs=kwargs)
        try:
            shown.append({seed: _shown(env, seed) for seed in order})
        finally:
            env.close()
    return shown[0] == shown[1]


def _shown(env: VectorEnv, seed: int) -> list[bytes]:
    """What at most 25 steps from a reset with this seed show, as bytes."""
    env.action_space.seed(seed)
    shown = [env._reset(np.ones(1, np.bool_), [seed]).tobytes()]
    for _ in range(_PROBE_STEPS):
        action = as_acted(env.action_space, np.array([env.action_space.sample()]))
        played = env._play(action)
        shown += [np.asarray(values).tobytes() for values in played]
        if played.over.any():
            break
    return shown
