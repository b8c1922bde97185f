"""What an expert did, to learn from: whole trajectories, as `trajectories` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlrun.api.imitation import trajectories
from rlrun.run.console import say

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

Array = NDArray[Any]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Split = Literal["train", "val"]


class Steps(NamedTuple):
    """`T` steps of `B` lanes, each of which goes through whole episodes in order."""

    rows: Rows
    """`[T, B]`, of the dataset."""
    reset: Mask
    """`[T, B]`: an episode begins here."""
    valid: Mask
    """`[T, B]`: not beyond the end of a lane, where `rows` only fill up."""


class Loader:
    """Goes over some rows of a dataset in minibatches; the last one of a pass may be smaller.

    Args:
        rows: `[n]`.
        batch_size: rows of a minibatch.
        rng: shuffles each pass anew; None for the given order.
        read: from rows to observations and actions.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        rng: np.random.Generator | None,
        read: Callable[[Rows], tuple[Array, Array]],
    ) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._rng = rng
        self._read = read
        self._left: list[Rows] = []

    def __len__(self) -> int:
        """Minibatches of a pass."""
        return -(-len(self._rows) // self._batch_size)

    def rows(self) -> list[Rows]:
        """A pass: the rows of each minibatch."""
        rows = self._rows if self._rng is None else self._rng.permutation(self._rows)
        return [rows[i : i + self._batch_size] for i in range(0, len(rows), self._batch_size)]

    def next_batch(self) -> tuple[Array, Array]:
        """Observations and actions of the next minibatch; a new pass begins after the last."""
        self._left = self._left or self.rows()
        if not self._left:
            raise ValueError("this split of the dataset is empty; choose another train_fraction")
        return self._read(self._left.pop(0))


class ExpertDataset:
    """Observations and actions of an expert, split into a part to learn from and one to validate.

    Args:
        expert_path: of the archive; `.npz` is added if it is missing.
        traj_data: what the archive would hold; one of the two has to be given.
        train_fraction: share of the steps (for policies with a memory: of the episodes) that are
            learnt from, in (0, 1].
        batch_size: steps of a minibatch.
        traj_limitation: use the first so many episodes only; -1 for all of them.
        randomize: draw the split and shuffle the minibatches; otherwise everything stays in order.
        verbose: 1 to print what was loaded.
        sequential_preprocessing: without effect, for nothing is loaded in other processes.
        seed: of the split and the shuffling.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: it is none, keys are missing, or what it holds does not fit together.
    """

    def __init__(
        self,
        expert_path: str | os.PathLike[str] | None = None,
        traj_data: Mapping[str, Any] | None = None,
        train_fraction: float = 0.7,
        batch_size: int = 64,
        traj_limitation: int = -1,
        randomize: bool = True,
        verbose: int = 1,
        sequential_preprocessing: bool = False,
        seed: int = 0,
    ) -> None:
        if (traj_data is None) == (expert_path is None):
            raise ValueError("ExpertDataset: give one of expert_path and traj_data")
        if not 0.0 < train_fraction <= 1.0:
            raise ValueError(f"train_fraction: {train_fraction} is not in (0, 1]")
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is less than 1")
        if traj_limitation != -1 and traj_limitation < 1:
            raise ValueError(f"traj_limitation: {traj_limitation}; allowed: 1 or more, -1 for all")
        self._folder = Path()
        if expert_path is not None:
            path = trajectories.with_suffix(expert_path)
            self._folder, traj_data = path.parent, trajectories.load(path)
        data = trajectories.checked(traj_data or {})

        beginnings = np.flatnonzero(data["episode_starts"])
        bounds = np.append(beginnings, len(data["obs"]))
        if traj_limitation != -1:
            bounds = bounds[: traj_limitation + 1]
        self.num_traj = len(bounds) - 1
        self.num_transition = int(bounds[-1])
        self.observations: Array = data["obs"][: self.num_transition]
        """`[N, ...]`, or the paths of pictures `[N]`."""
        self.actions: Array = data["actions"][: self.num_transition]
        """`[N, ...]`."""
        self.returns: Array = data["episode_returns"][: self.num_traj]
        """`[E]`."""
        self.avg_ret = float(self.returns.mean())
        self.std_ret = float(self.returns.std())
        self.randomize = randomize
        self.verbose = verbose

        self._bounds = bounds
        self._starts: Mask = np.zeros(self.num_transition, np.bool_)
        self._starts[bounds[:-1]] = True
        drawing, *shuffling = np.random.default_rng(seed).spawn(3)
        rows, episodes = np.arange(self.num_transition), np.arange(self.num_traj)
        if randomize:
            rows, episodes = drawing.permutation(rows), drawing.permutation(episodes)
        cut = int(train_fraction * len(rows))
        if cut == 0:
            raise ValueError(
                f"train_fraction: {train_fraction} of {len(rows)} steps leaves none to learn from"
            )
        train_rng, val_rng = shuffling if randomize else (None, None)
        self.train_loader = Loader(rows[:cut], batch_size, train_rng, self.read)
        self.val_loader = Loader(rows[cut:], batch_size, val_rng, self.read)
        cut = max(1, int(train_fraction * len(episodes)))
        self._episodes = {"train": episodes[:cut], "val": episodes[cut:]}
        self._rngs = {"train": train_rng, "val": val_rng}
        self.batch_size = batch_size
        if verbose >= 1:
            self.log_info()

    @property
    def has_pictures(self) -> bool:
        """Are the observations paths of pictures?"""
        return bool(self.observations.dtype.kind == "U")

    def read(self, rows: Rows) -> tuple[Array, Array]:
        """Observations `[n, ...]` and actions `[n, ...]` of some rows.

        Pictures are loaded, as `[n, H, W, C]` uint8.

        Raises:
            ValueError: a picture cannot be read.
        """
        observations = self.observations[rows]
        if self.has_pictures:
            observations = np.stack(
                [trajectories.read_picture(self._folder, name) for name in observations]
            )
        return observations, self.actions[rows]

    def get_next_batch(self, split: Split) -> tuple[Array, Array]:
        """Observations and actions of the next minibatch of `train` or `val`; it never ends."""
        loaders = {"train": self.train_loader, "val": self.val_loader}
        if split not in loaders:
            raise ValueError(f"split: {split!r}; allowed: 'train', 'val'")
        return loaders[split].next_batch()

    def sequences(self, split: Split, lanes: int, steps: int) -> Iterator[Steps]:
        """A pass over the whole episodes of a split in order, for policies with a memory.

        Each episode is put into the lane that is the shortest so far, and all lanes are then cut
        into segments of equal length, so that the state goes on from one segment to the next.

        Args:
            split: `train` or `val`; at least one episode is in `train`.
            lanes: at most so many episodes side by side.
            steps: length of a segment; the last one of the pass may be shorter.
        """
        episodes, rng = self._episodes[split], self._rngs[split]
        if not len(episodes):
            return
        if rng is not None:
            episodes = rng.permutation(episodes)
        lengths = [0] * min(lanes, len(episodes))
        pieces: list[tuple[int, int, int, int]] = []
        for start, stop in zip(self._bounds[episodes], self._bounds[episodes + 1], strict=True):
            lane = int(np.argmin(lengths))
            pieces.append((lane, lengths[lane], start, stop))
            lengths[lane] += stop - start
        rows = np.zeros((max(lengths), len(lengths)), np.int64)
        valid = np.zeros(rows.shape, np.bool_)
        for lane, t, start, stop in pieces:
            rows[t : t + stop - start, lane] = np.arange(start, stop)
            valid[t : t + stop - start, lane] = True
        reset = self._starts[rows]
        for t in range(0, len(rows), steps):
            now = slice(t, t + steps)
            yield Steps(rows[now], reset[now], valid[now])

    def log_info(self) -> None:
        """Print how much there is, and how good."""
        say(f"Total trajectories: {self.num_traj}")
        say(f"Total transitions: {self.num_transition}")
        say(f"Average returns: {self.avg_ret}")
        say(f"Std for returns: {self.std_ret}")

    def plot(self) -> Figure:
        """A histogram of the returns; shown by a notebook, written by its `savefig`."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        axes.hist(self.returns)
        axes.set_xlabel("return of an episode")
        axes.set_ylabel("episodes")
        return figure
