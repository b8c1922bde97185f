"""The benchmark measures what it says: floors, parts of the time, quiet turns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from scripts.bench import __main__ as bench
from scripts.bench import floors, loop, peers, rounds, works
from scripts.bench.curvature import Curvature, Decompositions
from scripts.bench.environments import EnvironmentsAlone
from scripts.bench.network import shapes_of
from scripts.bench.training import PARTS, Trained, mean_replay, split

SMALL = "env.n_envs=2 log_interval=2"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained() -> Iterator[Callable[[str], Trained]]:
    made: list[Trained] = []

    def make(words: str) -> Trained:
        made.append(Trained("it", [*SMALL.split(), *words.split()]))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_turn_is_left_out_if_others_were_at_work_and_two_quiet_ones_remain() -> None:
    turns = [rounds.Turn(10.0, 0.0), rounds.Turn(12.0, 0.2), rounds.Turn(3.0, 0.3)]
    assert rounds.summary(turns) == (11.0, 10.0, 12.0, 2, 3)
    assert rounds.summary(turns[1:]) == (7.5, 3.0, 12.0, 1, 2)


def test_a_ratio_is_that_of_the_same_rounds() -> None:
    turns = [rounds.Turn(10.0, 0.0), rounds.Turn(30.0, 0.0), rounds.Turn(9.0, 0.0)]
    others = [rounds.Turn(5.0, 0.1), rounds.Turn(10.0, 0.0), rounds.Turn(1.0, 0.9)]
    assert rounds.ratio(turns, others) == (2.5, 2.0, 3.0, 2, 3)


def test_noise_is_what_others_used() -> None:
    assert rounds.noise(busy=3.0, own=2.0, seconds=2.0) == 0.5
    assert rounds.noise(busy=1.9, own=2.0, seconds=2.0) == 0.0


def test_busy_seconds_leave_out_idle_and_waiting(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 200 300 9999 9999 400 500 600 0 0\ncpu0 1 2\n")
    assert rounds.busy_seconds(stat) == pytest.approx(2100 / 100)
    assert rounds.busy_seconds(tmp_path / "none") is None


def test_a_word_means_its_contestant_or_all_that_begin_so() -> None:
    assert works.named(works.CONTESTANTS, ["acktr-1", "acer"]) == ["acer-0", "acer-4", "acktr-1"]
    assert works.named(works.CONTESTANTS, []) == list(works.CONTESTANTS)
    found = works.in_variants({"a2c": "algo=a2c x=1"}, ["x=2"], {"wide": "x=3"})
    assert found == {
        "a2c": ["algo=a2c", "x=1", "x=2"],
        "a2c wide": ["algo=a2c", "x=1", "x=2", "x=3"],
    }


@pytest.mark.parametrize("name", works.CONTESTANTS)
def test_the_floor_has_the_shapes_of_the_network(
    name: str, trained: Callable[[str], Trained]
) -> None:
    one = trained(works.CONTESTANTS[name])
    products = floors.Products(one)
    assert products.network.weights() == shapes_of(one.parts.algorithm.actor.policy)
    rows = products.rows
    assert len(rows) == 21 * 2
    assert len(products.few) == 2
    outputs = products.forward(rows, 21)
    assert [len(output) for output in outputs] == [42, 42]
    due = products.counts()
    assert due["act"] == 1.0
    if name.startswith("acer"):
        assert due["learn, and average"] == 1.0 + float(name[-1])
    if name.startswith("acktr"):
        assert due["decompose"] == 1.0 / one.config["algo"]["kfac_update"]
    for part in due:
        assert products.part(part)() == 1
    for parameter in products.network.parameters():
        assert parameter.grad is not None


@pytest.mark.parametrize(("env", "rows"), [("CartPole-v1", [42, 42]), ("Pendulum-v1", [42, 42, 6])])
def test_the_floor_of_a_policy_with_a_memory_and_of_sampled_actions(
    env: str, rows: list[int], trained: Callable[[str], Trained]
) -> None:
    products = floors.Products(trained(f"env={env} policy=lstm policy.lstm_size=8 algo=acer"))
    for part in products.counts():
        assert products.part(part)() == 1
    assert [len(output) for output in products.forward(products.rows, 21)] == rows


def test_a_network_that_the_floor_does_not_know_is_told(
    trained: Callable[[str], Trained],
) -> None:
    one = trained("policy=lstm policy.layer_norm=true algo=a2c")
    with pytest.raises(ValueError, match="no floor"):
        floors.Products(one)


@pytest.mark.parametrize("rules", ["expand exact", "reduce factored"])
def test_the_factors_of_the_floor_have_the_shapes_of_acktrs(
    rules: str, trained: Callable[[str], Trained]
) -> None:
    sharing, damping = rules.split()
    one = trained(
        "env=tests.tasks:Catch-v0 policy=cnn policy.features_dim=8 policy.filters=[2,2,2] "
        f"algo=acktr algo.cold_iter=1 algo.n_steps=1 algo.conv_factors={sharing} "
        f"algo.damping_rule={damping}"
    )
    products = floors.Products(one)
    args = products.network, products.forward, products.rows, products.steps, products.algo
    layers = Curvature(*args).layers
    blocks = one.parts.algorithm.optimizer.blocks.values()  # type: ignore[attr-defined]
    expected = sorted((len(block.a), len(block.g)) for block in blocks)
    assert sorted((len(layer.a), len(layer.g)) for layer in layers) == expected
    rows = [layer.rows for layer in layers[:3]]
    assert rows == ([800, 162, 98] if sharing == "expand" else [2, 2, 2])
    sizes = sorted(
        len(factor) for factor in Decompositions(products.network, products.algo).factors
    )
    assert sizes == sorted(size for pair in expected for size in pair)


def test_acer_replays_its_mean(trained: Callable[[str], Trained]) -> None:
    with mean_replay():
        one = trained("algo=acer algo.replay_ratio=3 algo.replay_start=0")
        memory = one.parts.algorithm.memory
        assert memory is not None
        with mock.patch.object(memory, "sample", wraps=memory.sample) as sample:
            one.learn(4)
    assert sample.call_count == 12
    assert torch.poisson.__module__ != mean_replay.__module__


def test_the_parts_sum_to_the_whole_and_the_training_is_left_as_it_was(
    trained: Callable[[str], Trained],
) -> None:
    for words in (works.CONTESTANTS["acer-4"], works.CONTESTANTS["acktr-1"]):
        one = trained(words)
        algorithm = one.parts.algorithm
        before = [dict(vars(owner)) for owner in (algorithm, one.parts.collector.envs)]
        began, step = time.perf_counter(), one.training.step
        found = split(one, 0.02)
        whole = time.perf_counter() - began
        assert list(found) == list(PARTS)
        assert min(found["env"], found["acting"], found["update"]) > 0
        assert (found["replay"] > 0) == (algorithm.memory is not None)
        assert (found["curvature"] > 0) == (algorithm.memory is None)
        steps = one.training.step - step
        assert 0.5 * whole < sum(found.values()) * steps <= whole
        for owner, kept in zip((algorithm, one.parts.collector.envs), before, strict=True):
            assert vars(owner).keys() == kept.keys()


def test_the_environments_alone() -> None:
    config = Trained("it", [*SMALL.split(), "algo=a2c"]).config
    alone = EnvironmentsAlone(config, threads=1)
    assert [contestant.unit() for contestant in alone.contestants()] == [40]
    alone.close()


def test_a_table_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    words = "cartpole-4 --only a2c acer-4 --rounds 1 --seconds 0.05 --no-peers log_interval=1"
    variant = ["--variant", "wide: policy.hidden=[65]", "--json", str(file)]
    assert bench.main([*words.split(), *variant]) == 0
    shown = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert {"versions", "cpu", "date", "git", "device"} <= report["made"].keys()
    assert report["works"]["cartpole-4"]["threads"] == 1
    rows = {row["name"]: row for row in report["works"]["cartpole-4"]["rows"]}
    assert {"env", "a2c", "a2c wide", "acer-4", "acer-4 wide"} <= rows.keys()
    for name, row in rows.items():
        assert name in shown
        assert row["low"] <= row["median"] <= row["high"]
        assert len(row["turn_rates"]) == row["turns"] == 1
        if row["kind"] == "rlrun":
            assert 0 < row["of_floor"] < 1.5
            assert row["split_seconds"].keys() == set(PARTS)
            assert row["floor_seconds"].keys() == {"env", "products"}
    assert sum(name.startswith("products: act") for name in rows) == 2  # one for each network


def test_the_cost_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "CASES", {"cartpole-4": 2})
    file = tmp_path / "loop.json"
    words = f"loop --rounds 1 --seconds 0.01 algo.buffer_size=100 --json {file}"
    assert bench.main(words.split()) == 0
    assert "cartpole-4, checkpoint every 10 minutes" in capsys.readouterr().out
    case = json.loads(file.read_text())["works"]["loop"]["cartpole-4"]
    rates = {name: taken["median"] for name, taken in case["steps_per_second"].items()}
    assert case["logging_share"] == pytest.approx(1 - rates["every update"] / rates["never"])
    saving = case["checkpoint"]
    assert saving["share"] == pytest.approx(saving["seconds"] / 600)


def test_what_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(works.importlib.util, "find_spec", lambda name: None)
    assert bench.main(["halfcheetah"]) == 0
    assert "halfcheetah: skipped: mujoco is not installed" in capsys.readouterr().out
    words = "cartpole-4 --only a2c --rounds 1 --seconds 0.01 log_interval=1"
    assert bench.main(words.split()) == 0
    assert peers.MISSING in capsys.readouterr().out


def test_a_wrong_word_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["cartpole-4", "algo.no_such=1", "--only", "a2c"]) == 2
    assert "no_such" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["no-such-work"])
    for words, told in {
        "pong --only nonsense": "nobody of this name",
        "pong --seconds nan": "a number from 0",
        "pong --json /no/such/folder/x.json": "no folder",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            bench.main(words.split())
        assert told in capsys.readouterr().err
