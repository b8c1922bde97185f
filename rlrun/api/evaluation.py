"""How good a model is: the returns of whole episodes, played without learning.

Three kinds of batches differ in when an environment begins its next episode: in the step that
ends one (SAME_STEP), in a step of its own that does nothing else (NEXT_STEP), or when told to
(DISABLED). All give the same episodes here.

Environments may say in their infos which episodes are over, with raw returns and lengths, as
Gymnasium's RecordEpisodeStatistics does. That is taken instead of sums of rewards. Ours always
do: where they terminate without saying so, a life is lost (Atari) and the game goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, overload

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from rlrun.api.envs import use
from rlrun.envs.batch import Environments

Env = gymnasium.Env[Any, Any]
Envs = gymnasium.vector.VectorEnv[Any, Any, Any]
Callback = Callable[[dict[str, Any], dict[str, Any]], object]

_SIDE_BY_SIDE = 10  # environments made from an id
_SEED = 1_618_033_988  # of their episodes: the same for all models, and far from usual seeds


class Predictor(Protocol):
    """Whatever acts like a model."""

    def predict(
        self, observation: Any, state: Any, mask: NDArray[np.bool_], deterministic: bool, /
    ) -> tuple[Any, Any]:
        """Actions of a batch, and the state of a memory after them.

        mask: `[n]`, True where an episode begins; state: None at the very first step.
        """


@overload
def evaluate_policy(
    model: Predictor,
    env: str | Env | Envs,
    n_eval_episodes: int = ...,
    deterministic: bool = ...,
    render: bool = ...,
    callback: Callback | None = ...,
    reward_threshold: float | None = ...,
    return_episode_rewards: Literal[False] = ...,
) -> tuple[float, float]: ...


@overload
def evaluate_policy(
    model: Predictor,
    env: str | Env | Envs,
    n_eval_episodes: int = ...,
    deterministic: bool = ...,
    render: bool = ...,
    callback: Callback | None = ...,
    reward_threshold: float | None = ...,
    *,
    return_episode_rewards: Literal[True],
) -> tuple[list[float], list[int]]: ...


def evaluate_policy(
    model: Predictor,
    env: str | Env | Envs,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Callback | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """Play whole episodes and give their raw returns.

    Each environment of a batch plays a share fixed beforehand, so that short episodes are not
    preferred: of 10 episodes in 4 environments, the first two play 3 and the others 2.

    Args:
        model: acts; it is not changed.
        env: an id, an environment, or a batch of environments. Batches from an id play the same
            episodes each time and are closed at the end. Others are reset, go on with their own
            generators (`env.reset(seed=...)` before makes them repeatable) and are left open.
        n_eval_episodes: how many, >= 1.
        deterministic: take the most probable actions instead of drawing them.
        render: draw after each step; the environment needs a `render_mode`. From an id, one
            environment is made that a window shows.
        callback: called with `locals` and `globals` after each step. `locals` has `model`, `env`,
            `actions` and what they led to: `observations`, `rewards`, `terminated`, `truncated`,
            `infos`, `states`, and the episodes until now, `episode_rewards` and
            `episode_lengths`, a list for each environment.
        reward_threshold: the mean return has to be above it.
        return_episode_rewards: give the returns and lengths of all episodes, not mean and
            standard deviation. Episode k was played by environment k mod n.

    Raises:
        ValueError: the mean return is not above the threshold, `n_eval_episodes` is below 1, or
            the environment cannot be drawn.
        TypeError: `env` is something else.
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes has to be at least 1, not {n_eval_episodes}")
    use(env)
    with _as_batch(env, n_eval_episodes, render) as envs:
        played = _play(model, envs, n_eval_episodes, deterministic, render, callback)
    returns, lengths = [ret for ret, _ in played], [length for _, length in played]
    mean = float(np.mean(returns))
    if reward_threshold is not None and not mean > reward_threshold:
        raise ValueError(
            f"the mean return of {n_eval_episodes} episodes is {mean:.2f}, not above the "
            f"reward_threshold of {reward_threshold:.2f}"
        )
    if return_episode_rewards:
        return returns, lengths
    return mean, float(np.std(returns))


class _LeftOpen(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps a batch around a single environment from closing it: it belongs to someone else."""

    def close(self) -> None:
        pass


class _Options(dict[str, Any]):
    """Keeps what is popped.

    Gymnasium's RecordEpisodeStatistics reads the mask after the batch inside has popped it, and
    would take the reset of one environment for a reset of all.
    """

    def pop(self, key: str, *default: Any) -> Any:
        return self.get(key, *default)


@contextmanager
def _as_batch(env: str | Env | Envs, episodes: int, render: bool) -> Iterator[Envs]:
    if isinstance(env, gymnasium.vector.VectorEnv):
        yield env
    elif isinstance(env, gymnasium.Env):
        if render and env.render_mode is None:
            raise ValueError(
                "render=True needs an environment that can be drawn; make it with a mode, e.g. "
                'gymnasium.make(id, render_mode="human")'
            )
        yield SyncVectorEnv([lambda: _LeftOpen(env)], autoreset_mode=AutoresetMode.DISABLED)
    elif isinstance(env, str):
        from rlrun.api.envs import make_vec_env

        if render:
            made = make_vec_env(env, 1, seed=_SEED, env_kwargs={"render_mode": "human"})
        else:
            made = make_vec_env(env, min(_SIDE_BY_SIDE, episodes), seed=_SEED)
        try:
            yield made
        finally:
            made.close()
    else:
        raise TypeError(
            "env has to be an id, a gymnasium.Env or a gymnasium.vector.VectorEnv, not "
            f"{type(env).__name__}"
        )


def _play(
    model: Predictor,
    envs: Envs,
    episodes: int,
    deterministic: bool,
    render: bool,
    callback: Callback | None,
) -> list[tuple[float, int]]:
    """Return and length of each episode; episode k was played by environment k mod n."""
    n = envs.num_envs
    mode = _mode(envs)
    shares = [len(range(env, episodes, n)) for env in range(n)]
    returns: list[list[float]] = [[] for _ in range(n)]
    lengths: list[list[int]] = [[] for _ in range(n)]
    ret, length = np.zeros(n), np.zeros(n, np.int64)  # of the episodes under way
    idle = np.zeros(n, np.bool_)  # the next step only resets
    begins = np.ones(n, np.bool_)
    observations, _ = envs.reset()
    states: Any = None
    while any(len(done) < share for done, share in zip(returns, shares, strict=True)):
        actions, states = model.predict(observations, states, begins, deterministic)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        ret += np.where(idle, 0.0, rewards)
        length += ~idle
        over, reported = _over(envs, infos, np.logical_or(terminated, truncated))
        for env in np.flatnonzero(over).tolist():
            if reported is not None:
                ret[env], length[env] = reported["r"][env], reported["l"][env]
            returns[env].append(float(ret[env]))
            lengths[env].append(int(length[env]))
        ret[over], length[over] = 0.0, 0
        begins = over
        if mode is AutoresetMode.NEXT_STEP:
            begins, idle = idle, over
        elif mode is AutoresetMode.DISABLED and over.any():
            observations, _ = envs.reset(options=_Options(reset_mask=over))
        if callback is not None:
            told = {
                "model": model,
                "env": envs,
                "actions": actions,
                "observations": observations,
                "rewards": rewards,
                "terminated": terminated,
                "truncated": truncated,
                "infos": infos,
                "states": states,
                "episode_rewards": returns,
                "episode_lengths": lengths,
            }
            callback(told, globals())
        if render and envs.render_mode != "human":  # which draws by itself
            envs.render()
    return [(returns[k % n][k // n], lengths[k % n][k // n]) for k in range(episodes)]


def _mode(envs: Envs) -> AutoresetMode:
    # Before Gymnasium 1.4 all batches of one class of environments share their metadata.
    known = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    return AutoresetMode(getattr(envs.unwrapped, "autoreset_mode", known))


def _over(
    envs: Envs, infos: Mapping[str, Any], done: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Mapping[str, Any] | None]:
    """Which episodes are over, and their returns and lengths where the environments say them.

    A batch that resets in the same step keeps what its environments say of the step before the
    reset in `final_info`.
    """
    for said in (infos, infos.get("final_info", {})):
        if "_episode" in said:
            return np.array(said["_episode"], np.bool_), said["episode"]
    if isinstance(envs.unwrapped, Environments):
        return np.zeros_like(done), None
    return done, None
