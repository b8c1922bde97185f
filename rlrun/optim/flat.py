"""Many small tensors as one vector, for work that would cost a call for each of them."""

from collections.abc import Iterable, Sequence

from torch import Tensor, _utils


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    """All numbers of these, one after the other, in a copy."""
    several = list(tensors)
    vector: Tensor = _utils._flatten_dense_tensors(several)  # type: ignore[no-untyped-call]
    return vector.clone() if len(several) == 1 else vector  # of one tensor alone it is a view


def parts(vector: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inverse: views of the vector, in the shapes of `like`."""
    views: tuple[Tensor, ...] = _utils._unflatten_dense_tensors(vector, like)  # type: ignore[no-untyped-call]
    return views
