"""Recording what an expert does, as a dataset to learn from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlrun.api.envs import use
from rlrun.api.imitation.trajectories import channel_axis, save, with_suffix, write_picture
from rlrun.run.store import make_folder

if TYPE_CHECKING:
    import os

Array = NDArray[Any]
Env = gymnasium.Env[Any, Any]
Act = Callable[[Any, NDArray[np.bool_]], Any]
"""From what the environment shows, and which of its observations begin an episode, to actions."""


@runtime_checkable
class Expert(Protocol):
    """A model that acts, such as the ones of rlrun."""

    def predict(
        self, observation: Any, state: Any, mask: Any, deterministic: bool
    ) -> tuple[Any, Any]:
        """Actions, and the state after them."""


class _Step(NamedTuple):
    observation: Array
    action: Array
    reward: float
    ended: bool


def generate_expert_traj(
    model: Any,
    save_path: str | os.PathLike[str] | None = None,
    env: Env | VectorEnv[Any, Any, Any] | str | None = None,
    n_timesteps: int = 0,
    n_episodes: int = 100,
    image_folder: str = "recorded_images",
    deterministic: bool = False,
) -> dict[str, Array]:
    """Let an expert play whole episodes and record them as `ExpertDataset` reads them.

    Pictures (uint8, with 1, 3 or 4 channels, first or last) that are to be saved become PNG files
    in a folder beside the archive, which holds their paths relative to itself.

    Args:
        model: a model, or a function from what the environment shows to what it takes (of a vector
            of environments: whole batches).
        save_path: of the archive; `.npz` is added if it is missing. None to save nothing.
        env: where to play, its id, or None for the model's own; of a vector of environments only
            the first is recorded. It is reset, and left open unless it was made from an id.
        n_timesteps: train the model for so many steps first.
        n_episodes: how many to record.
        image_folder: of the pictures, beside the archive.
        deterministic: let a model take its most probable actions instead of drawing them.

    Returns:
        The arrays `actions`, `obs`, `rewards`, `episode_returns` and `episode_starts` as
        `rlrun.api.imitation.trajectories` tells them; paths of pictures are relative to the
        working folder.

    Raises:
        TypeError: `model` can neither predict nor be called.
        ValueError: there is nothing to play in, the environment's spaces cannot be recorded, or
            the numbers make no sense.
    """
    is_model = isinstance(model, Expert)
    if not is_model and not callable(model):
        raise TypeError(f"model: {type(model).__name__} neither has `predict` nor can be called")
    if n_timesteps > 0 and not is_model:
        raise ValueError("n_timesteps: a function cannot be trained; leave it at 0")
    if n_timesteps < 0 or n_episodes < 1:
        raise ValueError(
            f"n_timesteps={n_timesteps} is below 0, or n_episodes={n_episodes} below 1"
        )
    with _stage(model, env) as stage:
        many = isinstance(stage, VectorEnv)
        observed = stage.single_observation_space if many else stage.observation_space
        acted = stage.single_action_space if many else stage.action_space
        _refuse(observed, acted)
        path = None if save_path is None else with_suffix(save_path)
        axis = channel_axis(observed.shape) if observed.dtype == np.uint8 else None
        pictures = None
        if path is not None:
            make_folder(path.parent)
            if axis is not None:
                pictures = _Pictures(path, image_folder, axis)
        if n_timesteps > 0:
            model.learn(n_timesteps)
        act = _by_model(model, deterministic) if is_model else lambda shown, _: model(shown)
        steps = _play_vector(stage, act) if many else _play(stage, act)
        data = _record(steps, n_episodes, observed, acted, pictures)
    if path is not None:
        save(path, data)
        if pictures is not None:
            data["obs"] = np.array([str(path.parent / name) for name in data["obs"]])
    return data


@contextlib.contextmanager
def _stage(model: Any, env: Any) -> Iterator[Any]:
    """Where to play: what is given, made from an id, or the model's own."""
    if isinstance(env, str):
        with contextlib.closing(gymnasium.make(env)) as made:
            yield made
        return
    if env is None and hasattr(model, "get_env"):
        env = model.get_env()
    if env is None:
        raise ValueError("env: there is no environment to play in; give one, or its id")
    use(env)
    yield env


def _refuse(observed: spaces.Space[Any], acted: spaces.Space[Any]) -> None:
    """Raise ValueError if one of the spaces cannot be recorded."""
    simple = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    for what, space in (("observations", observed), ("actions", acted)):
        if not isinstance(space, simple):
            raise ValueError(
                f"env: {what} of {space} cannot be recorded; allowed: Box, Discrete, MultiDiscrete "
                f"and MultiBinary. Turn it into a Box with gymnasium.wrappers."
            )


def _by_model(model: Expert, deterministic: bool) -> Act:
    """How a model acts; it keeps its state from step to step."""
    state = None

    def act(shown: Any, begins: NDArray[np.bool_]) -> Any:
        nonlocal state
        state = None if begins.all() else state
        actions, state = model.predict(shown, state, begins, deterministic)
        return actions

    return act


def _play(env: Env, act: Act) -> Iterator[_Step]:
    """The steps of one environment, episode after episode."""
    while True:
        shown, _ = env.reset()
        begins, ended = np.ones(1, np.bool_), False
        while not ended:
            observation = np.array(shown)  # a copy: the environment may go on writing into it
            action = act(shown, begins)
            shown, reward, terminated, truncated, _ = env.step(action)
            begins, ended = np.zeros(1, np.bool_), bool(terminated or truncated)
            yield _Step(observation, np.array(action), float(reward), ended)


def _play_vector(env: VectorEnv[Any, Any, Any], act: Act) -> Iterator[_Step]:
    """The steps of the first of several environments, which all are acted in."""
    try:
        mode = AutoresetMode(env.metadata.get("autoreset_mode"))
    except ValueError:
        raise ValueError(
            "env: it does not tell how it begins new episodes; set its "
            "metadata['autoreset_mode'] to one of gymnasium.vector.AutoresetMode"
        ) from None
    shown, _ = env.reset()
    begins = np.ones(env.num_envs, np.bool_)
    waiting = np.zeros(env.num_envs, np.bool_)  # the next step only resets, whatever the action
    while True:
        observation = np.array(shown[0])
        actions = act(shown, begins)
        shown, rewards, terminated, truncated, _ = env.step(actions)
        begins = (terminated | truncated) & ~waiting
        if not waiting[0]:
            yield _Step(observation, np.array(actions[0]), float(rewards[0]), bool(begins[0]))
        if mode is AutoresetMode.NEXT_STEP:
            begins, waiting = waiting, begins
        elif mode is AutoresetMode.DISABLED and begins.any():
            shown, _ = env.reset(options={"reset_mask": begins})


class _Pictures:
    """Writes pictures beside the archive `path`, named after it so that others are left alone.

    An archive that is there is removed, for its pictures are overwritten one by one.
    """

    def __init__(self, path: Path, folder: str, channels: int) -> None:
        self._beside = path.parent
        self._name = f"{folder}/{path.stem}-{{}}.png"
        self._channels = channels
        self._count = 0
        path.unlink(missing_ok=True)
        make_folder(self._beside / folder)

    def write(self, picture: Array) -> str:
        """The path of a picture, relative to the archive."""
        name = self._name.format(self._count)
        write_picture(self._beside / name, picture, self._channels)
        self._count += 1
        return name


def _record(
    steps: Iterator[_Step],
    n_episodes: int,
    observed: spaces.Space[Any],
    acted: spaces.Space[Any],
    pictures: _Pictures | None,
) -> dict[str, Array]:
    """The first episodes of what is played."""
    observations: list[Any] = []
    actions: list[Array] = []
    rewards: list[float] = []
    starts: list[bool] = [True]
    returns: list[float] = []
    first = 0  # step of this episode
    for observation, action, reward, ended in steps:
        observations.append(pictures.write(observation) if pictures else observation)
        actions.append(action)
        rewards.append(reward)
        starts.append(ended)
        if ended:
            returns.append(math.fsum(rewards[first:]))
            first = len(rewards)
            if len(returns) == n_episodes:
                break
    return {
        "actions": _rows(actions, acted),
        "obs": np.array(observations) if pictures else _rows(observations, observed),
        "rewards": np.array(rewards),
        "episode_returns": np.array(returns),
        "episode_starts": np.array(starts[:-1]),
    }


def _rows(values: list[Array], space: spaces.Space[Any]) -> Array:
    """`[N, *space.shape]` in the dtype of the space; `[N, 1]` for classes."""
    return np.array(values, dtype=space.dtype).reshape(-1, *(space.shape or (1,)))
