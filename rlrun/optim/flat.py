"""Many small tensors as one vector, for work that would cost a call for each of them."""

from collections.abc import Iterable, Sequence

from torch import Tensor, _utils


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    """All numbers of these, one after the other; in a copy, unless it is one tensor alone."""
    vector: Tensor = _utils._flatten_dense_tensors(list(tensors))  # type: ignore[no-untyped-call]
    return vector


def parts(vector: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inverse: views of the vector, in the shapes of `like`."""
    views: tuple[Tensor, ...] = _utils._unflatten_dense_tensors(vector, like)  # type: ignore[no-untyped-call]
    return views
