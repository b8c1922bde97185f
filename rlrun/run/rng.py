"""Random numbers: named streams made from the run's seed, none from module-level generators."""

import zlib

import numpy as np
import torch


def stream_seed(seed: int, name: str) -> int:
    """A seed in [0, 2^63) of the stream `name` of a run, far from those of all other streams."""
    words = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of the stream `name` (`init`, `action`, `replay`, ...) of a run."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name))
