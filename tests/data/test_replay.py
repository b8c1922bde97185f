"""The replay memory against one that simply keeps every segment whole."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.data.replay import ReplayMemory
from rlrun.data.rollout import Rollout

ENVS, ACTIONS = 3, 2


class Stream:
    """Random segments that follow each other, with stacked frames, resets and lost lives."""

    def __init__(self, n_steps, frame_stack, shape=(2, 2), seed=0):
        self.rng = np.random.default_rng(seed)
        self.n_steps, self.stack, self.shape = n_steps, frame_stack, shape
        self.now = np.zeros((ENVS, frame_stack, *shape), np.uint8)
        self.reset = np.ones(ENVS, bool)
        self.now[:, -1] = self._frames()
        full = (frame_stack, *shape) if frame_stack > 1 else shape
        self.space = spaces.Box(0, 255, full, np.uint8)

    def _frames(self):
        return self.rng.integers(1, 256, (ENVS, *self.shape), np.uint8)

    def segment(self):
        observations, resets = [self.now.copy()], [self.reset.copy()]
        terminated = self.rng.random((self.n_steps, ENVS)) < 0.25
        truncated = self.rng.random((self.n_steps, ENVS)) < 0.15
        life_loss = terminated & (self.rng.random(terminated.shape) < 0.5) & ~truncated
        finals, index = [], []
        for t in range(self.n_steps):
            following = np.concatenate([self.now[:, 1:], self._frames()[:, None]], axis=1)
            self.reset = (terminated[t] | truncated[t]) & ~life_loss[t]
            for env in np.flatnonzero(truncated[t]):
                finals.append(following[env].copy())
                index.append((t, int(env)))
            following[self.reset, :-1] = 0
            following[self.reset, -1] = self._frames()[self.reset]
            self.now = following
            observations.append(self.now.copy())
            resets.append(self.reset.copy())
        squeeze = (lambda x: x) if self.stack > 1 else (lambda x: x[..., 0, :, :])
        none = np.zeros((0, self.stack, *self.shape), np.uint8)
        steps = (self.n_steps, ENVS)
        return Rollout(
            observations=torch.from_numpy(squeeze(np.stack(observations))),
            actions=torch.from_numpy(self.rng.integers(0, ACTIONS, steps)),
            rewards=torch.from_numpy(self.rng.normal(size=steps).astype(np.float32)),
            behaviour=torch.from_numpy(self.rng.random((*steps, ACTIONS)).astype(np.float32)),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            reset=torch.from_numpy(np.stack(resets)),
            final_observations=torch.from_numpy(squeeze(np.stack(finals) if finals else none)),
            final_index=torch.tensor(index, dtype=torch.int64).reshape(-1, 2),
        )


def memory_for(stream, slots):
    return ReplayMemory(slots, stream.n_steps, ENVS, ACTIONS, stream.space, stream.stack)


def expected(segments, entries):
    """The same read from whole segments, environment by environment."""
    chosen = [segments[k] for k in entries.tolist()]

    def pick(name):
        return torch.stack([getattr(s, name)[:, b] for b, s in enumerate(chosen)], dim=1)

    finals = {}
    for b, s in enumerate(chosen):
        for (t, env), final in zip(s.final_index.tolist(), s.final_observations, strict=True):
            if env == b:
                finals[t, b] = final
    return pick, finals


def check_equal(memory, segments, entries):
    read = memory.read(entries)
    pick, finals = expected(segments, entries)
    for name in ("observations", "actions", "rewards", "behaviour", "terminated", "truncated",
                 "reset"):  # fmt: skip
        assert torch.equal(getattr(read, name), pick(name)), name
    found = {
        tuple(where): final
        for where, final in zip(read.final_index.tolist(), read.final_observations, strict=True)
    }
    assert found.keys() == finals.keys()
    assert all(torch.equal(found[where], finals[where]) for where in finals)


@pytest.mark.parametrize("frame_stack", [1, 2, 4])
@pytest.mark.parametrize(("n_steps", "slots"), [(1, 9), (3, 4), (7, 1), (20, 3)])
def test_frames_stored_once_read_like_whole_segments(frame_stack, n_steps, slots):
    stream = Stream(n_steps, frame_stack)
    memory = memory_for(stream, slots)
    segments = {}
    generator = torch.Generator().manual_seed(0)
    for number in range(4 * slots + 3):
        segments[number] = stream.segment()
        memory.push(segments[number])
        assert len(memory) == min(slots, number + 1)
        assert (memory.first, memory.end) == (max(0, number + 1 - slots), number + 1)
        for entry in range(memory.first, memory.end):
            check_equal(memory, segments, torch.full((ENVS,), entry))
        mixed = torch.randint(memory.first, memory.end, (ENVS,), generator=generator)
        check_equal(memory, segments, mixed)


def test_samples_are_uniform_and_independent_across_environments():
    stream = Stream(2, 1)
    memory = memory_for(stream, 4)
    for _ in range(6):
        memory.push(stream.segment())
    generator = torch.Generator().manual_seed(0)
    ages = torch.stack([memory.sample(generator)[1] for _ in range(4000)])
    for env in range(ENVS):
        share = torch.bincount(ages[:, env], minlength=4) / len(ages)
        torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.03, rtol=0)
    same = (ages[:, 0] == ages[:, 1]).float().mean()
    assert abs(same - 0.25) < 0.03


@pytest.mark.parametrize("frame_stack", [1, 4])
@pytest.mark.parametrize("pushes", [0, 2, 5, 11])
def test_export_and_restore_in_pieces(frame_stack, pushes):
    stream = Stream(3, frame_stack, seed=1)
    memory = memory_for(stream, 5)
    segments = {}
    for number in range(pushes):
        segments[number] = stream.segment()
        memory.push(segments[number])
    other = memory_for(stream, 5)
    middle = (memory.first + memory.end) // 2
    for start, stop in ((memory.first, middle), (middle, memory.end)):
        if start < stop:
            exported = {k: v.clone() for k, v in memory.export(start, stop).items()}
            assert all(len(tensor) == stop - start for tensor in exported.values())
            other.restore(start, stop, exported)
    other.load_state_dict(memory.state_dict())
    for number in range(pushes, pushes + 4):  # and goes on the same
        for entry in range(memory.first, memory.end):
            check_equal(other, segments, torch.full((ENVS,), entry))
        segments[number] = stream.segment()
        memory.push(segments[number])
        other.push(segments[number])


def test_memory_of_pong_is_below_650_megabytes():
    """Stacked observations would take four times as much."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    memory = ReplayMemory(5000 // 20, 20, 16, 6, space, 4)
    assert memory.nbytes < 650e6
