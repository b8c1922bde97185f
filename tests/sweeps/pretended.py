"""Trainings that only leave the files of a run behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from rlrun import config, runs, stored
from rlrun.schema import UserError
from rlrun.sweeps.folder import Job


def job(number: int = 0, *words: str, seed: int = 0, group: str = "0123abcd") -> Job:
    run = f"outputs/CartPole-v1/acer-{group}/seed-{seed}"
    return Job(number, list(words), run, group, seed, 1000)


def finish(folder: Path, **result: Any) -> None:
    """Let a run of 1000 steps have ended."""
    known = {
        "step": 1000,
        "total_timesteps": 1000,
        "steps_per_second": 500.0,
        "eval": {"return_mean": 100.0},
        "train_return_last100": 50.0,
        "status": "finished",
        "reason": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(known | result))


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[str]]]:
    """Pretend all trainings from now on; returns those that have been.

    `env.kwargs.code` is their exit code, `env.kwargs.error` what they raise.
    """
    calls: list[tuple[dict[str, Any], list[str]]] = []

    def train(node: dict[str, Any], words: list[str]) -> int:
        calls.append((node, words))
        if error := node["env"]["kwargs"].get("error"):
            raise {"bug": RuntimeError("a bug"), "user": UserError("a setting")}[error]
        code = int(node["env"]["kwargs"].get("code", 0))
        if code > 128:
            signal.raise_signal(code - 128)
        folder = config.run_folder(node)
        steps = node["total_timesteps"]
        status = "failed" if code else "finished"
        reason = "it broke down" if code else None
        mean = 100.0 * node["algo"].get("replay_ratio", 0) + node["seed"]
        finish(folder, step=steps, total_timesteps=steps, status=status, reason=reason,
               eval={"return_mean": mean})  # fmt: skip
        (folder / "config.yaml").write_text(stored.dump(node))
        (folder / "run.log").write_text("log\n")
        return code

    monkeypatch.setattr(runs, "train", train)
    return calls
