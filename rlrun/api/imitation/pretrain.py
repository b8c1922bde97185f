"""Behaviour cloning: a policy learns to act as an expert did, by supervised learning.

For discrete actions the loss is the negative log-likelihood of the expert's, in nats; for those of
a Box the squared distance of the mean from the expert's, in half-widths of the box, while the
deviations stay as they are. Nothing is initialised again, so that pretraining a policy that has
learnt something goes on from there.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlrun.api.imitation.dataset import ExpertDataset, Split, Steps
from rlrun.api.imitation.trajectories import channel_axis
from rlrun.functional.distributions import Gaussian, of_logits
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.policies.actor import Actor
from rlrun.policies.base import Segment
from rlrun.policies.moments import RunningMoments
from rlrun.run.console import say
from rlrun.spaces import action_tensor, array_layout, as_acted, is_composite, sound

Array = NDArray[Any]
Rows = NDArray[np.int64]
Space = spaces.Space[Any]

SEGMENT = 16
"""Steps through which the gradient of a policy with a memory flows back."""


def clone_behaviour(
    actor: Actor,
    observation_space: Space,
    action_space: Space,
    dataset: ExpertDataset,
    n_epochs: int = 10,
    learning_rate: float = 1e-4,
    adam_epsilon: float = 1e-8,
    val_interval: int | None = None,
    verbose: int = 0,
) -> None:
    """Train the policy of `actor` on what an expert did, by Adam.

    A policy with a memory goes through whole episodes, in segments of 16 steps, in so many lanes
    side by side that a minibatch has the size of the dataset's. Features that depend on what was
    observed, if they have observed nothing yet, observe the dataset first.

    Args:
        actor: its parameters change in place, where the policy depends on them.
        observation_space: of one environment.
        action_space: of one environment.
        dataset: what the expert did.
        n_epochs: passes over the training part of the dataset.
        learning_rate: of Adam; at 0 nothing changes.
        adam_epsilon: of Adam, beside the root.
        val_interval: epochs between two reports of the losses; a tenth of all by default.
        verbose: 1 to print these reports.

    Raises:
        ValueError: the dataset is not of these spaces, or a number makes no sense.
        NonFiniteUpdate: loss or gradient are not finite; the weights are those before that step.
    """
    if n_epochs < 0:
        raise ValueError(f"n_epochs: {n_epochs} is less than 0")
    if not 0.0 <= learning_rate < math.inf or not 0.0 < adam_epsilon < math.inf:
        raise ValueError(
            f"learning_rate={learning_rate} has to be 0 or more, adam_epsilon={adam_epsilon} more "
            f"than 0, and both finite"
        )
    interval = max(1, n_epochs // 10) if val_interval is None else val_interval
    if interval < 1:
        raise ValueError(f"val_interval: {val_interval} is less than 1")
    cloning = _Cloning(actor, _Examples(dataset, observation_space, action_space))
    if learning_rate > 0:
        cloning.observe()
    # What a pass does not reach has no gradient, and so is left alone.
    parameters = [p for p in actor.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, learning_rate, eps=adam_epsilon)
    try:
        for epoch in range(1, n_epochs + 1):
            loss = cloning.train(optimizer)
            if verbose >= 1 and epoch % interval == 0:
                line = f"epoch {epoch}/{n_epochs}: training loss {loss:.6f}"
                validation = cloning.validate()
                if not math.isnan(validation):
                    line += f", validation loss {validation:.6f}"
                say(line)
    finally:
        optimizer.zero_grad()


class _Examples:
    """A dataset as tensors, in the dtypes and units of the policy.

    Raises:
        ValueError: it is not of these spaces.
    """

    def __init__(self, dataset: ExpertDataset, observed: Space, acted: Space) -> None:
        if is_composite(observed):
            raise ValueError("pretrain: a dataset cannot hold observations of Dict or Tuple spaces")
        self.dataset = dataset
        self._space = observed
        self._actions = _actions(dataset.actions, acted)
        self.observations: Tensor | None = None
        """`[N, ...]`; None for pictures, which are loaded when they are needed."""
        if not dataset.has_pictures:
            self.observations = _observations(dataset.observations, observed)

    def read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Observations `[n, ...]` and actions `[n, ...]`."""
        if self.observations is not None:
            observations = self.observations[rows]
        else:
            pictures, _ = self.dataset.read(rows)
            if channel_axis(self._space.shape or ()) == 0:
                pictures = np.moveaxis(pictures, -1, 1)
            observations = _observations(pictures, self._space)
        return observations, self._actions[rows]


def _in_shape(what: str, values: Array, shape: tuple[int, ...]) -> Array:
    """`[N, *shape]`, which may have been flattened; ValueError if it is of another shape."""
    found = values.shape[1:]
    if found != shape and not (len(found) <= 1 and math.prod(found) == math.prod(shape)):
        raise ValueError(
            f"dataset: {what} of shape {found}, where the environment's are of shape {shape}; "
            f"record it in this environment"
        )
    return values.reshape(len(values), *shape)


def _observations(values: Array, space: Space) -> Tensor:
    """Observations `[N, ...]` as a collector keeps them."""
    shape, dtype = array_layout(space)
    values = _in_shape("observations", values, shape)
    with np.errstate(over="ignore", invalid="ignore"):  # what that makes of them is refused below
        kept = values.astype(dtype)
    fine = sound(space, kept)
    if dtype.kind != "f":
        fine &= (kept == values).reshape(len(values), -1).all(1)
    if not fine.all():
        row = int(np.argmin(fine))
        raise ValueError(
            f"dataset: observation {row}, {values[row]}, is not of the environment's space {space}"
        )
    return torch.from_numpy(kept)


def _actions(values: Array, space: Space) -> Tensor:
    """Actions `[N, ...]` as the policy says them."""
    values = _in_shape("actions", values, space.shape or ())
    fine = _inside(values, space).reshape(len(values), -1).all(1)
    if not fine.all():
        row = int(np.argmin(fine))
        raise ValueError(
            f"dataset: action {row}, {values[row]}, is not of the environment's space {space}; "
            f"record actions as the environment takes them, inside its bounds"
        )
    return torch.as_tensor(as_acted(space, values), dtype=action_tensor(space, 0).dtype)


def _inside(values: Array, space: Space) -> NDArray[np.bool_]:
    """Which entries of actions are those of the space."""
    fine: NDArray[np.bool_]
    if isinstance(space, spaces.Box):
        # In single precision and beyond by one step of it, for actions at a bound are computed.
        low, high = (bound.astype(np.float32) for bound in (space.low, space.high))
        with np.errstate(over="ignore"):
            kept = values.astype(np.float32)
        fine = (kept >= np.nextafter(low, -np.inf)) & (kept <= np.nextafter(high, np.inf))
        return fine & np.isfinite(kept)
    start: Any = getattr(space, "start", 0)
    n: Any = 2
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        n = space.n if isinstance(space, spaces.Discrete) else space.nvec
    fine = (values == np.floor(values)) & (values >= start) & (values < start + n)
    return fine


class _Cloning:
    """Passes over the examples.

    Args:
        actor: what learns.
        examples: what it learns from.
    """

    def __init__(self, actor: Actor, examples: _Examples) -> None:
        self.actor = actor
        self.examples = examples
        self.distribution = of_logits(actor.distribution)

    def observe(self) -> None:
        """Let moments that are still those of nothing be those of the dataset."""
        policy, observations = self.actor.policy, self.examples.observations
        moments = [m for m in policy.modules() if isinstance(m, RunningMoments)]
        if moments and observations is not None and not any(m.count for m in moments):
            policy.observe(observations.to(self.actor.device))

    def train(self, optimizer: torch.optim.Optimizer) -> float:
        """A pass that learns; the mean loss on the way."""
        sums = np.zeros(2)
        for loss, n in self._losses("train"):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in self.actor.parameters() if p.grad is not None]
            found = torch.stack([loss.detach(), nn.utils.get_total_norm(gradients)]).tolist()
            if not all(map(math.isfinite, found)):
                raise NonFiniteUpdate(
                    f"pretrain: loss ({found[0]}) or norm of the gradient ({found[1]}) is not "
                    f"finite; lower learning_rate, or check the observations and actions"
                )
            optimizer.step()
            sums += found[0] * n, n
        return float(sums[0] / sums[1])

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss on the part that is not learnt from; NaN if it is empty."""
        sums = np.zeros(2)
        for loss, n in self._losses("val"):
            sums += loss.item() * n, n
        return float(sums[0] / sums[1]) if sums[1] else math.nan

    def _losses(self, split: Split) -> Iterator[tuple[Tensor, int]]:
        """Mean loss of each minibatch of a pass, and how many steps it is of."""
        policy, device = self.actor.policy, self.actor.device
        state = torch.zeros(0, policy.state_size, device=device)
        for rows, reset, valid in self._minibatches(split):
            observations, actions = self.examples.read(rows.ravel())
            if len(state) != rows.shape[1]:
                state = torch.zeros(rows.shape[1], policy.state_size, device=device)
            no_finals = torch.empty(0, 2, dtype=torch.int64, device=device)
            segment = Segment(state, torch.from_numpy(reset).to(device), no_finals)
            latents, state = policy.encode(policy.features(observations.to(device)), segment)
            state = state.detach()
            counted = torch.from_numpy(valid.ravel()).to(device)
            loss = self._loss(latents[counted], actions.to(device)[counted])
            yield loss, int(valid.sum())

    def _minibatches(self, split: Split) -> Iterator[Steps]:
        """Of a pass; steps apart from each other where there is no memory."""
        dataset = self.examples.dataset
        if self.actor.policy.state_size:
            lanes = max(1, dataset.batch_size // SEGMENT)
            yield from dataset.sequences(split, lanes, SEGMENT)
            return
        loader = dataset.train_loader if split == "train" else dataset.val_loader
        for rows in loader.rows():
            alone = np.ones((1, len(rows)), np.bool_)
            yield Steps(rows[None], alone, alone)

    def _loss(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Mean over latents `[n, L]` and the expert's actions `[n, ...]`."""
        output = self.actor.policy.head("policy", latents)
        if isinstance(self.distribution, Gaussian):
            return (output - actions).square().mean()
        statistics = self.distribution.statistics(output, None)
        return -self.distribution.log_prob(statistics, actions).mean()
