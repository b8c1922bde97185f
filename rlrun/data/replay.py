"""The replay memory of ACER: a ring of segments in which every frame is stored once.

Consecutive segments overlap in one observation, and stacked observations in all frames but the
newest. So the observations of an environment are kept as one stream of frames: entry `k` (the
`k`-th segment, `T` steps long) reads observation `t` at frame `f = k T + t`, stacked from the
frames `f - S + 1 .. f`. A frame older than the last reset of the environment reads as zeros.

The frames, which take nearly all of the memory, may lie on the GPU that learns. All else stays with
the host, which finds out there what to read, and so never waits for the GPU.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor

from rlrun.data.rollout import Rollout
from rlrun.spaces import action_tensor, observation_tensor
from rlrun.transfer import CPU, pinned, sent

Place = Literal["auto", "cpu", "device"]
_SHARE = 0.5  # of the free memory of a GPU that frames may take unasked


class ReplayMemory:
    """The last `slots` segments of all environments.

    Args:
        slots: how many segments are kept, >= 1.
        n_steps: length `T` of a segment.
        n_envs: number `B` of environments.
        n_statistics: size `P` of what tells the distribution of an action.
        state_size: size `S` of the recurrent state of one environment.
        observations: space of one observation. With `frame_stack > 1` its first axis runs over
            the frames, the newest last.
        actions: space of one action.
        frame_stack: number `S` of frames in an observation.
        device: that of the training.
        place: where the frames lie: on that `device`, in the memory of the host (`cpu`), or on
            the device if it is a GPU with room for them (`auto`). No result depends on it.
    """

    def __init__(
        self,
        slots: int,
        n_steps: int,
        n_envs: int,
        n_statistics: int,
        state_size: int,
        observations: spaces.Space[Any],
        actions: spaces.Space[Any],
        frame_stack: int,
        device: torch.device = CPU,
        place: Place = "auto",
    ) -> None:
        self.slots, self.n_steps, self.n_envs = slots, n_steps, n_envs
        self.frame_stack = frame_stack
        self.end = 0
        self._ring = slots * n_steps + frame_stack
        frame = observation_tensor(observations)
        frame = frame[-1] if frame_stack > 1 else frame
        # The last row stays zeros: it is read in place of frames before a reset.
        shape = self._ring + 1, n_envs, *frame.shape
        if place == "cpu" or (place == "auto" and not _has_room(device, shape, frame.itemsize)):
            self._frames = torch.empty(shape, dtype=frame.dtype)
        else:
            self._frames = torch.empty(shape, dtype=frame.dtype, device=device)
        self._frames[-1] = 0
        self._pinned = pinned(device) and self._frames.device != device
        self._reset = torch.zeros(self._ring, n_envs, dtype=torch.bool)
        steps = (slots, n_steps, n_envs)
        self._steps = {
            "actions": action_tensor(actions, *steps),
            "rewards": torch.empty(steps),
            "behaviour": torch.empty(*steps, n_statistics),
            "terminated": torch.empty(steps, dtype=torch.bool),
            "truncated": torch.empty(steps, dtype=torch.bool),
        }
        self._states = torch.empty(slots, n_envs, state_size)
        # Last observations of truncated episodes, by entry: they are few.
        self._finals: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def first(self) -> int:
        """Number of the oldest entry that is kept; the newest is `end - 1`."""
        return max(0, self.end - self.slots)

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def nbytes(self) -> int:
        """Memory taken when full, in bytes; final observations, which are few, come on top."""
        tensors = [self._frames, self._reset, self._states, *self._steps.values()]
        return sum(tensor.nbytes for tensor in tensors)

    def push(self, rollout: Rollout) -> None:
        """Append a segment.

        It begins with the observation with which the last one ended. Where an environment was
        reset in between all the same (it could not be restored when the run was resumed), the
        last step is taken for a truncation.
        """
        entry, begin = self.end, self.end * self.n_steps
        stacks = rollout.observations_on(self._frames.device)
        stacks = stacks if self.frame_stack > 1 else stacks[:, :, None]
        if entry == 0:
            head = self._rows(begin - self.frame_stack + 1, begin + 1)
            self._frames[self._there(head)] = stacks[0].movedim(1, 0)
        else:
            self._truncate(rollout.reset[0] & ~self._reset[begin % self._ring])
        rows = self._rows(begin, begin + self.n_steps + 1)
        self._frames[self._there(rows)] = stacks[:, :, -1]
        self._reset[rows] = rollout.reset
        for name, kept in self._steps.items():
            kept[entry % self.slots] = getattr(rollout, name)
        self._states[entry % self.slots] = rollout.state
        self._finals.pop(entry - self.slots, None)
        if len(rollout.final_index):
            self._finals[entry] = rollout.final_index.clone(), rollout.final_observations.clone()
        self.end += 1

    def _truncate(self, envs: Tensor) -> None:
        """Let the newest segment end in a truncation in the masked environments, `[B]` bool."""
        if not envs.any():
            return
        entry = self.end - 1
        stacks = self.read(torch.full((self.n_envs,), entry)).observations[-1].cpu()
        where = envs.nonzero()
        index = torch.cat([torch.full_like(where, self.n_steps - 1), where], dim=1)
        if entry in self._finals:
            known, observations = self._finals[entry]
            self._finals[entry] = torch.cat([known, index]), torch.cat([observations, stacks[envs]])
        else:
            self._finals[entry] = index, stacks[envs]
        self._steps["truncated"][entry % self.slots, -1, envs] = True

    def sample(self, generator: torch.Generator) -> tuple[Rollout, Tensor]:
        """One segment per environment, each drawn uniformly from that environment's history.

        Returns:
            The segments as one batch of shape `[T, B]`, and their ages in entries, `[B]`.
        """
        entries = torch.randint(self.first, self.end, (self.n_envs,), generator=generator)
        return self.read(entries), self.end - 1 - entries

    def read(self, entries: Tensor) -> Rollout:
        """The segment with the number `entries[b]` of each environment `b`, as one batch."""
        envs = torch.arange(self.n_envs)
        numbers = entries * self.n_steps + torch.arange(self.n_steps + 1).unsqueeze(1)
        back = torch.arange(self.frame_stack - 1, -1, -1)
        # [T + 1, B, S]: where each frame of each stack lies, the oldest first.
        cells = (numbers.unsqueeze(-1) - back) % self._ring * self.n_envs + envs.unsqueeze(-1)
        reset = self._reset.flatten()[cells]
        if self.frame_stack > 1 and reset[..., 1:].any():
            newer_reset = reset[..., 1:].flip(-1).cumsum(-1).flip(-1) > 0
            cells[..., :-1][newer_reset] = self._ring * self.n_envs
        stacks = self._gathered(cells)
        if self.frame_stack == 1:
            stacks = stacks.squeeze(2)
        index, finals = self._read_finals(entries)
        slots = entries % self.slots
        steps = {name: kept[slots, :, envs].transpose(0, 1) for name, kept in self._steps.items()}
        return Rollout(
            observations=stacks,
            reset=reset[..., -1],
            state=self._states[slots, envs],
            final_observations=finals,
            final_index=index,
            **steps,
        )

    def _gathered(self, cells: Tensor) -> Tensor:
        """The frames in these cells, `[..., *frame]`."""
        frames = self._frames.flatten(0, 1)
        found = None
        if self._pinned:  # a GPU will fetch it from there
            shape = cells.numel(), *frames.shape[1:]
            found = torch.empty(shape, dtype=frames.dtype, pin_memory=True)
        found = torch.index_select(frames, 0, self._there(cells.flatten()), out=found)
        return found.view(*cells.shape, *frames.shape[1:])

    def _there(self, index: Tensor) -> Tensor:
        """An index where the frames are: the GPU that has them would wait for one of the host."""
        return sent(index, self._frames.device)

    def _read_finals(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        index, finals = [], []
        for env, entry in enumerate(entries.tolist() if self._finals else ()):
            if entry in self._finals:
                where, observations = self._finals[entry]
                mine = where[:, 1] == env
                index.append(where[mine])
                finals.append(observations[mine])
        if not index:
            shape = self._frames.shape[2:]
            stacked = (self.frame_stack, *shape) if self.frame_stack > 1 else shape
            none = torch.empty(0, *stacked, dtype=self._frames.dtype)
            return torch.empty(0, 2, dtype=torch.int64), none
        return torch.cat(index), torch.cat(finals)

    def _rows(self, start: int, stop: int) -> Tensor:
        """Rows of the ring that hold the frames `start .. stop - 1`."""
        return torch.arange(start, stop) % self._ring

    def export(self, start: int, stop: int) -> dict[str, Tensor]:
        """The entries `start .. stop - 1` with their number as the leading dimension."""
        rows = self._rows(start * self.n_steps, stop * self.n_steps)
        by_entry = (stop - start, self.n_steps)
        slots = torch.arange(start, stop) % self.slots
        return {
            "frames": self._frames[self._there(rows)]
            .cpu()
            .view(*by_entry, *self._frames.shape[1:]),
            "reset": self._reset[rows].view(*by_entry, -1),
            "state": self._states[slots],
            **{name: kept[slots] for name, kept in self._steps.items()},
        }

    def restore(self, start: int, stop: int, tensors: dict[str, Tensor]) -> None:
        """Take over what `export` gave."""
        rows = self._rows(start * self.n_steps, stop * self.n_steps)
        self._frames[self._there(rows)] = self._there(tensors["frames"].flatten(0, 1))
        self._reset[rows] = tensors["reset"].flatten(0, 1)
        slots = torch.arange(start, stop) % self.slots
        self._states[slots] = tensors["state"]
        for name, kept in self._steps.items():
            kept[slots] = tensors[name]

    def _edges(self) -> Tensor:
        """Rows of the frames before the oldest entry, and of the one after the newest."""
        begin, end = self.first * self.n_steps, self.end * self.n_steps
        return torch.cat(
            [self._rows(begin - self.frame_stack + 1, begin), self._rows(end, end + 1)]
        )

    def state_dict(self) -> dict[str, Any]:
        """What `export` leaves out: the frames at the edges, and the final observations."""
        state: dict[str, Any] = {"end": self.end, "finals": {}}
        if self.end:
            state["frames"] = self._frames[self._there(self._edges())].cpu()
            state["reset"] = self._reset[self._edges()]
        for entry, (index, observations) in self._finals.items():
            state["finals"][str(entry)] = {"index": index, "observations": observations}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, after the entries came by `restore`."""
        self.end = state["end"]
        if self.end:
            self._frames[self._there(self._edges())] = self._there(state["frames"])
            self._reset[self._edges()] = state["reset"]
        self._finals = {}
        for name, final in state["finals"].items():
            entry, index = int(name), final["index"]
            self._finals[entry] = index, final["observations"]
            # A truncation may have been added after the entry was written.
            self._steps["truncated"][entry % self.slots, index[:, 0], index[:, 1]] = True


def _has_room(device: torch.device, shape: Sequence[int], itemsize: int) -> bool:
    """Is it a GPU on which they leave most of the free memory to others?"""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return math.prod(shape) * itemsize <= _SHARE * free
