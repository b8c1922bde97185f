"""Small tasks whose best score is known; `env=tests.tasks:Catch-v0` and the like."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv


class Identity(gymnasium.Env[np.int64, np.int64]):
    """Say which of ten states it is: reward 1 if right, 100 steps an episode."""

    observation_space = spaces.Discrete(10)
    action_space = spaces.Discrete(10)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self._draw()
        return self._state, {}

    def _draw(self) -> None:
        self._state = self.np_random.integers(10)

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        reward = float(action == self._state)
        self._draw()
        return self._state, reward, False, False, {}


class Catch(gymnasium.Env[np.ndarray, np.int64]):
    """Catch falling balls with a paddle, drawn as one 84x84 picture; +1 caught, -1 missed.

    The ball falls in a straight line from a random column; one ball is one episode, of 11 steps.
    """

    CELLS = 12
    PIXELS = 7
    observation_space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        self._ball = int(self.np_random.integers(self.CELLS))
        self._paddle = int(self.np_random.integers(self.CELLS))
        return self._picture(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._paddle = int(np.clip(self._paddle + action - 1, 0, self.CELLS - 1))
        self._row += 1
        landed = self._row == self.CELLS - 1
        reward = (1.0 if abs(self._paddle - self._ball) <= 1 else -1.0) if landed else 0.0
        return self._picture(), reward, landed, False, {}

    def _picture(self) -> np.ndarray:
        cells = np.zeros((self.CELLS, self.CELLS), np.uint8)
        cells[self._row, self._ball] = 255
        cells[-1, max(0, self._paddle - 1) : self._paddle + 2] = 128
        return cells.repeat(self.PIXELS, 0).repeat(self.PIXELS, 1)[None]


class Faulty(gymnasium.Env[Any, Any]):
    """Counts; with a fault at step 3, noise that no seed controls, or a memory of old episodes."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Discrete(2, start=3)

    def __init__(self, fault=None):
        self.fault = fault
        self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._obs(), {}

    def _obs(self):
        noise = np.random.default_rng().normal() if self.fault == "noise" else 0.0
        noise += self.total if self.fault == "memory" else 0
        value = np.nan if self.fault == "observation" and self.steps == 3 else self.steps + noise
        return np.array([value], np.float32)

    def step(self, action):
        assert action in (3, 4)
        self.steps += 1
        self.total += action
        reward = np.inf if self.fault == "reward" and self.steps == 3 else 1.0
        return self._obs(), reward, False, False, {}


class CartPoleNoVelocity(CartPoleEnv):
    """CartPole-v1 that shows position and angle but no velocity: best 500, random play 22."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        high = self.observation_space.high[::2]
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)
        return obs[::2].copy(), info

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        return obs[::2].copy(), *rest


class Recall(gymnasium.Env[np.ndarray, np.int64]):
    """Name the cue that was shown first, `delay` blank observations later; +1 right, -1 wrong.

    An observation is a cue, one-hot or zeros, a flag that asks for the answer, and noise. One
    answer is one episode, of `delay + 2` steps. Best 1; random play, and any without memory,
    2 / n_cues - 1.
    """

    def __init__(self, delay: int = 10, n_cues: int = 4) -> None:
        self.delay = delay
        self.n_cues = n_cues
        self.observation_space = spaces.Box(-1, 1, (n_cues + 2,))
        self.action_space = spaces.Discrete(n_cues)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._cue = int(self.np_random.integers(self.n_cues))
        return self._show(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        answered = self._steps == self.delay + 1
        self._steps += 1
        reward = (1.0 if action == self._cue else -1.0) if answered else 0.0
        return self._show(), reward, answered, False, {}

    def _show(self) -> np.ndarray:
        obs = np.zeros(self.n_cues + 2, np.float32)
        if self._steps == 0:
            obs[self._cue] = 1.0
        obs[-2] = self._steps == self.delay + 1
        obs[-1] = self.np_random.uniform(-1, 1)
        return obs


class Locks(gymnasium.Env[np.ndarray, np.ndarray]):
    """Turn dials of `sizes` positions to what the context asks for; 20 steps an episode.

    The reward is the mean over neighbouring dials, in a circle, of the cosine of the sum of their
    two angles, each counted from the position asked for. So one dial alone says nothing: over the
    positions of the others its reward is 0, wherever it stands. Best 20, random play 0. Beware of
    wrong positions that no single dial improves: of the default sizes the best earns 0.74 a step.
    """

    STEPS = 20
    CONTEXTS = 6
    observation_space = spaces.Box(0, 1, (CONTEXTS,))

    def __init__(self, sizes: Sequence[int] = (3, 4, 5)) -> None:
        sizes = tuple(sizes)
        self.action_space = spaces.MultiDiscrete(sizes)
        asked = np.random.default_rng(0).integers(sizes, size=(self.CONTEXTS, len(sizes)))
        positions = np.indices(sizes)
        table = []
        for targets in asked:
            angles = [
                2 * np.pi * (position - target) / size
                for position, target, size in zip(positions, targets, sizes, strict=True)
            ]
            pairs = zip(angles, angles[1:] + angles[:1], strict=True)
            table.append(np.mean([np.cos(one + other) for one, other in pairs], axis=0))
        self.table = np.array(table)
        """`[CONTEXTS, *sizes]`: the reward of each joint action."""

    @property
    def best(self) -> float:
        """Mean return of the best play of an episode, of all joint actions."""
        return self.STEPS * float(self.table.reshape(self.CONTEXTS, -1).max(1).mean())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._draw(), {}

    def _draw(self) -> np.ndarray:
        self._context = int(self.np_random.integers(self.CONTEXTS))
        obs = np.zeros(self.CONTEXTS, np.float32)
        obs[self._context] = 1.0
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self.table[(self._context, *action)])
        return self._draw(), reward, False, False, {}


class Bits(gymnasium.Env[np.ndarray, np.ndarray]):
    """Choose `n` bits whose neighbours, in a circle, differ just where the context has a 1.

    The reward is the share of the neighbours that are right, of which one bit alone says nothing:
    over the others it is 0.5 whatever the bit. 20 steps an episode: best 20, random play 10.
    """

    STEPS = 20

    def __init__(self, n: int = 6) -> None:
        self.observation_space = spaces.MultiBinary(n)
        self.action_space = spaces.MultiBinary(n)
        self._next = np.arange(1, n + 1) % n

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._draw(), {}

    def _draw(self) -> np.ndarray:
        solution = self.np_random.integers(2, size=len(self._next), dtype=np.int8)
        self._context = solution ^ solution[self._next]
        return self._context.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        right = (action ^ action[self._next]) == self._context
        reward = np.count_nonzero(right) / len(right)
        return self._draw(), reward, False, False, {}


class Every(gymnasium.Env[Any, Any]):
    """Any kind of observation with any kind of action.

    Actions and noise push a phase in [0, 1) around, which every observation shows; it triples at
    each step, so that no wrong action stays unseen for long. The reward of a push is
    cos(2 pi phase - push): best at most 1 a step, random play 0. An episode ends after 7 steps
    or, by the toss of a coin that its seed decides, is cut after 5.
    """

    STEPS = 7
    LIMIT = 5
    _VECTOR = spaces.Box(-1, 1, (3,))
    _DISCRETE = spaces.Discrete(7, start=3)
    _BITS = spaces.MultiBinary(5)
    OBSERVATIONS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "vector": _VECTOR,
        "image": spaces.Box(0, 255, (20, 20, 3), np.uint8),
        "discrete": _DISCRETE,
        "multidiscrete": spaces.MultiDiscrete([3, 4]),
        "multibinary": _BITS,
        "dict": spaces.Dict(
            picture=spaces.Box(0, 255, (16, 16, 1), np.uint8),
            vector=_VECTOR,
            discrete=_DISCRETE,
            bits=_BITS,
        ),
        "tuple": spaces.Tuple([_VECTOR, _DISCRETE]),
    }
    ACTIONS: ClassVar[dict[str, spaces.Space[Any]]] = {
        "discrete": spaces.Discrete(4, start=2),
        "box": spaces.Box(-np.inf, np.inf, (2,)),
        "bounded_box": spaces.Box(np.float32([-2, 0, -1]), np.float32([2, 10, 1])),
        "multidiscrete": spaces.MultiDiscrete([2, 3]),
        "multibinary": spaces.MultiBinary(3),
    }
    WEIGHTS = 0.42 ** np.arange(1, 4)
    """Of the entries of an action in its push; no two discrete actions push to the same phase."""

    def __init__(self, observation: str = "vector", action: str = "discrete") -> None:
        self.observation = observation
        self.observation_space = deepcopy(self.OBSERVATIONS[observation])
        self.action_space = deepcopy(self.ACTIONS[action])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._cut = bool(self.np_random.integers(2))
        self._phase = self.np_random.random()
        return self._show(self.observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        entries = np.ravel(action)
        push = float(entries @ self.WEIGHTS[: len(entries)])
        reward = float(np.cos(2 * np.pi * self._phase - push))
        self._phase = (3 * self._phase + push + self.np_random.random()) % 1.0
        self._steps += 1
        truncated = self._cut and self._steps == self.LIMIT
        return self._show(self.observation), reward, self._steps == self.STEPS, truncated, {}

    def _show(self, kind: str) -> Any:
        phase = self._phase
        match kind:
            case "vector":
                angle = 2 * np.pi * phase
                entries = [np.cos(angle), np.sin(angle), self._steps / self.STEPS]
                return np.array(entries, np.float32)
            case "image":
                return self._picture(20, 20, 3)
            case "discrete":
                return np.int64(3 + int(7 * phase))
            case "multidiscrete":
                return np.array([3 * phase, 12 * phase % 4], np.int64)
            case "multibinary":
                return (int(32 * phase) >> np.arange(5) & 1).astype(np.int8)
            case "dict":
                return {
                    "picture": self._picture(16, 16, 1),
                    "vector": self._show("vector"),
                    "discrete": self._show("discrete"),
                    "bits": self._show("multibinary"),
                }
            case _:
                return self._show("vector"), self._show("discrete")

    def _picture(self, height: int, width: int, channels: int) -> np.ndarray:
        """A bright row at the phase, and a column of the first channel at the step."""
        picture = np.zeros((height, width, channels), np.uint8)
        picture[int(height * self._phase)] = 255
        picture[:, self._steps, 0] = 128
        return picture


gymnasium.register("Faulty-v0", entry_point=Faulty)
gymnasium.register("Identity-v0", entry_point=Identity, max_episode_steps=100)
gymnasium.register("Catch-v0", entry_point=Catch)
gymnasium.register("CartPoleNoVelocity-v0", entry_point=CartPoleNoVelocity, max_episode_steps=500)
gymnasium.register("Recall-v0", entry_point=Recall)
gymnasium.register("Locks-v0", entry_point=Locks, max_episode_steps=Locks.STEPS)
gymnasium.register("Bits-v0", entry_point=Bits, max_episode_steps=Bits.STEPS)
gymnasium.register("Every-v0", entry_point=Every)
