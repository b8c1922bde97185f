"""Atari games with the preprocessing of DeepMind, through the emulator's own batch.

Pictures of 84x84 grey pixels, the maximum over the last two of 4 frames, stacks of 4; up to 30
no-ops and then FIRE at the start of a game; a lost life terminates for learning while the game
goes on; raw rewards. Games end after half an hour of play (108,000 frames).

Facts about the native batch that this relies on (ale-py 0.12): after a reset the older frames of
the stack are zeros, a lost life leaves the stack alone, and an explicit reset in the very step
that ended a game takes the place of the automatic one. Its own life-loss modes are not used:
one ends the game, the other cannot tell a lost life from the end of a game with lives left
(Space Invaders, Frostbite) and hides the limit of frames when both come in one step.
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
STILL = 60  # steps without a change of the picture, four seconds
KWARGS = ("full_action_space", "max_num_frames_per_episode", "repeat_action_probability")
"""What the registration or the user may say; the rest is the preprocessing's."""


class AtariEnv(VectorEnv):
    """Games of one title.

    In games with several lives the start of every life is pressed for: some wait for FIRE
    (Breakout), some for the joystick (Beam Rider), some ignore both until an animation is over
    (Gopher, River Raid), and a policy that never does it would wait for half an hour. So the first
    actions of each life are replaced by FIRE and the action numbered 2 (mostly UP), and again
    whenever nothing at all has moved for four seconds. This is part of the game as the learner
    sees it.

    Raises:
        UserError: a keyword that the batch does not know.
    """

    clips_rewards = True
    fps = 60 // FRAME_SKIP
    # A seed makes the emulator load its cartridge again: 85 ms on one core, as long as 250 steps.
    # A plain reset takes 4 ms, but some games (Ice Hockey) keep something of the one before, so
    # it is no fresh start for the journal. 4000 steps of 16 games are replayed in 10 s.
    reseed_after = 4000

    def __init__(self, spec: EnvSpec, n_envs: int, seed: int, kwargs: Mapping[str, Any]) -> None:
        for name in kwargs:
            if name not in KWARGS:
                raise UserError(f"env.kwargs.{name}: unknown for Atari; known: {', '.join(KWARGS)}")
        settings = {name: spec.kwargs[name] for name in KWARGS if name in spec.kwargs}
        settings |= dict(kwargs)
        self._envs = AtariVectorEnv(
            spec.kwargs["game"],
            n_envs,
            autoreset_mode="NextStep",
            frameskip=FRAME_SKIP,
            stack_num=FRAME_STACK,
            noop_max=30,
            use_fire_reset=True,
            reward_clipping=False,
            **settings,
        )
        observations: spaces.Space[Any] = self._envs.single_observation_space
        actions: spaces.Space[Any] = self._envs.single_action_space
        super().__init__(n_envs, observations, actions, FRAME_STACK, seed)
        names = [action.name for action in self._envs.ale.get_action_set()]
        self._n_actions = len(names)
        # A sticky emulator swallows one FIRE in 256, and the single frame of it at the start of
        # a game in one of 4.
        fires = 2 if settings.get("repeat_action_probability") else 1
        has_fire = names[FIRE : FIRE + 1] == ["FIRE"] and len(names) > FIRE + 1
        self._presses = np.array([FIRE] * fires + [FIRE + 1] if has_fire else [], np.int64)
        self._to_press = np.zeros(n_envs, np.int64)  # how many of them are still to come
        self._lives = np.zeros(n_envs, np.int64)
        self._several = np.zeros(n_envs, np.bool_)  # did the game begin with more than one life?
        self._still = np.zeros(n_envs, np.int64)  # steps since the picture changed

    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        obs, info = self._envs.reset(seed=np.array(seeds), options={"reset_mask": mask})
        self._lives[mask] = info["lives"][mask]
        self._several[mask] = self._lives[mask] > 1
        self._to_press[mask] = np.where(self._several[mask], len(self._presses), 0)
        self._still[mask] = 0
        return obs  # type: ignore[no-any-return]

    def _play(self, actions: Array) -> Played:
        if actions.min() < 0 or actions.max() >= self._n_actions:
            # It would end the native worker, and waiting for its answer would never end.
            raise ValueError(f"Atari actions must be 0 to {self._n_actions - 1}: {actions}")
        pressing = self._to_press > 0
        if pressing.any():
            actions = actions.copy()
            actions[pressing] = self._presses[-self._to_press[pressing]]
            self._to_press[pressing] -= 1
        obs, reward, terminated, truncated, info = self._envs.step(actions)
        lost = (info["lives"] < self._lives) & ~terminated
        self._lives[:] = info["lives"]
        if len(self._presses):
            unchanged = (obs[:, -1] == obs[:, -2]).all(axis=(1, 2))
            self._still = np.where(unchanged, self._still + 1, 0)
            stuck = self._still >= STILL
            self._still[stuck] = 0
            self._to_press[(lost | stuck) & self._several] = len(self._presses)
        return Played(obs, reward, terminated | lost, truncated, terminated | truncated)

    def render(self) -> Any:
        """The newest frame of each game, grey, as the policy sees it."""
        return tuple(np.repeat(obs[-1, :, :, None], 3, axis=2) for obs in self._obs)

    def close(self) -> None:
        """Stop the emulators and their threads."""
        self._envs.close()
        del self._envs
