"""A device that is only pretended: what would make the host wait for a GPU, seen on the CPU."""

import sys
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlrun import transfer
from rlrun.data.rollout import Rollout
from rlrun.functional import returns

WAITS = {
    "aten::_local_scalar_dense",  # item(), bool(), int(), float()
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::repeat_interleave.Tensor",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::_linalg_check_errors",
}
INDEXED = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class Device(TorchDispatchMode):
    """Knows which tensors are there, and writes down what waits for them.

    What is computed from a tensor that is there is there; all else is on the host. Tensors of both
    in one operation, but for scalars, are an error on a GPU or a hidden transfer.
    """

    def __init__(self):
        super().__init__()
        self.there = {}  # kept alive, or another storage might take the place
        self.waits = []

    def put(self, *tensors):
        for tensor in tensors:
            self.there[tensor.untyped_storage()._cdata] = tensor
        return tensors[0] if tensors else None

    def has(self, tensor):
        return tensor.untyped_storage()._cdata in self.there

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in inputs if self.has(x)]
        name = func._schema.name
        if there:
            if name in WAITS:
                self.waits.append(name)
            if name in INDEXED and any(
                x.dtype in (torch.bool, torch.uint8) for x in args[1] if x is not None
            ):
                self.waits.append(f"{name} by a mask")
            strangers = [x for x in inputs if not self.has(x) and x.dim() and x.numel()]
            if strangers:
                self.waits.append(f"{name} with {[list(x.shape) for x in strangers]} of the host")
        result = func(*args, **kwargs)
        # What a backward pass makes from nothing, it makes where the gradients are.
        backward = torch._C._current_graph_task_id() != -1
        if (backward and not inputs) or (there and (backward or kwargs.get("device") is None)):
            self.put(*(x for x in tree_leaves(result) if isinstance(x, Tensor)))
        return result


@contextmanager
def pretended(monkeypatch, device):
    """Inside, tensors that are sent are on the pretended device."""
    original = transfer.sent

    def sent(tensor, _):
        return tensor if device.has(tensor) else device.put(tensor.clone())

    def to(rollout, _):
        observations = rollout.observations_on(torch.device("cpu"))
        others = {name: sent(t, None) for name, t in rollout.tensors().items()}
        return Rollout(**others | {"observations": observations})

    def one_hot(index, classes):  # that of the CPU looks whether all are in range
        return index.new_zeros(*index.shape, classes).scatter(-1, index.unsqueeze(-1), 1)

    def watched(name):
        function = getattr(Tensor, name)

        def watch(tensor, *args, **kwargs):
            if device.has(tensor):
                device.waits.append(name)
            return function(tensor, *args, **kwargs)

        return watch

    with monkeypatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("rlrun.") and getattr(module, "sent", None) is original:
                patch.setattr(module, "sent", sent)
        patch.setattr(Rollout, "to", to)
        patch.setattr(returns, "_following_by_numpy", returns._following_by_torch)
        patch.setattr(functional, "one_hot", one_hot)
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(Tensor, name, watched(name))
        with device:
            yield
