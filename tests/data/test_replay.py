"""The replay memory against one that simply keeps every segment whole."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.data.replay import ReplayMemory
from rlrun.data.rollout import Rollout

ENVS, ACTIONS, STATE = 3, 2, 5
ACTION_SPACES = {
    "discrete": spaces.Discrete(ACTIONS),
    "multidiscrete": spaces.MultiDiscrete([4, 3]),
    "multibinary": spaces.MultiBinary((2, 2)),
    "box": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
}


class Stream:
    """Random segments that follow each other, with stacked frames, resets and lost lives."""

    def __init__(self, n_steps, frame_stack, shape=(2, 2), seed=0, actions="discrete"):
        self.actions = ACTION_SPACES[actions]
        self.rng = np.random.default_rng(seed)
        self.n_steps, self.stack, self.shape = n_steps, frame_stack, shape
        self.now = np.zeros((ENVS, frame_stack, *shape), np.uint8)
        self.reset = np.ones(ENVS, bool)
        self.now[:, -1] = self._frames()
        full = (frame_stack, *shape) if frame_stack > 1 else shape
        self.space = spaces.Box(0, 255, full, np.uint8)

    def _frames(self):
        return self.rng.integers(1, 256, (ENVS, *self.shape), np.uint8)

    def _acted(self):
        """As `acting` takes them: one number, one per factor, or floats."""
        steps = (self.n_steps, ENVS)
        match self.actions:
            case spaces.Discrete():
                return torch.from_numpy(self.rng.integers(0, ACTIONS, steps))
            case spaces.Box():
                return torch.from_numpy(self.rng.normal(size=(*steps, 6)).astype(np.float32))
            case spaces.MultiDiscrete():
                return torch.from_numpy(self.rng.integers(0, self.actions.nvec, (*steps, 2)))
            case _:
                return torch.from_numpy(self.rng.integers(0, 2, (*steps, 4)))

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
            actions=self._acted(),
            rewards=torch.from_numpy(self.rng.normal(size=steps).astype(np.float32)),
            behaviour=torch.from_numpy(self.rng.random((*steps, ACTIONS)).astype(np.float32)),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            reset=torch.from_numpy(np.stack(resets)),
            state=torch.from_numpy(self.rng.normal(size=(ENVS, STATE)).astype(np.float32)),
            final_observations=torch.from_numpy(squeeze(np.stack(finals) if finals else none)),
            final_index=torch.tensor(index, dtype=torch.int64).reshape(-1, 2),
        )


def memory_for(stream, slots):
    return ReplayMemory(
        slots,
        stream.n_steps,
        ENVS,
        ACTIONS,
        STATE,
        stream.space,
        stream.actions,
        stream.stack,
    )


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
        assert getattr(read, name).dtype == pick(name).dtype, name
    states = [segments[k].state[b] for b, k in enumerate(entries.tolist())]
    assert torch.equal(read.state, torch.stack(states))
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


@pytest.mark.parametrize("actions", ACTION_SPACES)
@pytest.mark.parametrize("frame_stack", [1, 4])
@pytest.mark.parametrize("pushes", [0, 2, 5, 11])
def test_export_and_restore_in_pieces(frame_stack, pushes, actions):
    stream = Stream(3, frame_stack, seed=1, actions=actions)
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
        if len(memory):
            spread = memory.first + torch.arange(ENVS) % len(memory)
            check_equal(other, segments, spread)
        segments[number] = stream.segment()
        memory.push(segments[number])
        other.push(segments[number])


@pytest.mark.parametrize(
    ("actions", "shape", "dtype"),
    [
        ("discrete", (), torch.int64),
        ("multidiscrete", (2,), torch.int64),
        ("multibinary", (4,), torch.int64),
        ("box", (6,), torch.float32),
    ],
)
def test_actions_of_every_space_keep_their_shape_and_type(actions, shape, dtype):
    stream = Stream(3, 1, actions=actions)
    memory = memory_for(stream, 4)
    segments = {}
    for number in range(7):
        segments[number] = stream.segment()
        memory.push(segments[number])
    check_equal(memory, segments, torch.tensor([5, 3, 6]))
    read = memory.read(torch.tensor([5, 3, 6])).actions
    assert read.shape == (3, ENVS, *shape)
    assert read.dtype == dtype


def test_recurrent_states_are_kept_by_segment_and_environment():
    stream = Stream(3, 2)
    memory = memory_for(stream, 4)
    segments = [stream.segment() for _ in range(7)]
    for segment in segments:
        memory.push(segment)
    kept = [segment.state.clone() for segment in segments]
    for segment in segments:  # a collector goes on to other states
        segment.state.zero_()
    exported = {k: v.clone() for k, v in memory.export(4, 7).items()}
    assert torch.equal(exported["state"], torch.stack(kept[4:]))
    other = memory_for(stream, 4)
    other.restore(3, 4, memory.export(3, 4))
    other.restore(4, 7, exported)
    other.load_state_dict(memory.state_dict())
    for each in (memory, other):
        state = each.read(torch.tensor([5, 3, 6])).state
        assert torch.equal(state, torch.stack([kept[5][0], kept[3][1], kept[6][2]]))
        sampled, ages = each.sample(torch.Generator().manual_seed(0))
        expected = [kept[6 - age][env] for env, age in enumerate(ages.tolist())]
        assert torch.equal(sampled.state, torch.stack(expected))


def test_memory_of_pong_is_below_650_megabytes():
    """Stacked observations would take four times as much."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    memory = ReplayMemory(5000 // 20, 20, 16, 6, 0, space, spaces.Discrete(6), 4)
    assert memory.nbytes < 650e6
