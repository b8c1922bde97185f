"""Trajectories of an expert as stable-baselines 2 keeps them: an archive `.npz`, and pictures.

For the `N` steps of `E` episodes, one after the other, there are

    obs              [N, ...] as observed, classes as [N, 1]; or [N] paths of pictures
    actions          [N, ...] as the environment takes them, classes as [N, 1]
    rewards          [N]; nothing here needs them
    episode_starts   [N] bool, True at the first step of each episode
    episode_returns  [E], the sum of the rewards of each episode

Paths of pictures are relative to the archive or, where it has no such file, to the working folder.
Pictures are PNG or JPEG with 1, 3 (RGB) or 4 channels. The four of an observation are written as
blue, green, red and alpha, whatever they are, for that is what OpenCV takes them for.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrun.run.store import write_atomic

Array = NDArray[Any]

_NEEDED = ("obs", "actions", "episode_starts", "episode_returns")
_CHANNELS = (1, 3, 4)  # of pictures that PNG can hold
_BGRA = [2, 1, 0, 3]  # from RGBA, and back


def with_suffix(path: str | os.PathLike[str]) -> Path:
    """The path of an archive, `.npz` added if it is missing."""
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of a picture `[H, W, C]` or `[C, H, W]` are its channels; None for no picture."""
    if len(shape) == 3:
        return next((axis for axis in (-1, 0) if shape[axis] in _CHANNELS), None)
    return None


def load(path: Path) -> dict[str, Array]:
    """The arrays of an archive, of which none may be pickled.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is something else.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array")
            return {key: archive[key] for key in archive.files if key in (*_NEEDED, "rewards")}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: not an archive of plain arrays ({error}). Pickled arrays are not read, for "
            f"that could run anything; save arrays of numbers with numpy.savez."
        ) from error


def save(path: Path, data: Mapping[str, Array]) -> None:
    """Write an archive, all of it or nothing; its folder exists."""
    archive = io.BytesIO()
    np.savez_compressed(archive, **data)  # type: ignore[arg-type]
    write_atomic(path, archive.getvalue())


def checked(data: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays that are needed, in their shapes.

    Raises:
        ValueError: one is missing, or they do not fit together.
    """
    missing = [key for key in _NEEDED if key not in data]
    if missing:
        raise ValueError(
            f"dataset: {', '.join(missing)} missing; it needs {', '.join(_NEEDED)}, as "
            f"generate_expert_traj writes them"
        )
    keys = [key for key in (*_NEEDED, "rewards") if key in data]
    arrays = {key: np.asarray(data[key]) for key in keys}
    for key, array in arrays.items():
        if array.dtype.kind not in ("biufU" if key == "obs" else "biuf") or array.ndim == 0:
            kinds = "numbers or paths" if key == "obs" else "numbers"
            raise ValueError(f"dataset: {key} has to be an array of {kinds}, not of {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise ValueError(f"dataset: {key}[{row}] is not finite; leave out that episode")
    if arrays["obs"].dtype.kind == "U":
        arrays["obs"] = arrays["obs"].reshape(-1)
    starts = arrays["episode_starts"] = arrays["episode_starts"].reshape(-1).astype(np.bool_)
    arrays["episode_returns"] = arrays["episode_returns"].reshape(-1)
    lengths = {key: len(array) for key, array in arrays.items() if key != "episode_returns"}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        counted = ", ".join(f"{n} {key}" for key, n in lengths.items())
        raise ValueError(f"dataset: {counted}; there has to be one of each per step")
    if not starts[0]:
        raise ValueError("dataset: episode_starts[0] is not True; the first step begins an episode")
    if len(arrays["episode_returns"]) != starts.sum():
        raise ValueError(
            f"dataset: {len(arrays['episode_returns'])} episode_returns, but {starts.sum()} "
            f"episodes begin in episode_starts; there has to be one return per episode"
        )
    return arrays


def read_picture(folder: Path, name: str) -> Array:
    """A picture `[H, W, C]`, uint8; `folder` is that of the archive.

    Raises:
        ValueError: it cannot be read.
    """
    from PIL import Image

    path = folder / name
    if not path.is_file():
        path = Path(name)
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.mode not in ("L", "RGB", "RGBA"):
                raise ValueError(f"its mode is {image.mode}; allowed: L, RGB, RGBA")
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"dataset: the picture {path} cannot be read: {error}") from error
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels[..., _BGRA] if pixels.shape[-1] == 4 else pixels


def write_picture(path: Path, picture: Array, channels: int) -> None:
    """Write an observation, uint8, whose axis `channels` has 1, 3 or 4 channels, as PNG."""
    from PIL import Image

    pixels = np.moveaxis(picture, channels, -1)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    elif pixels.shape[-1] == 4:
        pixels = pixels[..., _BGRA]
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG")
