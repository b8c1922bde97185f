"""What is measured: environments, networks and settings, as words of rlrun's command line.

Every contestant has the settings that rlrun ships for the environment, with these exceptions:

- 20 steps per segment for all, A2C and the peer's A2C included;
- on Pong all have the network of Mnih et al. with 64 filters in the third convolution, as the
  peer has; ACKTR's settings for Atari have 32 there, and `acktr-10-shipped` is measured too;
- ACKTR's cold start is one update long, so that what is measured comes after it, and ACER
  replays from the first segment on.
"""

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

A2C = "algo=a2c algo.n_steps=20"
ACKTR = "algo=acktr algo.cold_iter=1"
CONTESTANTS = {
    "a2c": A2C,
    "acer-0": "algo=acer algo.replay_ratio=0",
    "acer-4": "algo=acer algo.replay_ratio=4 algo.replay_start=0",
    "acktr-1": f"{ACKTR} algo.kfac_update=1",
    "acktr-1-async": f"{ACKTR} algo.kfac_update=1 algo.async_eigen_decomp=true",
    "acktr-10": f"{ACKTR} algo.kfac_update=10",
    "acktr-10-async": f"{ACKTR} algo.kfac_update=10 algo.async_eigen_decomp=true",
}
NARROW = {"acktr-10-shipped": f"{ACKTR} algo.kfac_update=10 policy.filters=[32,64,32]"}


@dataclass(frozen=True)
class Work:
    """One environment with one kind of network."""

    words: str
    contestants: dict[str, str]
    """Words of each, by its name."""
    peers: tuple[str, ...]
    needs: str | None = None
    """A module that rlrun does without."""

    def skipped(self) -> str | None:
        """Why it cannot be measured here, if so."""
        if self.needs is None or importlib.util.find_spec(self.needs) is not None:
            return None
        return f"skipped: {self.needs} is not installed"


_PONG = "env=PongNoFrameskip-v4 policy.filters=[32,64,64] env.n_envs="
_ADVANTAGE = {name: words for name, words in CONTESTANTS.items() if not name.startswith("acer")}
_PEERS = ("sb3-a2c", "sb3-ppo")
WORKS = {
    "pong": Work(f"{_PONG}16", CONTESTANTS | NARROW, _PEERS),
    "pong-32": Work(f"{_PONG}32", _ADVANTAGE | NARROW, _PEERS),
    "cartpole-4": Work("env=CartPole-v1 env.n_envs=4", CONTESTANTS, (*_PEERS, "sb3-a2c-5-steps")),
    "cartpole-16": Work("env=CartPole-v1 env.n_envs=16", CONTESTANTS, (*_PEERS, "sb3-a2c-5-steps")),
    "halfcheetah": Work("env=HalfCheetah-v5 env.n_envs=8", CONTESTANTS, _PEERS, needs="mujoco"),
    "pong-lstm": Work(f"{_PONG}16 policy=lstm", CONTESTANTS, _PEERS),
}
YARDSTICK = "sb3-a2c"


def named(names: Collection[str], only: Collection[str]) -> list[str]:
    """Those of the names that are meant by `only`: itself, or all that begin so; empty for all."""
    return [
        name
        for name in names
        if not only
        or any(name == word or (word not in names and name.startswith(word)) for word in only)
    ]


def in_variants(
    contestants: Mapping[str, str], words: Sequence[str], variants: Mapping[str, str]
) -> dict[str, list[str]]:
    """Words of each contestant by its name, without and with those of each variant.

    Args:
        contestants: their own words.
        words: that all take; they win over the contestants' own.
        variants: more words, by the label that is put behind a name; they win over all.
    """
    labelled = {"": "", **{f" {label}": more for label, more in variants.items()}}
    return {
        name + label: [*own.split(), *words, *more.split()]
        for name, own in contestants.items()
        for label, more in labelled.items()
    }
