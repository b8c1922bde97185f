"""`sweep.estimate=true`: short probes instead of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pretended import finish, job, trainings

from rlrun import config
from rlrun.schema import UserError
from rlrun.sweeps import estimate, probe
from rlrun.sweeps.folder import Job, Sweep
from tests.conftest import Outcome

MIB = 2**20


def kinds(count: int, seeds: int) -> tuple[list[Job], list[dict[str, Any]]]:
    jobs = [
        job(n * seeds + seed, f"algo.delta={n}", f"seed={seed}", seed=seed, group=f"{n:08}")
        for n in range(count)
        for seed in range(seeds)
    ]
    return jobs, [{"delta": n} for n in range(count) for _ in range(seeds)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    monkeypatch.chdir(tmp_path)
    return []


def measuring(asked: list[int]) -> estimate.Probe:
    """Kind n makes 100 / (n + 1) steps a second and takes n + 100 MiB."""

    def measured(node: Mapping[str, Any]) -> dict[str, float]:
        asked.append(node["delta"])
        n = node["delta"]
        memory = (n + 100) * MIB
        return {"steps_per_second": 100 / (n + 1), "memory": memory, "device_memory": 0}

    return measured


def test_time_and_memory(asked: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(Path("outputs/sweeps/grid"))
    estimate.tell(*kinds(2, 3), sweep, measuring(asked))
    told = capsys.readouterr().out
    assert asked == [0, 1]
    lines = [line.split() for line in told.splitlines()]
    # 1000 steps at 100 and at 50 a second, and 4 s around each.
    assert ["algo.delta=0", "3/3", "1,000", "100", "0:14", "100", "MiB"] in lines
    assert ["algo.delta=1", "3/3", "1,000", "50", "0:24", "101", "MiB"] in lines
    assert "6 of 6 jobs to run: about 1:54\n" in told
    assert "Nothing was started" in told
    assert not sweep.folder.exists()


def test_what_is_finished_takes_no_time(
    asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(Path("outputs/sweeps/grid"))
    sweep.launcher = {"n_jobs": 2}
    jobs, configs = kinds(2, 3)
    finish(sweep.run_folder(jobs[1]))
    estimate.tell(jobs, configs, sweep, measuring(asked))
    told = capsys.readouterr().out
    assert "5 of 6 jobs to run: about 0:50, 2 at once: 202 MiB" in told


def test_of_many_kinds_a_few_are_probed(
    asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    estimate.tell(*kinds(20, 1), Sweep(Path("outputs/sweeps/grid")), measuring(asked))
    assert asked == [0, 4, 8, 11, 15, 19]
    assert "20 kinds of jobs: 6 are probed" in capsys.readouterr().out


@pytest.mark.parametrize("algo", ["acer", "acktr"])
def test_a_probe_measures_and_leaves_nothing(
    algo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "SECONDS", 0.3)
    node = config.check(config.compose([f"algo={algo}", "total_timesteps=1e9"]))
    found = probe.measure(node)
    assert found["steps_per_second"] > 50
    assert 50 * MIB < found["memory"] < 20_000 * MIB
    assert list(tmp_path.iterdir()) == []


def test_a_full_replay_memory_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.1)
    small, large = (
        config.check(config.compose([f"algo.buffer_size={size}"])) for size in (1000, 1_000_000)
    )
    grown = probe.measure(large)["memory"] - probe.measure(small)["memory"]
    # Four environments; 4 floats seen, 2 probabilities, a reward, an action, 3 flags.
    assert grown > 4 * 999_000 * (4 + 2 + 1) * 4 * 0.9


def test_a_probe_that_breaks_down_says_why(tmp_path: Path) -> None:
    node = config.check(config.compose([]))
    node["policy"] = {**node["policy"], "hidden": ["x"]}
    with pytest.raises(UserError, match=r"the probe broke down, as the jobs would: .*hidden"):
        estimate.probed(node)


def test_as_a_user_asks_for_it(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = trainings(monkeypatch)
    words = ["total_timesteps=200", "seed=range(3)", "sweep.estimate=true"]
    done = command("-m", *words)
    assert done.code == 0, done.err
    assert "3 of 3 jobs to run: about 0:1" in done.out
    assert trained == []
    assert list(tmp_path.iterdir()) == []
