"""The examples of the README run as they stand, but for fewer steps."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str, heading: str) -> list[str]:
    """Fenced blocks of a section, up to the next heading."""
    section = re.split(r"^#+ ", README.split(f" {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    if heading == "Parts of your own":  # comments in its code look like headings
        section = README.split(f" {heading}\n", 1)[1].split("\n### ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The user's module and config folder of the README."""
    module, _ = blocks("python", "Parts of your own")
    (tmp_path / "my_parts.py").write_text(module)
    for text in blocks("yaml", "Parts of your own"):
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(script: str, folder: Path) -> str:
    """Run a script in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example(tmp_path: Path) -> None:
    (script,) = blocks("python", "In Python")
    assert "25_000" in script
    out = run(script.replace("25_000", "1_000"), tmp_path)
    assert re.search(r"^\(\d+\.\d+, \d+\.\d+\)$", out, re.M)
    assert (tmp_path / "acer_cartpole.zip").is_file()


def test_parts_of_your_own_in_python(parts: Path) -> None:
    _, script = blocks("python", "Parts of your own")
    out = run(script + "\nprint(model.num_timesteps)", parts)
    assert 0 < int(out.split()[-1]) < 20_000  # the callback has stopped it


def test_parts_of_your_own_on_the_command_line(
    parts: Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = blocks("bash", "Parts of your own")
    words = line.split()[1:]
    done = command(*words, "total_timesteps=20000", "eval.episodes=1", "logger=files")
    assert done.code == 0, done.err
    (run_folder,) = parts.glob("outputs/*/*/seed-0")
    result = (run_folder / "result.json").read_text()
    assert '"status": "finished"' in result
    assert int(re.findall(r'"step": (\d+)', result)[0]) < 20_000
    again = command(*words, "total_timesteps=20000", "eval.episodes=1", "logger=files")
    assert again.code == 0
    assert "is finished" in again.out + again.err
    refused = command("evaluate", str(run_folder), "episodes=1")
    assert refused.code == 2
    assert "trust=[my_parts]" in refused.err
    trusted = command("evaluate", str(run_folder), "episodes=1", "trust=[my_parts]")
    assert trusted.code == 0, trusted.err


def test_the_example_of_experts(tmp_path: Path) -> None:
    (script,) = blocks("python", "Experts")
    assert "30_000" in script
    assert "n_epochs=200" in script
    run(script.replace("30_000", "1_000").replace("n_epochs=200", "n_epochs=2"), tmp_path)
    assert (tmp_path / "expert_cartpole.npz").is_file()
