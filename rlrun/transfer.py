"""From the memory of the host to where a network is, without waiting for it."""

import torch
from torch import Tensor

CPU = torch.device("cpu")


def pinned(device: torch.device) -> bool:
    """Is it a GPU that can read memory of the host by itself, where that is pinned?"""
    return device.type == "cuda"


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; itself, if it is there.

    On its way to a GPU it is copied twice, first to pinned memory: from there the GPU fetches it in
    the order of the current stream, while the host goes on, and `tensor` may change at once. One
    that is pinned already must stay as it is until the GPU has come so far.
    """
    # PyTorch's allocator of pinned memory does not give it away again before the copy is done.
    if pinned(device) and tensor.device.type == "cpu" and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
