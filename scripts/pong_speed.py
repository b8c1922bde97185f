"""Steps per second of ACER on Pong beside those of its environments alone, in turn, in one process.

python scripts/pong_speed.py --rounds 5
"""

import argparse
import statistics
import time

import numpy as np

from rlrun import config
from rlrun.build import assemble, make_envs

STEPS = 20 * 16  # of one update


def main() -> None:
    """Measure in rounds that alternate, and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    words = ["env=PongNoFrameskip-v4", "algo.replay_start=100"]
    with_replay = assemble(config.check(config.compose(words)))
    without = assemble(config.check(config.compose([*words, "algo.replay_ratio=0"])))
    envs = make_envs(config.compose(words), "speed", 16)
    envs.reset()
    rng = np.random.default_rng(0)
    trainings = {"ACER, replay_ratio 4": with_replay, "ACER, replay_ratio 0": without}
    rates: dict[str, list[float]] = {"environments alone": []} | {name: [] for name in trainings}
    for parts in trainings.values():
        parts.collector.reset()
        for _ in range(6):
            parts.algorithm.update(parts.collector.collect(parts.algorithm.act)[0], 0.0, log=False)
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(100):
            envs.step(rng.integers(0, 6, 16))
        rates["environments alone"].append(1600 / (time.perf_counter() - begin))
        for name, parts in trainings.items():
            begin = time.perf_counter()
            for _ in range(6):
                rollout, _ = parts.collector.collect(parts.algorithm.act)
                parts.algorithm.update(rollout, 0.0, log=False)
            rates[name].append(6 * STEPS / (time.perf_counter() - begin))
    for name, found in rates.items():
        low, high = min(found), max(found)
        print(f"{name}: {statistics.median(found):,.0f} steps/s ({low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()
