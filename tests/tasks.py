"""Small tasks whose best score is known; `env=tests.tasks:Catch-v0` and the like."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


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


gymnasium.register("Faulty-v0", entry_point=Faulty)
gymnasium.register("Identity-v0", entry_point=Identity, max_episode_steps=100)
gymnasium.register("Catch-v0", entry_point=Catch)
