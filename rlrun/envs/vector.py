"""A batch of environments that can be brought back to any moment by replaying its journal.

Every episode begins with a reset by a seed of its own, made from the run's seed, the index of
the environment and the number of the episode. So the state of an environment whose steps are
deterministic is that seed and the actions taken since. Native snapshots are smaller but are not
exact everywhere: sticky actions and warm-started solvers keep state that they do not save.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

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
    """`[B, ...]`; where an episode ended, already the first observation of the next one."""
    reward: NDArray[np.float32]
    """`[B]`, raw."""
    terminated: Mask
    """`[B]`: nothing is to be expected after this step. A lost life counts."""
    truncated: Mask
    """`[B]`: the episode was cut by a limit of time."""
    reset: Mask
    """`[B]`: the environment was reset, so `obs` is a first one. A lost life resets nothing."""
    final_obs: dict[int, Array]
    """Last observation of each episode that was truncated."""
    episodes: list[Episode]
    """The games that ended."""


class Played(NamedTuple):
    """What a backend says of one step, before anything is reset; all `[B]` or `[B, ...]`."""

    obs: Array
    reward: Array
    terminated: Mask
    truncated: Mask
    over: Mask
    """The environment must be reset before its next step."""


class ReplayMismatch(RuntimeError):
    """A replayed environment is not where it was: its steps are not deterministic."""


class BadEnvironment(ValueError):
    """An environment gave an observation or a reward that is not finite."""


class VectorEnv(ABC):
    """`n_envs` environments stepped together, reset where an episode ends.

    Args:
        n_envs: number `B` of environments.
        observation_space: of one environment.
        action_space: of one environment.
        frame_stack: how many frames an observation holds, on its first axis, the newest last.
            The frames before a reset of the environment are zeros.
        seed: of all episodes.
    """

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
        self._seed = seed
        self._episode = np.full(n_envs, -1)
        self._journal: list[Array] = []  # actions of all environments, one array per step
        self._begin = np.zeros(n_envs, np.int64)  # index in it of each episode's first action
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, np.int64)
        self._obs: Array = np.empty(0)
        self._float_obs = np.issubdtype(observation_space.dtype or np.uint8, np.floating)

    @abstractmethod
    def _reset(self, mask: Mask, seeds: Sequence[int]) -> Array:
        """Reset the masked environments by these seeds; observations of all."""

    @abstractmethod
    def _play(self, actions: Array) -> Played:
        """Step all environments."""

    @abstractmethod
    def close(self) -> None:
        """Free what the environments hold."""

    def reset(self) -> Array:
        """Begin the next episode of every environment; `[B, ...]`."""
        return self._begin_episodes(np.ones(self.n_envs, np.bool_))

    def step(self, actions: Array) -> Step:
        """Take one action in every environment.

        Args:
            actions: `[B]` int64 for Discrete spaces, counted from 0; `[B, ...]` for Box.

        Raises:
            BadEnvironment: a reward or an observation is not finite.
        """
        actions = np.array(actions)
        played = self._play(actions)
        self._journal.append(actions)
        self._returns += played.reward
        self._lengths += 1
        self._check(played)
        obs = played.obs
        episodes: list[Episode] = []
        final_obs: dict[int, Array] = {}
        if played.over.any():
            for env in np.flatnonzero(played.over).tolist():
                length = int(self._lengths[env])
                episodes.append(Episode(env, float(self._returns[env]), length))
                if played.truncated[env] and not played.terminated[env]:
                    final_obs[env] = np.array(obs[env])
            obs = self._begin_episodes(played.over)
        self._obs = obs
        reward = played.reward.astype(np.float32)
        return Step(
            obs, reward, played.terminated, played.truncated, played.over, final_obs, episodes
        )

    def _begin_episodes(self, mask: Mask) -> Array:
        self._episode[mask] += 1
        self._returns[mask] = 0.0
        self._lengths[mask] = 0
        self._begin[mask] = len(self._journal)
        unused = int(self._begin.min())
        if unused >= _TRIM:
            del self._journal[:unused]
            self._begin -= unused
        self._obs = self._reset(mask, self._seeds(mask))
        return self._obs

    def _seeds(self, mask: Mask) -> list[int]:
        """Seeds of the present episodes of the masked environments, below 2^31."""
        return [
            int(np.random.SeedSequence([self._seed, env, number]).generate_state(1)[0]) >> 1
            for env, number in enumerate(self._episode.tolist())
            if mask[env]
        ]

    def _check(self, played: Played) -> None:
        fine = np.isfinite(played.reward)
        if self._float_obs and not np.isfinite(played.obs).all():
            fine &= np.isfinite(played.obs).reshape(self.n_envs, -1).all(1)
        if not fine.all():
            env = int(np.flatnonzero(~fine)[0])
            mask = np.arange(self.n_envs) == env
            raise BadEnvironment(
                f"environment {env} gave a reward or an observation that is not finite (reward "
                f"{played.reward[env]}), {self._lengths[env]} steps after its reset with the seed "
                f"{self._seeds(mask)[0]}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Episodes, actions since their resets, and a digest of the observations."""
        actions = {
            str(env): np.array([step[env] for step in self._journal[begin:]])
            for env, begin in enumerate(self._begin.tolist())
        }
        return {"episode": self._episode.copy(), "actions": actions, "digest": _digest(self._obs)}

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Replay to where `state_dict` was taken; the observations there, `[B, ...]`.

        The environments step in lockstep: the ones with the shorter journals start later, so
        that all end together.

        Raises:
            ReplayMismatch: the observations are not those of then.
        """
        self._episode = np.array(state["episode"])
        journals = [state["actions"][str(env)] for env in range(self.n_envs)]
        lengths = np.array([len(actions) for actions in journals])
        total = int(lengths.max())
        # What environments that wait for their turn do does not matter: any action will do.
        self._journal = [self._any_actions() for _ in range(total)]
        for env, actions in enumerate(journals):
            for t, action in enumerate(actions, start=total - len(actions)):
                self._journal[t][env] = action
        self._begin = total - lengths
        self._returns[:], self._lengths[:] = 0.0, 0
        everyone = np.ones(self.n_envs, np.bool_)
        obs = self._reset(everyone, self._seeds(everyone))
        for t, actions in enumerate(self._journal):
            played = self._play(actions)
            obs = played.obs
            running = self._begin <= t
            if (played.over & running).any():
                raise ReplayMismatch("an episode ended earlier than it had")
            self._returns[running] += played.reward[running]
            self._lengths[running] += 1
            starting = (self._begin == t + 1) | (played.over & ~running)
            if starting.any():
                obs = self._reset(starting, self._seeds(starting))
        self._obs = obs
        if _digest(obs) != state["digest"]:
            raise ReplayMismatch("the replayed environments show other observations")
        return obs

    def _any_actions(self) -> Array:
        space = self.action_space
        if isinstance(space, spaces.Box):
            one = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
        else:
            one = np.zeros(space.shape or (), np.int64)
        return np.stack([one] * self.n_envs)


def _digest(obs: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(obs).tobytes()).hexdigest()
