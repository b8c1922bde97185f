"""Kill a run at random instants, resume it each time, and compare it with an undisturbed one.

    python scripts/kill_soak.py --kills 20 env=CartPole-v1 total_timesteps=60000

Both runs train by the same command in fresh processes. The final weights, the whole state of the
last checkpoint, metrics.jsonl, evaluations.jsonl and episodes.csv have to be equal, byte for byte
but for wall-clock fields. Exit code 0 if they are.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "import sys; from rlrun.cli import main; sys.exit(main())"]
CLOCKS = ("seconds", "timed_steps", "timed_seconds", "logs")  # of the trainer's state


def main() -> int:
    """Run the soak; 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of the run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        straight, killed = Path(scratch, "straight"), Path(scratch, "killed")
        begin = time.monotonic()
        reference = finish(straight, arguments.overrides)
        seconds = time.monotonic() - begin
        instants = random.Random(arguments.seed)
        kills = resumed = 0
        while kills < arguments.kills:
            process = start(killed, arguments.overrides)
            try:
                # Uniform over a good part of the run, start-up included.
                process.wait(instants.uniform(0.3, max(4.0, seconds / 3)))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                print(f"kill {kills} at {progress(killed)}", flush=True)
                resumed += progress(killed) != "the start"
                continue
            # It finished in between: begin anew, the next kills fall elsewhere.
            differences = compare(reference, run_folder(killed))
            if differences:
                break
            shutil.rmtree(killed)
        else:
            differences = compare(reference, finish(killed, arguments.overrides))
        print(f"{kills} kills, {resumed} of them resumed from a checkpoint")
        print("\n".join(differences) or "equal in every byte")
        return 1 if differences else 0


def start(folder: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """Begin the command in a process group of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*COMMAND, *overrides], cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )


def finish(folder: Path, overrides: list[str]) -> Path:
    """Let the command run to its end; the run's folder."""
    code = start(folder, overrides).wait()
    if code != 0:
        raise SystemExit(f"the run ended with exit code {code}")
    return run_folder(folder)


def run_folder(folder: Path) -> Path:
    """The one run below a folder."""
    (config,) = folder.glob("outputs/*/*/seed-*/config.yaml")
    return config.parent


def progress(folder: Path) -> str:
    """From where the next process will go on."""
    steps = sorted(path.name for path in folder.glob("outputs/*/*/seed-*/checkpoints/step-*"))
    return steps[-1] if steps else "the start"


def compare(expected: Path, found: Path) -> list[str]:
    """What differs between two finished runs."""
    differences = []
    for name, read in (
        ("metrics.jsonl", rows),
        ("evaluations.jsonl", rows),
        ("episodes.csv", episodes),
        ("checkpoints", last_checkpoint),
    ):
        if name != "evaluations.jsonl" and not read(expected / name):
            differences.append(f"{name} is empty: nothing was compared")
        elif read(expected / name) != read(found / name):
            differences.append(f"{name} differs")
    return differences


def rows(path: Path) -> list[str]:
    """Rows of a JSON-lines file without the wall clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        json.dumps({key: value for key, value in row.items() if not key.startswith("time/")})
        for row in rows
    ]


def episodes(path: Path) -> list[str]:
    """Lines of episodes.csv without their last column, the wall clock."""
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


def last_checkpoint(folder: Path) -> tuple[bytes, str]:
    """Tensors and state of the last checkpoint without the wall clock."""
    last = max(folder.iterdir())
    state: dict[str, Any] = json.loads((last / "state.json").read_text())
    return (last / "tensors.safetensors").read_bytes(), json.dumps(without_clocks(state))


def without_clocks(node: Any) -> Any:
    """The same tree without the keys of the wall clock."""
    if isinstance(node, dict):
        return {key: without_clocks(value) for key, value in node.items() if key not in CLOCKS}
    return [without_clocks(item) for item in node] if isinstance(node, list) else node


if __name__ == "__main__":
    sys.exit(main())
