"""A batch of environments that can be brought back to any moment by replaying its journal.

Episodes begin with a reset by a seed of their own, made from the run's seed, the index of the
environment and the number of the episode. So the state of an environment whose steps are
deterministic is that seed and the actions taken since. Where seeding is expensive, some episodes
go on with the generators as they are, and the journal reaches back to the last seeding. Native
snapshots are smaller but are not exact everywhere: sticky actions and warm-started solvers keep
state that they do not save.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlrun.spaces import may_be_unsound, sound

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_TRIM = 4096  # steps of the journal that may be out of use before they are dropped


class Episode(NamedTuple):
    """A whole game that ended: its environment, undiscounted raw return, and length in steps."""

    env: int
    ret: float
    length: int


class Step(NamedTuple):
    """What one step of `B` environments brought; arrays are valid until the next step."""

    obs: Array
    """`[B, ...]`, packed as by `rlrun.spaces.pack`; where an episode ended, already the first
    observation of the next one."""
    reward: NDArray[np.float32]
    """`[B]`, raw."""
    terminated: Mask
    """`[B]`: nothing is to be expected after this step. A lost life counts."""
    truncated: Mask
    """`[B]`: the episode was cut by a limit of time; never where `terminated` is set."""
    reset: Mask
    """`[B]`: the environment was reset, so `obs` is a first one. A lost life resets nothing."""
    final_obs: dict[int, Array]
    """Last observation of each environment that was reset."""
    episodes: list[Episode]
    """The games that ended."""


class Played(NamedTuple):
    """What a backend says of one step, before anything is reset; all `[B]` or `[B, ...]`."""

    obs: Array
    """Packed, like all observations."""
    reward: Array
    terminated: Mask
    truncated: Mask
    over: Mask
    """The environment must be reset before its next step."""


class ReplayMismatch(RuntimeError):
    """A replayed environment is not where it was: its steps are not deterministic."""


class BadEnvironment(ValueError):
    """An environment gave a reward or an observation that nothing can be learnt from."""


class Interface(NamedTuple):
    """What an algorithm has to know of its environments."""

    n_envs: int
    observation_space: spaces.Space[Any]
    """Of one environment, as it has it: Dict and Tuple are packed on their way."""
    action_space: spaces.Space[Any]
    frame_stack: int = 1
    """How many frames an observation holds, on its first axis, the newest last."""


class VectorEnv(ABC):
    """`n_envs` environments stepped together, reset where an episode ends.

    Args:
        n_envs: number `B` of environments.
        observation_space: of one environment, as it has it: Dict and Tuple are packed on their way.
        action_space: of one environment.
        frame_stack: how many frames an observation holds, on its first axis, the newest last.
            The frames before a reset of the environment are zeros.
        seed: of all episodes.
    """

    reseed_after = 0
    """The reset after an episode seeds anew once so many steps were taken since the last seeding.

    0: every one. More bounds both the seedings and, with the length of an episode, the replay.
    """

    fps = 30
    """Steps per second of what they show at its own pace."""
    render_mode: str | None = None
    """How `render` shows the environments; None if they were made without it."""
    clips_rewards = False
    """Are rewards commonly learnt from by their sign?"""
    origin: tuple[str, dict[str, Any]] | None = None
    """Id and keywords from which the same environments can be made, where it is known."""

    def __init__(
        self,
        n_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        frame_stack: int,
        seed: int,
    ) -> None:
        self.n_envs = n_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.frame_stack = frame_stack
        self.interface = Interface(n_envs, observation_space, action_space, frame_stack)
        self.turn = 0  # resets and steps so far: tells one user that another was here
        self._seed = seed
        self._episode = np.full(n_envs, -1)
        self._journal: list[Array] = []  # actions of all environments, one array per step
        self._seeded = np.full(n_envs, -1)  # number of the episode that was seeded last
        self._begin = np.zeros(n_envs, np.int64)  # index in the journal of its first action
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, np.int64)
        self._obs: Array = np.empty(0)
        self._may_be_unsound = may_be_unsound(observation_space)

    @abstractmethod
    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        """Reset the masked environments by these seeds, -1 to seed none; observations of all."""

    @abstractmethod
    def _play(self, actions: Array) -> Played:
        """Step all environments."""

    @abstractmethod
    def close(self) -> None:
        """Free what the environments hold."""

    def reseed(self, seed: int) -> None:
        """Seed all episodes anew, from the first one on, which the next `reset` begins."""
        self.turn += 1
        self._seed = seed
        self._episode[:] = -1

    @property
    def begun(self) -> bool:
        """Are they in an episode?"""
        return bool(self._episode.min() >= 0)

    def render(self) -> Any:
        """What the environments show of themselves, as gymnasium's `render` gives it."""
        raise NotImplementedError

    def reset(self) -> Array:
        """Begin the next episode of every environment; `[B, ...]`."""
        self.turn += 1
        everyone = np.ones(self.n_envs, np.bool_)
        return self._begin_episodes(everyone, everyone)

    def step(self, actions: Array) -> Step:
        """Take one action in every environment.

        Args:
            actions: `[B]` int64 for Discrete spaces, counted from 0; `[B, J]` int64 for
                MultiDiscrete and MultiBinary, flat, counted from 0; `[B, D]` for Box, flat. In a
                dimension of a Box with two bounds, -1 and 1 are the bounds; the others are in the
                environment's own units. All are clipped to the bounds on their way.

        Raises:
            BadEnvironment: a reward or an observation is not finite, or outside of its space.
        """
        self.turn += 1
        actions = np.array(actions)
        played = self._play(actions)
        self._journal.append(actions)
        self._returns += played.reward
        self._lengths += 1
        self._check(played)
        obs = played.obs
        episodes: list[Episode] = []
        final_obs: dict[int, Array] = {}
        truncated = played.truncated
        if played.over.any():
            truncated = truncated & ~played.terminated
            for env in np.flatnonzero(played.over).tolist():
                length = int(self._lengths[env])
                episodes.append(Episode(env, float(self._returns[env]), length))
                final_obs[env] = np.array(obs[env])
            steps = len(self._journal) - self._begin
            obs = self._begin_episodes(played.over, played.over & (steps >= self.reseed_after))
        self._obs = obs
        reward = played.reward.astype(np.float32)
        return Step(obs, reward, played.terminated, truncated, played.over, final_obs, episodes)

    def _begin_episodes(self, mask: Mask, anew: Mask) -> Array:
        """Begin the next episodes of the environments in `mask`, with new seeds in `anew`."""
        self._episode[mask] += 1
        self._returns[mask] = 0.0
        self._lengths[mask] = 0
        self._seeded[anew] = self._episode[anew]
        self._begin[anew] = len(self._journal)
        unused = int(self._begin.min())
        if unused >= _TRIM:
            del self._journal[:unused]
            self._begin -= unused
        seeds = [self._seed_of(env) if anew[env] else -1 for env in np.flatnonzero(mask).tolist()]
        self._obs = self._reset(mask, seeds)
        return self._obs

    def _seed_of(self, env: int) -> int:
        """The seed of the episode that was seeded last, below 2^31."""
        words = np.random.SeedSequence([self._seed, env, int(self._seeded[env])]).generate_state(1)
        return int(words[0]) >> 1

    def _check(self, played: Played) -> None:
        fine = np.isfinite(played.reward)
        if self._may_be_unsound:
            fine &= sound(self.observation_space, played.obs)
        if not fine.all():
            env = int(np.flatnonzero(~fine)[0])
            raise BadEnvironment(
                f"environment {env} gave a reward or an observation that is not finite, or "
                f"outside of its space (reward {played.reward[env]}), at step "
                f"{self._lengths[env]} of episode {self._episode[env]}; episode "
                f"{self._seeded[env]} was seeded with {self._seed_of(env)}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Episodes, actions since their seeding, and a digest of observations and returns."""
        actions = {
            str(env): np.array([step[env] for step in self._journal[begin:]])
            for env, begin in enumerate(self._begin.tolist())
        }
        return {
            "seed": self._seed,
            "episode": self._episode.copy(),
            "seeded": self._seeded.copy(),
            "actions": actions,
            "digest": self._digest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Replay to where `state_dict` was taken; the observations there, `[B, ...]`.

        The environments step in lockstep: the ones with the shorter journals start later, so
        that all end together. Until then they play along with the longest one.

        Raises:
            ReplayMismatch: the observations are not those of then.
        """
        journals = [np.asarray(state["actions"][str(env)]) for env in range(self.n_envs)]
        lengths = np.array([len(actions) for actions in journals])
        total = int(lengths.max())
        plan = np.stack([journals[int(lengths.argmax())]] * self.n_envs, axis=1)
        for env, actions in enumerate(journals):
            if len(actions):
                plan[-len(actions) :, env] = actions
        self._seed = state["seed"]
        self._journal.clear()
        self._begin[:] = 0
        for t in range(total + 1):
            due = (lengths == total - t) | (t == 0)
            if due.any():
                self._episode[due] = np.asarray(state["seeded"])[due] - 1
                self._begin_episodes(due, due)
            if t < total:
                self.step(plan[t])
        same_episodes = np.array_equal(self._episode, state["episode"])
        if not same_episodes or self._digest() != state["digest"]:
            self._episode[:] = state["episode"]  # a reset goes on from there: no seed comes twice
            raise ReplayMismatch("the replayed environments are not where they were")
        return self._obs

    def _digest(self) -> str:
        obs = np.ascontiguousarray(self._obs)
        return hashlib.sha256(obs.tobytes() + self._returns.tobytes()).hexdigest()
