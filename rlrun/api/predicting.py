"""What an actor says of observations, in the units of the environment."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlrun.functional.distributions import (
    Distribution,
    Factored,
    Gaussian,
    Joint,
    of_logits,
)
from rlrun.functional.distributions.gaussian import split
from rlrun.policies.actor import Actor, factors
from rlrun.spaces import (
    acting,
    action_scale,
    array_layout,
    as_acted,
    is_composite,
    leaves,
    pack,
    sound,
)

Array = NDArray[Any]
Space = spaces.Space[Any]


def batch_of(space: Space, observation: Any) -> tuple[Tensor, bool]:
    """One observation or a batch of them as a batch, and whether it was one.

    Args:
        space: of one observation.
        observation: `[...]` or `[N, ...]`; nested dicts or tuples of these for Dict and Tuple.

    Returns:
        `[N, ...]`, packed as the collector has them.

    Raises:
        ValueError: it is no observation of the space, by its shape or its values.
    """
    try:
        arrays = _mapped(space, observation, np.asarray)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"observation: not nested like {space}: {error!r}") from error
    shapes = [np.shape(array) for array in _flat(arrays)]
    expected = [array_layout(leaf)[0] for leaf in leaves(space).values()]
    single = shapes == expected
    if single:
        arrays = _mapped(space, arrays, lambda array: array[None])
    elif [shape[1:] for shape in shapes] != expected or len({shape[:1] for shape in shapes}) != 1:
        raise ValueError(
            f"observation: arrays of shape {_listed(shapes)}; one observation of {space} has "
            f"{_listed(expected)}, a batch of N has N of them on a first axis"
        )
    packed = pack(space, arrays).astype(array_layout(space)[1], copy=False)
    if not sound(space, packed).all():
        raise ValueError(f"observation: some are not finite, or outside of {space}")
    # A copy, in PyTorch's memory: on NumPy's, which is not aligned, the bits of a product depend on
    # where an array happens to lie.
    return torch.tensor(packed), single


def _mapped(space: Any, value: Any, function: Any) -> Any:
    """The function of every array, nested like the space."""
    if not is_composite(space):
        return function(value)
    if isinstance(space, spaces.Dict):
        return {key: _mapped(entry, value[key], function) for key, entry in space.spaces.items()}
    pairs = zip(space.spaces, value, strict=True)
    return tuple(_mapped(entry, item, function) for entry, item in pairs)


def _flat(arrays: Any) -> list[Array]:
    if isinstance(arrays, dict):
        arrays = tuple(arrays.values())
    return [a for item in arrays for a in _flat(item)] if isinstance(arrays, tuple) else [arrays]


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def memory_of(
    actor: Actor, n: int, state: ArrayLike | None, mask: ArrayLike | None
) -> tuple[Tensor, Tensor]:
    """The recurrent state `[N, S]` before a step, and where an episode begins, `[N]` bool.

    Args:
        actor: whose state it is.
        n: number `N` of observations.
        state: as the step before returned it; None for the beginning of an episode.
        mask: `[N]`, true where an episode begins; None for nowhere.

    Raises:
        ValueError: they do not fit.
    """
    size = actor.policy.state_size
    if state is None or size == 0:
        return torch.zeros(n, size), torch.ones(n, dtype=torch.bool)
    given = np.asarray(state)
    if given.size != n * size:
        raise ValueError(
            f"state: an array {list(given.shape)}; each of the {n} observations has {size} numbers"
        )
    before = torch.tensor(given, dtype=torch.float32).reshape(n, size)
    reset = torch.zeros(n, dtype=torch.bool)
    if mask is not None:
        reset = torch.tensor(np.asarray(mask), dtype=torch.bool).reshape(-1)
    if len(reset) != n:
        raise ValueError(f"state, mask: {len(reset)} marks for {n} observations; give one for each")
    return before, reset


def predict(
    actor: Actor,
    observation_space: Space,
    action_space: Space,
    observation: Any,
    state: ArrayLike | None,
    mask: ArrayLike | None,
    rng: torch.Generator | None,
) -> tuple[Any, Array | None]:
    """Actions as the environment takes them, and the next recurrent state `[N, S]`.

    Without `rng` the most probable ones. The state is None for policies without a memory.
    """
    batch, single = batch_of(observation_space, observation)
    before, reset = memory_of(actor, len(batch), state, mask)
    acted = actor.act(batch, reset, before, rng)
    actions = acting(action_space)(acted.actions.numpy())
    return actions[0] if single else actions, acted.state.numpy() if before.shape[1] else None


def action_probability(
    actor: Actor,
    observation_space: Space,
    action_space: Space,
    observation: Any,
    state: ArrayLike | None,
    mask: ArrayLike | None,
    actions: ArrayLike | None,
    logp: bool,
) -> Any:
    """The distribution of the actions, or how likely given ones are: see `Model`."""
    batch, single = batch_of(observation_space, observation)
    before, reset = memory_of(actor, len(batch), state, mask)
    latents, _ = actor.encode(batch, reset, before)
    with torch.no_grad():
        statistics = actor.statistics(latents).cpu()
    distribution = of_logits(actor.distribution)  # that of ACER has an epsilon in its logarithms
    if distribution != actor.distribution:
        statistics = statistics.log()
    if actions is not None:
        given = _actions(action_space, actions, len(batch))
        likely = _log_likelihood(distribution, statistics, action_space, given).numpy()[:, None]
        likely = likely if logp else np.exp(likely)
        return likely[0] if single else likely
    shown = _shown(distribution, statistics, action_space)
    if not single:
        return shown
    return type(shown)(part[0] for part in shown) if isinstance(shown, list | tuple) else shown[0]


def _actions(space: Space, actions: ArrayLike, n: int) -> Array:
    """The given actions as `[N, ...]`; raises ValueError if there are not `n` of the space."""
    shape = space.shape or ()
    given = np.asarray(actions)
    if given.size != n * math.prod(shape):
        raise ValueError(f"actions: an array {list(given.shape)} for {n} observations of {space}")
    given = given.reshape(n, *shape)
    sizes = np.array(factors(space))
    if len(sizes):
        whole = given.dtype.kind in "biu" or (given.dtype.kind == "f" and (given % 1 == 0).all())
        counted = as_acted(space, given).reshape(n, -1) if whole else np.full((n, 1), -1)
        if not ((counted >= 0) & (counted < sizes)).all():
            raise ValueError(f"actions: some are not in {space}")
    return given


def _log_likelihood(
    distribution: Distribution, statistics: Tensor, space: Space, actions: Array
) -> Tensor:
    """Logarithm of the probability, or of the density per unit of the environment; `[N]`."""
    acted = torch.from_numpy(as_acted(space, actions))
    if isinstance(space, spaces.Box):
        _, half_width = action_scale(space)
        # A density counts per unit, and a unit of the policy is half a width.
        return distribution.log_prob(statistics, acted.float()) - float(np.log(half_width).sum())
    return distribution.log_prob(statistics, acted)


def _shown(distribution: Distribution, statistics: Tensor, space: Space) -> Any:
    if isinstance(distribution, Gaussian):
        assert isinstance(space, spaces.Box)
        middle, half_width = action_scale(space)
        mean, log_std = (part.double().numpy() for part in split(statistics))
        shape = (-1, *space.shape)
        means, deviations = middle + half_width * mean, half_width * np.exp(log_std)
        return means.reshape(shape).astype(np.float32), deviations.reshape(shape).astype(np.float32)
    factors = _factors(distribution, statistics)
    if isinstance(space, spaces.Discrete):
        return factors[0]
    if isinstance(space, spaces.MultiBinary):
        return np.stack([each[:, 1] for each in factors], axis=-1).reshape(-1, *space.shape)
    return factors


def _factors(distribution: Distribution, statistics: Tensor) -> list[Array]:
    """Probabilities of the choices of each factor, `[N, A_j]`, whatever the others are."""
    if isinstance(distribution, Factored):
        return [
            p.softmax(-1).numpy() for p in torch.split(statistics, list(distribution.sizes), -1)
        ]
    if not isinstance(distribution, Joint):
        return [statistics.softmax(-1).numpy()]
    together = statistics.softmax(-1).reshape(-1, *distribution.sizes)
    axes = range(1, 1 + len(distribution.sizes))
    if len(distribution.sizes) == 1:
        return [together.numpy()]
    return [together.sum([axis for axis in axes if axis != kept]).numpy() for kept in axes]
