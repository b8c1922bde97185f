"""Steps per second on Pong beside those of the environments alone, in turn, in one process.

    python scripts/pong_speed.py --rounds 5 --only a2c acktr

Each training runs with 16 environments x 20 steps.
"""

import argparse
import statistics
import time

import numpy as np

from rlrun import config
from rlrun.build import assemble, make_envs

ENVS, STEPS = 16, 20
REFERENCE = "algo=acktr algo.damping_rule=exact algo.conv_factors=expand"
TRAININGS = {
    "acer, replay_ratio 4": "algo=acer algo.replay_start=100",
    "acer, replay_ratio 0": "algo=acer algo.replay_ratio=0",
    "a2c": "algo=a2c algo.n_steps=20",
    "acktr, kfac_update 10": "algo=acktr",
    "acktr, kfac_update 1": "algo=acktr algo.kfac_update=1",
    "acktr, exact and expand, kfac_update 10": REFERENCE,
    "acktr, exact and expand, kfac_update 1": f"{REFERENCE} algo.kfac_update=1",
}


class Contestant:
    """A training that can go on for a few updates, past its cold start."""

    def __init__(self, words: str) -> None:
        fixed = ["env=PongNoFrameskip-v4", f"env.n_envs={ENVS}", "total_timesteps=10000000"]
        self.config = config.check(config.compose([*fixed, *words.split()]))
        if self.config["algo"]["_target_"].endswith("ACKTR"):
            self.config["algo"]["cold_iter"] = 1
        self.parts = assemble(self.config)
        self.parts.collector.reset()
        self.learn(6)

    def learn(self, updates: int) -> float:
        """Steps per second over some updates."""
        collector, algorithm = self.parts.collector, self.parts.algorithm
        begin = time.perf_counter()
        for _ in range(updates):
            algorithm.update(collector.collect(algorithm.act), 0.0, log=False)
        return updates * ENVS * STEPS / (time.perf_counter() - begin)


def main() -> None:
    """Measure in rounds that alternate, and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[""], help="words that the names begin with")
    arguments = parser.parse_args()
    chosen = [name for name in TRAININGS if name.startswith(tuple(arguments.only))]
    trainings = {name: Contestant(TRAININGS[name]) for name in chosen}
    envs = make_envs(next(iter(trainings.values())).config, "speed", ENVS)
    envs.reset()
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {"environments alone": []} | {name: [] for name in chosen}
    for _ in range(arguments.rounds):
        begin = time.perf_counter()
        for _ in range(100):
            envs.step(rng.integers(0, 6, ENVS))
        rates["environments alone"].append(100 * ENVS / (time.perf_counter() - begin))
        for name, contestant in trainings.items():
            rates[name].append(contestant.learn(5))
    for name, found in rates.items():
        low, high = min(found), max(found)
        print(f"{name}: {statistics.median(found):,.0f} steps/s ({low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()
