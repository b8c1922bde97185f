"""Videos of what a run has learnt."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrun.build import make_envs
from rlrun.envs import BadEnvironment, VectorEnv
from rlrun.envs.registry import find_spec, is_atari
from rlrun.evaluation import loaded
from rlrun.run.console import log_to, say
from rlrun.run.evaluate import evaluate_policy
from rlrun.run.rng import generator
from rlrun.run.signals import stop_on_signals
from rlrun.schema import NonNegativeInt, PositiveInt, UserError

SMALLEST = 240  # pixels of the shorter side: smaller pictures are enlarged by a whole number


def record(
    folder: Path,
    *,
    home: Path,
    checkpoint: str | int = "best",
    episodes: PositiveInt = 1,
    deterministic: bool = True,
    seed: NonNegativeInt | None = None,
    to: str | None = None,
    trust: list[str] | None = None,
) -> int:
    """Play whole episodes with a checkpoint of the run, and write what they look like.

    Args:
        folder: of the run.
        home: folder for the video, unless `to` names one.
        checkpoint: `best` (the newest, if none has been evaluated), `last`, or a step.
        episodes: how many, one after the other.
        deterministic: take the most probable actions instead of drawing them.
        seed: of the episodes; None for the run's own.
        to: name of the video, ending in .mp4 or .gif; None for one that tells the step.
        trust: packages that the stored config may name components of.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run or checkpoint, or it cannot be shown.
    """
    config, parts, step = loaded(folder, checkpoint, seed, trust or [])
    suffix = ".mp4" if _has_ffmpeg() else ".gif"
    path = home / f"step-{step:09d}{suffix}" if to is None else Path(to)
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"to={to}: a video ends in .mp4 or .gif")
    if path.suffix == ".mp4" and not _has_ffmpeg():
        raise UserError("an .mp4 needs a package: pip install 'rlrun[video]'; a .gif does not")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
    envs = make_envs(_rendering(config), "record", 1)
    rng = generator(config["seed"], "record")
    with stop_on_signals() as stop, log_to(None), _video(path, envs.fps) as write:
        try:
            played = evaluate_policy(
                parts.algorithm,
                envs,
                episodes,
                deterministic,
                rng,
                stop,
                show=lambda playing: write(_picture(playing)),
            )
        except BadEnvironment as error:
            raise UserError(str(error)) from error
    if played is None:
        return stop.exit_code
    returns = ", ".join(f"{ret:.1f}" for ret in played.returns)
    say(f"{path}: {config['env']['id']} after {step:,} steps, return {returns}")
    return 0


def _rendering(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with environments that make pictures; games are seen by the policy as such."""
    env = config["env"]
    if env["id"] is None or is_atari(find_spec(env["id"])):
        return dict(config)
    return {**config, "env": {**env, "kwargs": {**env["kwargs"], "render_mode": "rgb_array"}}}


def _picture(envs: VectorEnv) -> NDArray[np.uint8]:
    """What the only environment shows, `[H, W, 3]`, with even sides, as videos need them."""
    shown = envs.render()
    picture = None if shown is None else np.asarray(shown[0])
    if picture is None or picture.ndim != 3:
        raise UserError("this environment makes no pictures (render_mode=rgb_array)")
    times = max(1, -(-SMALLEST // min(picture.shape[:2])))
    picture = picture.repeat(times, axis=0).repeat(times, axis=1)
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[:height, :width], np.uint8)


def _has_ffmpeg() -> bool:
    return importlib.util.find_spec("imageio_ffmpeg") is not None


@contextlib.contextmanager
def _video(path: Path, fps: int) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Takes pictures, all of one size; the file gets its name when it is complete."""
    partial = path.with_name(f".{path.stem}.tmp{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (_mp4 if path.suffix == ".mp4" else _gif)(partial, fps) as write:
            yield write
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _mp4(path: Path, fps: int) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    from imageio_ffmpeg import write_frames  # type: ignore[import-untyped]

    frames: Any = None

    def write(picture: NDArray[np.uint8]) -> None:
        nonlocal frames
        if frames is None:
            size = picture.shape[1], picture.shape[0]
            frames = write_frames(str(path), size, fps=fps, macro_block_size=2)
            frames.send(None)
        frames.send(picture)

    try:
        yield write
    finally:
        if frames is not None:
            frames.close()


@contextlib.contextmanager
def _gif(path: Path, fps: int) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    from PIL import Image

    pictures: list[Image.Image] = []
    # Quantised at once: a long episode in full colour would not fit into memory.
    yield lambda picture: pictures.append(Image.fromarray(picture).quantize(64))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 // fps, loop=0)
