"""The batch script of a sweep on Slurm, and what is refused for it; no Slurm is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlrun.schema import UserError
from rlrun.sweeps.slurm_script import Settings, array_name, arrays, script
from tests.conftest import Outcome

SMALL = ("-m", "hydra/launcher=slurm", "seed=range(3)", "sweep.name=one", "logger=files")


def text(folder: Path, part: int = 0, indices: tuple[int, ...] = (0, 1), **settings: Any) -> str:
    return script(Settings(**settings), folder, Path("/home/me"), part, indices, ["rlrun", "mine"])


def directives(script: str) -> list[str]:
    return re.findall("^#SBATCH --(.*)$", script, re.M)


def test_all_that_is_set_stands_in_it(tmp_path: Path) -> None:
    found = directives(
        text(
            tmp_path,
            indices=(0, 1, 2, 5, 7, 8),
            partition="long",
            account="lab",
            qos="low",
            time="1-00:00:00",
            gres="gpu:1",
            cpus=3,
            memory="4G",
            parallel=4,
            signal_seconds=90,
            comment="who's that",
            extra={"constraint": "a100", "exclusive": True, "nice": None, "hold": False},
        )
    )
    assert found == [
        f"job-name={array_name(tmp_path, 0)}",
        "array=0-2,5,7-8%4",
        f"output={tmp_path}/jobs/0%3a/output.log",
        "open-mode=append",
        "chdir=/home/me",
        "requeue",
        "signal=B:USR2@90",
        "time=1-00:00:00",
        "partition=long",
        "account=lab",
        "qos=low",
        "gres=gpu:1",
        "cpus-per-task=3",
        "mem=4G",
        "comment='who'\"'\"'s that'",
        "constraint=a100",
        "exclusive",
    ]


def test_nothing_is_said_of_what_is_left_to_the_cluster(tmp_path: Path) -> None:
    names = {line.partition("=")[0] for line in directives(text(tmp_path))}
    assert names == {
        *("job-name", "array", "output", "open-mode", "chdir", "requeue", "signal"),
        "cpus-per-task",
    }


def test_it_is_sound_shell_and_runs_the_same_python(tmp_path: Path) -> None:
    folder = tmp_path / "it's a 100% sweep"
    lines = ["echo ready $((1 + 1))", "exec() { printf '%s\\n' \"$@\"; }"]
    found = text(folder, part=2, setup=lines)
    assert f"{tmp_path}/it" in found
    assert "100%% sweep/jobs/2%3a/output.log" in found
    done = subprocess.run(["bash", "-c", found], capture_output=True, text=True, check=True)
    words = ["-u", "-m", "rlrun.sweeps.slurm_job", str(folder), "2000", "rlrun", "mine"]
    assert done.stdout.splitlines() == ["ready 2", sys.executable, *words]


def test_signals_do_not_end_the_lines_before_the_job(tmp_path: Path) -> None:
    lines = ["kill -TERM $$", "kill -USR2 $$", "exec() { echo alive; }"]
    done = subprocess.run(
        ["bash", "-c", text(tmp_path, setup=lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "alive\n"


def test_many_jobs_are_several_arrays() -> None:
    assert arrays([2001, 3, 0, 999, 1000]) == {0: [0, 3, 999], 1: [0], 2: [1]}


def test_sweeps_of_one_name_in_two_places_are_two(tmp_path: Path) -> None:
    assert array_name(tmp_path / "a" / "one", 0) != array_name(tmp_path / "b" / "one", 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"time": "3d"}, "hydra.launcher.time: '3d' is not possible; minutes, or"),
        ({"time": 0}, "hydra.launcher.time: 0"),
        ({"time": "00:00:00"}, "hydra.launcher.time"),
        ({"time": "1:60:00"}, "hydra.launcher.time"),
        ({"time": 43200}, "in YAML in quotes"),
        ({"time": True}, "hydra.launcher.time"),
        ({"time": 1, "signal_seconds": 60}, r"signal_seconds: 60 .* less than the time limit \(60"),
        ({"signal_seconds": None}, "hydra.launcher.signal_seconds"),
        ({"cpus": 0}, "hydra.launcher.cpus: 0 is not possible; a whole number"),
        ({"cpus": True}, "hydra.launcher.cpus"),
        ({"parallel": "many"}, "hydra.launcher.parallel: 'many'"),
        ({"setup": "module load"}, "hydra.launcher.setup: .* a list of lines"),
        ({"partition": "a\nb"}, "hydra.launcher.partition"),
        ({"comment": ["a"]}, "hydra.launcher.comment"),
        ({"extra": {"array": "1"}}, "hydra.launcher.extra.array: rlrun sets this one itself"),
        ({"extra": {"mem": "1G"}}, "hydra.launcher.extra.mem: write hydra.launcher.memory"),
        ({"extra": {"time": "1"}}, "hydra.launcher.extra.time: write hydra.launcher.time"),
        ({"extra": {"-x": "1"}}, "hydra.launcher.extra.-x"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Settings(**settings).check()


@pytest.mark.parametrize(
    ("time", "seconds"),
    [(90, 5400), ("90", 5400), ("02:00:00", 7200), ("2-01:00:01", 176401), (None, None)],
)
def test_time_limits(time: Any, seconds: int | None) -> None:
    settings = Settings(time=time)
    settings.check()
    assert settings.seconds() == seconds


def test_print_only_shows_the_script_and_writes_nothing(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = command(*SMALL, "hydra.launcher.print_only=true", "hydra.launcher.gres=gpu:1")
    assert done.code == 0, done.err
    assert "#SBATCH --array=0-2\n" in done.out
    assert "#SBATCH --gres=gpu:1\n" in done.out
    assert f"rlrun.sweeps.slurm_job {tmp_path}/outputs/sweeps/one 0" in done.out
    assert list(tmp_path.iterdir()) == []


def test_without_slurm_nothing_is_begun(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = command(*SMALL)
    assert done.code == 2
    assert "there is no squeue here" in done.err
    assert "print_only" in done.err


def test_a_misspelt_setting_is_told(command: Callable[..., Outcome], tmp_path: Path) -> None:
    done = command(*SMALL, "hydra.launcher.tiem=3")
    assert done.code == 2
    assert "did you mean hydra.launcher.time?" in done.err
    assert list(tmp_path.iterdir()) == []
