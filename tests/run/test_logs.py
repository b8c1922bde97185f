import json
import os

import pytest

from rlrun.run import logs
from rlrun.run.logs import EpisodeLog, MetricsLog
from rlrun.schema import UserError


def metrics_rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_keep_their_order_and_every_bit(tmp_path):
    log = MetricsLog(tmp_path)
    values = {"loss/q": 0.1 + 0.2, "loss/policy": -1e-17, "replay/slots": 7, "a/b": 1 / 3}
    log.write(640, values)
    log.flush()
    (row,) = metrics_rows(tmp_path)
    assert row == {"step": 640, **values}
    assert list(row) == ["step", *values]


def test_metrics_stay_valid_json_without_finite_numbers(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"x/nan": float("nan"), "x/inf": float("inf"), "x/low": float("-inf"), "x/y": 1.0})
    log.flush()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "x/nan": null, "x/inf": null, "x/low": null, "x/y": 1.0}\n'


def test_episodes_have_a_header_and_one_line_each(tmp_path):
    log = EpisodeLog(tmp_path)
    log.write(12, 1, 9.5, 10, 0.25)
    log.write(30, 0, -21.0, 900, 1.0)
    log.close()
    assert (tmp_path / "episodes.csv").read_text() == (
        "step,env,return,length,time\n12,1,9.5,10,0.250\n30,0,-21.0,900,1.000\n"
    )


def test_an_empty_episode_file_still_has_its_header(tmp_path):
    EpisodeLog(tmp_path).close()
    assert (tmp_path / "episodes.csv").read_text() == "step,env,return,length,time\n"


@pytest.mark.parametrize("tail", ["", '{"step": 3, "loss/q": 0.', '{"step": 3}\n{"st'])
def test_rewind_cuts_what_came_after_the_checkpoint(tmp_path, tail):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss/q": 1.0})
    log.write(2, {"loss/q": 2.0})
    offset = log.offset
    assert offset == (tmp_path / "metrics.jsonl").stat().st_size > 0
    log.write(3, {"loss/q": -3.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:  # a kill tears the last line
        file.write(tail)

    resumed = MetricsLog(tmp_path)
    resumed.rewind(offset)
    resumed.write(3, {"loss/q": 3.0})
    resumed.close()
    assert [(row["step"], row["loss/q"]) for row in metrics_rows(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]


def test_rewind_forgets_lines_still_in_memory(tmp_path):
    log = EpisodeLog(tmp_path)
    log.write(1, 0, 1.0, 1, 0.0)
    offset = log.offset
    log.write(2, 0, 2.0, 1, 0.0)
    log.rewind(offset)
    log.close()
    assert (tmp_path / "episodes.csv").read_text().splitlines()[1:] == ["1,0,1.0,1,0.000"]


@pytest.mark.parametrize("anew", ["zero", "header only", "file lost"])
def test_rewind_to_the_beginning_starts_anew(tmp_path, anew):
    log = EpisodeLog(tmp_path)
    offset = 0 if anew == "zero" else log.offset
    log.write(1, 0, 1.0, 1, 0.0)
    log.close()
    if anew == "file lost":
        (tmp_path / "episodes.csv").unlink()
    resumed = EpisodeLog(tmp_path)
    resumed.rewind(offset)
    resumed.write(5, 0, 5.0, 1, 0.0)
    resumed.close()
    lines = (tmp_path / "episodes.csv").read_text().splitlines()
    assert lines == ["step,env,return,length,time", "5,0,5.0,1,0.000"]


def test_a_file_shorter_than_the_checkpoint_says_is_refused_untouched(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss/q": 1.0})
    offset = log.offset
    log.close()
    path = tmp_path / "metrics.jsonl"
    os.truncate(path, offset - 3)
    left = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl has \d+ bytes"):
        MetricsLog(tmp_path).rewind(offset)
    assert path.read_bytes() == left


def test_an_edited_file_is_refused(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss/q": 1.0})
    offset = log.offset
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * 2 + path.read_bytes())
    with pytest.raises(UserError, match="was edited"):
        MetricsLog(tmp_path).rewind(offset)


def test_a_full_disk_delays_lines_and_loses_none(tmp_path, monkeypatch, caplog):
    log = EpisodeLog(tmp_path)
    full = True
    write = os.pwrite

    def pwrite(file, data, at):
        if not full:
            return write(file, data, at)
        if len(data) > 5:
            return write(file, data[:5], at)  # a short write, then no space
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs.os, "pwrite", pwrite)
    for step in range(1, 4):
        log.write(step, 0, 1.5, 2, 0.0)
        log.flush()
    with pytest.raises(OSError, match="No space"):
        _ = log.offset  # a checkpoint must not promise lines that are not there
    assert len(caplog.records) == 1, "told once"
    full = False
    log.write(4, 0, 1.5, 2, 0.0)
    assert log.offset == (tmp_path / "episodes.csv").stat().st_size
    lines = (tmp_path / "episodes.csv").read_text().splitlines()
    assert lines[1:] == [f"{step},0,1.5,2,0.000" for step in range(1, 5)]
