"""What a run was made with: `manifest.json`, from which it can be told and repeated."""

import json
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rlrun.run.store import write_atomic

PACKAGES = ("rlrun", "torch", "numpy", "gymnasium", "ale-py", "mujoco", "box2d", "safetensors")
NAME = "manifest.json"


def surroundings(device: torch.device) -> dict[str, Any]:
    """All that may change the bits of a result beside config and seed."""
    return {
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, Any]:
    """Commit of the current folder's repository, and whether tracked files differ from it."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else changes != ""}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run; None if it has none, or a damaged one."""
    if not (folder / NAME).is_file():
        return None
    try:
        manifest = json.loads((folder / NAME).read_text())
        complete = (
            isinstance(manifest["id"], str)
            and all(isinstance(reason, str) for reason in manifest["reasons"])
            and all(isinstance(part["versions"], dict) for part in manifest["parts"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return manifest if complete else None


def begin(
    folder: Path,
    *,
    fresh: bool,
    seed: int,
    step: int,
    overrides: list[str],
    device: torch.device,
    exact: bool,
) -> dict[str, Any]:
    """Write down that a process takes up the run at `step`, and return the manifest.

    The run's grade is `exact` if each of its processes went on bit for bit where the one before
    had stopped: the environments can be replayed, and nothing around them has changed. Once
    `approximate`, a run stays so, and `reasons` says why.
    """
    here = surroundings(device)
    manifest = None if fresh else read_manifest(folder)
    new = [] if exact else ["the environment is not deterministic"]
    if manifest is None:
        identity = os.urandom(4).hex()
        manifest = {"id": identity, "seed": seed, "grade": "exact", "reasons": [], "parts": []}
        if not fresh:
            new.append(f"{NAME} was lost or damaged, and what it said is not known")
    reasons: list[str] = manifest["reasons"]
    if device.type != "cpu":
        new.append(f"results on {device.type} may differ in their last bits")
    if manifest["parts"]:
        new += changes(manifest["parts"][-1], here)
    reasons += [reason for reason in new if reason not in reasons]
    manifest["grade"] = "approximate" if reasons else "exact"
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    part = {"step": step, "started": started, "overrides": overrides, **git_state(), **here}
    manifest["parts"].append(part)
    write_atomic(folder / NAME, json.dumps(manifest, indent=2) + "\n")
    return manifest


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences between two surroundings, in words."""
    flat_before = {**before, **before["versions"]}
    flat_now = {**now, **now["versions"]}
    return [
        f"{key} changed from {flat_before.get(key)} to {flat_now[key]}"
        for key in flat_now
        if key != "versions" and flat_before.get(key) != flat_now[key]
    ]
