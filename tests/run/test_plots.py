import json
import struct

import numpy as np
import pytest

from rlrun.run.plots import learning_curve, rolling_mean

HEADER = "step,env,return,length,time\n"
CONFIG = "algo: {_target_: rlrun.algorithms.acer.ACER}\nenv: {id: CartPole-v1}\nseed: 4\n"


def episodes(count):
    return "".join(f"{20 * i},{i % 4},{float(i % 50)},20,{i}.000\n" for i in range(1, count + 1))


def evaluations(steps):
    rows = [{"step": s, "return_mean": s / 10, "return_std": 2.0, "episodes": 5} for s in steps]
    return "".join(json.dumps(row) + "\n" for row in rows)


def size_of_png(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 5_000
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize(
    ("count", "steps"),
    [(1, []), (250, []), (250, [1000, 2000]), (0, [1000]), (20_000, [5000])],
    ids=["one episode", "episodes", "with evaluations", "evaluations only", "many"],
)
def test_a_picture_of_what_is_there(tmp_path, count, steps):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "episodes.csv").write_text(HEADER + episodes(count))
    (tmp_path / "evaluations.jsonl").write_text(evaluations(steps))
    path = learning_curve(tmp_path)
    assert path == tmp_path / "learning_curve.png"
    assert size_of_png(path) == (1200, 675)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.yaml",
        "episodes.csv",
        "evaluations.jsonl",
        "learning_curve.png",
    }


@pytest.mark.parametrize("text", [None, "", HEADER, HEADER + "20,0,1."])
def test_nothing_to_show_gives_no_picture(tmp_path, text):
    if text is not None:
        (tmp_path / "episodes.csv").write_text(text)
    assert learning_curve(tmp_path) is None
    assert not (tmp_path / "learning_curve.png").exists()


def test_evaluations_change_the_picture_and_a_torn_line_does_not(tmp_path):
    def picture():
        return learning_curve(tmp_path).read_bytes()

    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "episodes.csv").write_text(HEADER + episodes(30))
    before = picture()
    assert picture() == before
    (tmp_path / "episodes.csv").write_text(HEADER + episodes(30) + "9999999,0,99")
    assert picture() == before
    (tmp_path / "evaluations.jsonl").write_text(evaluations([300]))
    assert picture() != before


@pytest.mark.parametrize("config", ["", "a: [", "seed: 1"])
def test_an_unreadable_config_only_costs_the_title(tmp_path, config):
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "episodes.csv").write_text(HEADER + episodes(3))
    assert size_of_png(learning_curve(tmp_path)) == (1200, 675)


def test_rolling_mean_by_its_definition():
    values = np.arange(10.0) ** 2
    expected = [values[max(0, i - 3) : i + 1].mean() for i in range(10)]
    np.testing.assert_allclose(rolling_mean(values, 4), expected)
