"""The weights of a policy by name, as arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rlrun.policies.actor import Actor


def get(actor: Actor) -> dict[str, NDArray[np.float32]]:
    """Copies of all weights of the acting network and its critic, in a fixed order.

    The moments of `normalize_observations` are among them; averages and optimisers are not.
    """
    return {name: value.cpu().numpy().copy() for name, value in actor.state_dict().items()}


def load(
    actor: Actor, given: Mapping[str, ArrayLike] | Sequence[ArrayLike], exact_match: bool
) -> None:
    """Put weights in; if something is wrong with any of them, none is changed.

    Args:
        actor: takes them.
        given: by name, or all of them in the order of `get`.
        exact_match: whether all have to be there.

    Raises:
        KeyError: a name that the actor does not have.
        RuntimeError: one is missing, and `exact_match`.
        ValueError: one has another shape.
    """
    own = actor.state_dict()
    if not isinstance(given, Mapping):
        if len(given) > len(own):
            raise ValueError(f"{len(given)} arrays are given, and the model has {len(own)}")
        given = dict(zip(own, given, strict=False))
    unknown = [name for name in given if name not in own]
    if unknown:
        raise KeyError(f"{', '.join(unknown)}: the model has {', '.join(own)}")
    missing = [name for name in own if name not in given]
    if missing and exact_match:
        raise RuntimeError(f"missing: {', '.join(missing)}; exact_match=False leaves them alone")
    new = {name: _tensor(name, value) for name, value in given.items()}
    for name, value in new.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{name} has the shape {list(value.shape)}; the model's has {list(own[name].shape)}"
            )
    actor.load_state_dict(new, strict=False)


def _tensor(name: str, value: ArrayLike | torch.Tensor) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: an array of {array.dtype}; weights are numbers")
    return torch.as_tensor(array)
