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
from rlrun.envs import Interface, VectorEnv, make_vec
from rlrun.policies.base import Policy
from rlrun.policies.encoder import policy_maker
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

    Raises:
        UserError: they do not fit each other.
    """
    envs = make_envs(config, "env", config["env"]["n_envs"])
    try:
        algorithm = make_algorithm(config, envs.interface, generator(config["seed"], "replay"))
        collector = make_collector(config, envs, algorithm, generator(config["seed"], "action"))
    except BaseException:
        envs.close()
        raise
    return Parts(algorithm, collector, choose_device(config["device"]))


def make_algorithm(
    config: Mapping[str, Any],
    envs: Interface,
    rng: torch.Generator,
    given: configs.Given | None = None,
) -> Algorithm:
    """The algorithm with its policy, which starts as the config's seed says.

    Sets the number of PyTorch's threads first: the initial weights depend on it in their last bits.

    Args:
        config: checked.
        envs: what it is to learn from.
        rng: the algorithm's own.
        given: classes and functions that are taken in place of those that the config names.

    Raises:
        UserError: they do not fit each other.
    """
    device = choose_device(config["device"])
    set_threads(config["threads"], envs)
    make = configs.instantiate(config["algo"], "algo")
    heads = make.func.heads(envs.action_space, make.keywords)  # type: ignore[attr-defined]
    make_policy = policy_maker(configs.instantiate(config["policy"], "policy", given))
    lr_schedule = configs.instantiate(config["lr_schedule"], "lr_schedule", given)
    with enough_memory(envs):
        policy: Policy = make_policy(
            envs.observation_space, heads, generator(config["seed"], "init")
        )
        if config["env"]["normalize_observations"]:
            policy.features = normalize(policy.features, envs.observation_space)
        policy.autocast = torch.bfloat16 if config["precision"] == "bf16" else None
        algorithm: Algorithm = make(policy.to(device), envs, rng, lr_schedule)
    if config["compile"] != "none":
        algorithm.compile(config["compile"])
    return algorithm


def make_collector(
    config: Mapping[str, Any], envs: VectorEnv, algorithm: Algorithm, rng: torch.Generator
) -> Collector:
    """What acts in the environments, by draws of `rng`."""
    sizes = algorithm.n_steps, algorithm.n_statistics, algorithm.state_size
    clip_rewards, device = config["env"]["clip_rewards"], algorithm.actor.device
    return Collector(envs, *sizes, clip_rewards, rng, device)


@contextmanager
def enough_memory(envs: Interface) -> Iterator[None]:
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
    """Environments of the run whose episodes are seeded by the named stream.

    Raises:
        UserError: it has none of an id, or they cannot be made.
    """
    env = config["env"]
    if env["id"] is None:
        raise UserError(
            "env.id: null: this model was trained in an environment object that has no id; load "
            "it in Python, with an environment: ACER.load(path, env=my_env)"
        )
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


def set_threads(threads: int | None, envs: Interface) -> None:
    """Threads of PyTorch: as many as asked for; else all cores for pictures, one for vectors.

    Work as small as that of vectors loses more by handing it to threads than it gains.

    Raises:
        UserError: so many threads that the process would not survive it.
    """
    if threads is not None and threads > (most := 16 * (os.cpu_count() or 1)):
        raise UserError(f"threads: {threads} is more than this machine bears; at most {most}")
    pictures = has_picture(envs.observation_space)
    torch.set_num_threads(threads or (len(os.sched_getaffinity(0)) if pictures else 1))
