"""The composition root: from a checked config to the parts of a run."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rlrun import config as configs
from rlrun.algorithms.base import Algorithm
from rlrun.data.collector import Collector
from rlrun.envs import VectorEnv, make_vec
from rlrun.policies.base import Policy
from rlrun.policies.layers import has_picture
from rlrun.policies.moments import normalize
from rlrun.run.rng import generator, stream_seed
from rlrun.schema import UserError


@dataclass
class Parts:
    """What learns and what acts."""

    algorithm: Algorithm
    collector: Collector
    device: torch.device


def assemble(config: Mapping[str, Any]) -> Parts:
    """Build environments, policy, algorithm and collector; nothing is written or reset.

    Sets the number of PyTorch's threads first: the initial weights depend on it in their last bits.

    Raises:
        UserError: they do not fit each other.
    """
    seed, device = config["seed"], choose_device(config["device"])
    envs = make_envs(config, "env", config["env"]["n_envs"])
    try:
        set_threads(config["threads"], envs)
        make_algorithm = configs.instantiate(config["algo"], "algo")
        settings = make_algorithm.keywords
        heads = make_algorithm.func.heads(envs.action_space, settings)  # type: ignore[attr-defined]
        make_policy = configs.instantiate(config["policy"], "policy")
        lr_schedule = configs.instantiate(config["lr_schedule"], "lr_schedule")
        rng = generator(seed, "replay")
        with enough_memory(envs):
            policy: Policy = make_policy(envs.observation_space, heads, generator(seed, "init"))
            if config["env"]["normalize_observations"]:
                policy.features = normalize(policy.features, envs.observation_space)
            algorithm: Algorithm = make_algorithm(policy.to(device), envs, rng, lr_schedule)
        clip = config["env"]["clip_rewards"]
        rng = generator(seed, "action")
        sizes = algorithm.n_steps, algorithm.n_statistics, algorithm.state_size
        collector = Collector(envs, *sizes, clip, rng)
    except BaseException:
        envs.close()
        raise
    return Parts(algorithm, collector, device)


@contextmanager
def enough_memory(envs: VectorEnv) -> Iterator[None]:
    """Tell what takes memory where there is not enough of it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise UserError(
            f"there is not enough memory for policy and algorithm: lower algo.buffer_size (steps "
            f"per environment, if it replays), env.n_envs or the widths under policy; the network "
            f"has inputs for {envs.observation_space} and outputs for {envs.action_space}"
        ) from error


def make_envs(config: Mapping[str, Any], stream: str, n_envs: int) -> VectorEnv:
    """Environments of the run whose episodes are seeded by the named stream."""
    env = config["env"]
    return make_vec(env["id"], n_envs, stream_seed(config["seed"], stream), env["kwargs"])


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name} is not to be had here; use device=cpu") from error


def set_threads(threads: int | None, envs: VectorEnv) -> None:
    """Threads of PyTorch: as many as asked for; else all cores for pictures, one for vectors.

    Work as small as that of vectors loses more by handing it to threads than it gains.

    Raises:
        UserError: so many threads that the process would not survive it.
    """
    if threads is not None and threads > (most := 16 * (os.cpu_count() or 1)):
        raise UserError(f"threads: {threads} is more than this machine bears; at most {most}")
    pictures = has_picture(envs.observation_space)
    torch.set_num_threads(threads or (len(os.sched_getaffinity(0)) if pictures else 1))
