"""Atari games with the preprocessing of DeepMind, through the emulator's own batch.

Pictures of 84x84 grey pixels, the maximum over the last two of 4 frames, stacks of 4; up to 30
no-ops and then FIRE at the start of a game; a lost life terminates for learning while the game
goes on; raw rewards. Games end after half an hour of play (108,000 frames).

Facts about the native batch that this relies on (ale-py 0.12): after a reset the older frames of
the stack are zeros, a lost life leaves the stack alone, and an explicit reset in the very step
that ended a game takes the place of the automatic one. Its own life-loss modes are not used:
one ends the game, the other cannot tell the last life from the end of the game.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rlrun.envs.vector import Array, Mask, Played, VectorEnv
from rlrun.schema import UserError

FRAME_SKIP, FRAME_STACK = 4, 4
FIRE = 1  # number of the action in every game that has it
STILL = 30  # steps without a change of the picture, two seconds
KWARGS = ("full_action_space", "repeat_action_probability")
"""What the registration or the user may say; the rest is the preprocessing's."""


class AtariEnv(VectorEnv):
    """Games of one title.

    Many games wait for FIRE after a lost life. The first action after one is therefore replaced
    by FIRE, in every game that has it, and pressed again whenever the picture has stood still
    for two seconds in a game with lost lives (some ignore it while they show the loss). This is
    part of the game as the learner sees it, and no policy can hang there.

    Raises:
        UserError: a keyword that the batch does not know.
    """

    def __init__(self, spec: EnvSpec, n_envs: int, seed: int, kwargs: Mapping[str, Any]) -> None:
        for name in kwargs:
            if name not in KWARGS:
                raise UserError(f"env.kwargs.{name}: unknown for Atari; known: {', '.join(KWARGS)}")
        settings = {name: spec.kwargs[name] for name in KWARGS if name in spec.kwargs}
        self._envs = AtariVectorEnv(
            spec.kwargs["game"],
            n_envs,
            autoreset_mode="NextStep",
            frameskip=FRAME_SKIP,
            stack_num=FRAME_STACK,
            noop_max=30,
            use_fire_reset=True,
            reward_clipping=False,
            **(settings | dict(kwargs)),
        )
        observations: spaces.Space[Any] = self._envs.single_observation_space
        actions: spaces.Space[Any] = self._envs.single_action_space
        super().__init__(n_envs, observations, actions, FRAME_STACK, seed)
        names = [action.name for action in self._envs.ale.get_action_set()]
        self._has_fire = "FIRE" in names and names.index("FIRE") == FIRE
        self._lives = np.zeros(n_envs, np.int64)
        self._lost_life = np.zeros(n_envs, np.bool_)  # in the present game
        self._press_fire = np.zeros(n_envs, np.bool_)  # in the next step
        self._still = np.zeros(n_envs, np.int64)  # steps since the picture changed

    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        obs, info = self._envs.reset(seed=np.array(seeds), options={"reset_mask": mask})
        self._lives[mask] = info["lives"][mask]
        self._lost_life[mask] = self._press_fire[mask] = False
        self._still[mask] = 0
        return obs  # type: ignore[no-any-return]

    def _play(self, actions: Array) -> Played:
        if self._press_fire.any():
            actions = np.where(self._press_fire, FIRE, actions)
        obs, reward, terminated, truncated, info = self._envs.step(actions)
        lost = (info["lives"] < self._lives) & ~terminated
        self._lives[:] = info["lives"]
        if self._has_fire:
            self._wait_for_fire(obs, lost)
        return Played(obs, reward, terminated | lost, truncated, terminated | truncated)

    def _wait_for_fire(self, obs: Array, lost: Mask) -> None:
        self._press_fire[:] = lost
        self._lost_life |= lost
        if self._lost_life.any():
            watched = np.flatnonzero(self._lost_life)
            pictures = obs[watched]
            same = (pictures[:, -1] == pictures[:, -2]).all(axis=(1, 2))
            self._still[watched] = np.where(same, self._still[watched] + 1, 0)
            self._press_fire |= self._still >= STILL
            self._still[self._still >= STILL] = 0

    def close(self) -> None:
        """Close the emulators."""
        self._envs.close()
