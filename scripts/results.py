"""Train what outputs/results/README.md reports, and write its table from the finished runs.

    python scripts/results.py run cartpole acrobot --jobs 2
    python scripts/results.py table

Each experiment is the command `rlrun OVERRIDES seed=N` for a few seeds, run in this folder; what
is finished already is not run again.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RESULTS = Path("outputs/results")
_WRITING = threading.Lock()
WINDOW = 100  # episodes of the rolling mean that has to reach a threshold


@dataclass(frozen=True)
class Experiment:
    """A command, its seeds, and the return to reach."""

    title: str
    overrides: str
    seeds: int
    threshold: float


CARTPOLE = "env=CartPole-v1 experiment=seed_example"
ACROBOT = "env=Acrobot-v1 total_timesteps=100000"
EXPERIMENTS = {
    "cartpole": Experiment("CartPole-v1, tuned (plain `rlrun`)", "", 5, 475),
    "cartpole-25k": Experiment(
        "CartPole-v1, defaults of the seed implementation, 25 000 steps",
        f"{CARTPOLE} eval.episodes=100",
        5,
        475,
    ),
    "cartpole-100k": Experiment(
        "the same, 100 000 steps", f"{CARTPOLE} eval.episodes=100 total_timesteps=100000", 5, 475
    ),
    "identity": Experiment(
        "Identity (10 states, 100 steps), n_steps 1, replay_ratio 1, 15 000 steps",
        "env=tests.tasks:Identity-v0 env.n_envs=1 algo.n_steps=1 algo.replay_ratio=1 "
        "total_timesteps=15000 eval.episodes=20",
        3,
        90,
    ),
    "acrobot": Experiment("Acrobot-v1, tuned, 500 000 steps", "env=Acrobot-v1", 3, -100),
    "lunarlander": Experiment("LunarLander-v3, tuned, 500 000 steps", "env=LunarLander-v3", 3, 150),
    "catch": Experiment(
        "Catch (84x84 pictures), policy=cnn",
        "env=tests.tasks:Catch-v0 experiment=catch --config-dir=tests/conf",
        3,
        0.8,
    ),
    "cartpole-r0": Experiment(
        "CartPole-v1, tuned, but replay_ratio 0", "algo.replay_ratio=0", 5, 475
    ),
    "acrobot-r0": Experiment(
        "Acrobot-v1, tuned, replay_ratio 0", f"{ACROBOT} algo.replay_ratio=0", 5, -100
    ),
    "acrobot-r4": Experiment(
        "Acrobot-v1, tuned, replay_ratio 4", f"{ACROBOT} algo.replay_ratio=4", 5, -100
    ),
}
for _algo in ("acktr", "a2c"):
    for _env, _steps, _seeds, _threshold in (
        ("CartPole-v1", 25_000, 5, 475),
        ("CartPole-v1", 100_000, 5, 475),
        ("Acrobot-v1", 500_000, 5, -100),
        ("Pendulum-v1", 300_000, 5, -300),
        ("Reacher-v5", 300_000, 5, -7),
        ("LunarLanderContinuous-v3", 1_000_000, 3, 200),
        ("HalfCheetah-v5", 1_000_000, 2, 1000),
    ):
        EXPERIMENTS[f"{_algo}-{_env}-{_steps // 1000}k"] = Experiment(
            f"{_env}, {_algo.upper()}, {_steps:,} steps".replace(",000", " 000"),
            f"algo={_algo} env={_env} total_timesteps={_steps}",
            _seeds,
            _threshold,
        )
for _factors in ("expand", "reduce"):
    for _rule in ("exact", "factored"):
        EXPERIMENTS[f"acktr-catch-{_factors}-{_rule}"] = Experiment(
            f"Catch, ACKTR, {_factors}, {_rule}",
            "algo=acktr env=tests.tasks:Catch-v0 experiment=catch_acktr --config-dir=tests/conf "
            f"algo.conv_factors={_factors} algo.damping_rule={_rule}",
            3,
            0.8,
        )
EXPERIMENTS["a2c-catch"] = Experiment(
    "Catch, A2C",
    "algo=a2c env=tests.tasks:Catch-v0 experiment=catch_acktr --config-dir=tests/conf "
    "algo.learning_rate=5e-3 algo.n_steps=5",
    3,
    0.8,
)

for _env, _steps, _threshold in (
    ("Pendulum-v1", 300_000, -300),
    ("LunarLanderContinuous-v3", 1_000_000, 150),
    ("HalfCheetah-v5", 1_000_000, 1000),
    ("Hopper-v5", 1_000_000, 1000),
):
    EXPERIMENTS[f"acer-{_env}"] = Experiment(
        f"{_env}, ACER", f"algo=acer env={_env} total_timesteps={_steps}", 3, _threshold
    )
EXPERIMENTS["acktr-Hopper-v5-1000k"] = Experiment(
    "Hopper-v5, ACKTR, 1 000 000 steps", "algo=acktr env=Hopper-v5", 3, 1000
)
# Parts of continuous ACER left out one by one.
for _env, _words in (("Pendulum-v1", ""), ("Hopper-v5", " total_timesteps=300000")):
    for _part in ("", "q_opc", "sdn", "trust_region", "trace_root"):
        if _env == "Pendulum-v1" and _part in ("", "trace_root"):
            continue  # `acer-Pendulum-v1` is the whole, and a root of one dimension is none
        EXPERIMENTS[f"acer-{_env}-without-{_part or 'nothing'}"] = Experiment(
            f"{_env}, ACER without {_part or 'nothing'}",
            f"algo=acer env={_env}{_words}" + (f" algo.{_part}=false" if _part else ""),
            3,
            -300 if _env == "Pendulum-v1" else 500,
        )
# Tasks of tests/tasks.py for what has to be remembered, and for actions of several factors.
_VECTOR = {
    "acer": "algo=acer algo.learning_rate=3e-3 algo.replay_start=100",
    "acktr": "algo=acktr experiment=acktr/vector",
    "a2c": "algo=a2c experiment=a2c/vector",
}
_NO_VELOCITY = (
    "env=tests.tasks:CartPoleNoVelocity-v0 env.n_envs=16 env.normalize_observations=true "
    "algo.ent_coef=0 eval.episodes=100"
)
_RECALL = "env=tests.tasks:Recall-v0 env.n_envs=16 total_timesteps=300000 eval.episodes=100"
_RECALL_SETTINGS = {
    "acer": "algo.learning_rate=1e-3 algo.rprop_epsilon=1e-8 algo.ent_coef=0.001 "
    "algo.replay_start=100",
    "acktr": "experiment=acktr/vector env.normalize_observations=false",
    "a2c": "algo.learning_rate=5e-3 algo.epsilon=1e-7 algo.alpha=0.95 algo.n_steps=20 "
    "algo.max_grad_norm=null",
}
_FACTORS = "env.n_envs=16 env.normalize_observations=false algo.gamma=0 algo.ent_coef=0.01"
for _algo, _settings in _VECTOR.items():
    for _policy in ("lstm", "mlp"):
        _words = "policy=lstm policy.lstm_size=64" if _policy == "lstm" else "policy=mlp"
        _words += " algo.gamma=0.98 algo.n_steps=8" if _algo == "a2c" else ""
        _steps = 300_000 if (_algo, _policy) == ("acer", "lstm") else 500_000
        EXPERIMENTS[f"{_algo}-no-velocity-{_policy}"] = Experiment(
            f"CartPole without velocities, {_algo.upper()}, {_policy}",
            f"{_settings} {_words} {_NO_VELOCITY} total_timesteps={_steps}",
            3,
            400,
        )
    EXPERIMENTS[f"{_algo}-recall"] = Experiment(
        f"Recall after 10 steps, {_algo.upper()}",
        f"algo={_algo} {_RECALL} {_RECALL_SETTINGS[_algo]} policy=lstm policy.lstm_size=64 "
        "policy.forget_bias=2",
        3,
        0.9,
    )
    for _task, _kwargs, _best in (
        ("Bits", "n=3", 20),
        ("Locks", "sizes=[4,4]", 20),
        ("Bits", "n=6", 20),
        ("Locks", "sizes=[3,4,5]", 20),
    ):
        for _joint in ("", " algo.joint_actions=0") if _algo == "acer" else ("",):
            _how = " by sampling" if _joint else ""
            EXPERIMENTS[f"{_algo}-{_task}-{_kwargs}{_how}".lower().replace(" ", "-")] = Experiment(
                f"{_task} {_kwargs}, {_algo.upper()}{_how}",
                f"{_settings} env=tests.tasks:{_task}-v0 env.kwargs.{_kwargs} {_FACTORS}{_joint} "
                "total_timesteps=200000 eval.episodes=100",
                3,
                0.9 * _best,
            )


def main() -> None:
    """Run experiments, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; none for all")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    arguments = parser.parse_args()
    names = arguments.names or list(EXPERIMENTS)
    if arguments.action == "table":
        write_table()
        return
    with ThreadPoolExecutor(arguments.jobs) as pool:
        pairs = [(name, seed) for name in names for seed in range(EXPERIMENTS[name].seeds)]
        for (name, seed), line in zip(pairs, pool.map(lambda pair: run(*pair), pairs), strict=True):
            print(f"{name} seed={seed}: {line}", flush=True)


def run(name: str, seed: int) -> str:
    """Train one seed, and note where; the last line that matters."""
    command = [*EXPERIMENTS[name].overrides.split(), f"seed={seed}", "logger=files"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("rlrun")), *command],
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr}{done.stdout}"
    words = [word for word in done.stdout.split() if word.endswith(f"seed-{seed}")]
    folder = Path(words[0])
    found = summary(folder, EXPERIMENTS[name].threshold)
    with _WRITING:
        runs = read_json(RESULTS / "runs.json")
        runs.setdefault(name, {})[str(seed)] = found
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "runs.json").write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")
    return json.dumps(found)


def read_json(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """The content of a file, empty if it is missing."""
    return json.loads(path.read_text()) if path.exists() else {}


def summary(folder: Path, threshold: float) -> dict[str, object]:
    """What the table says of one run."""
    result = json.loads((folder / "result.json").read_text())
    with (folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    returns = np.array([float(row["return"]) for row in rows])
    means = np.convolve(returns, np.ones(WINDOW) / WINDOW, "valid")
    reached = np.flatnonzero(means >= threshold - 1e-9)
    return {
        "steps": result["step"],
        "evaluation": round(result["eval"]["return_mean"], 3),
        "training": round(result["train_return_last100"], 3),
        "steps_to_threshold": int(rows[reached[0] + WINDOW - 1]["step"]) if len(reached) else None,
        "seconds_to_threshold": float(rows[reached[0] + WINDOW - 1]["time"])
        if len(reached)
        else None,
        "steps_per_second": round(result["steps_per_second"]),
    }


def write_table() -> None:
    """Write the rows of the finished runs to outputs/results/learning.md."""
    lines = [
        "| experiment | command | evaluation, by seed | threshold | steps to it, by seed |",
        "|---|---|---|---|---|",
    ]
    for name, runs in read_json(RESULTS / "runs.json").items():
        experiment = EXPERIMENTS[name]
        ordered = [runs[seed] for seed in sorted(runs, key=int)]
        evaluations = ", ".join(f"{row['evaluation']:g}" for row in ordered)
        steps = ", ".join(
            "never" if row["steps_to_threshold"] is None else f"{row['steps_to_threshold']:,}"
            for row in ordered
        )
        lines.append(
            f"| {experiment.title} | `rlrun {experiment.overrides}` | {evaluations} "
            f"| {experiment.threshold:g} | {steps} |"
        )
    (RESULTS / "learning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
