import io
import logging
import sys
import time
from types import SimpleNamespace

import pyte
import pytest
from rich.console import Console

from rlrun.run import console
from rlrun.run.console import Screen, farewell, log_to

METRICS = {
    "train/return_mean": 87.25,
    "loss/policy": -0.0123,
    "loss/q": 2.345,
    "loss/explained_variance": 0.5,
    "trust_region/active_share": 0.125,
    "importance/mean": float("nan"),
    "replay/slots": 4000,
    "time/steps_per_second": 8900.0,
}


class Clock:
    """Stands for the module time."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


class Terminal:
    """A terminal emulator that an in-process console writes to."""

    def __init__(self, width, height):
        self.display = pyte.HistoryScreen(width, height, history=1000)
        self.stream = pyte.Stream(self.display)
        self.console = Console(
            file=io.StringIO(), force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self.resize(width, height)

    def resize(self, width, height):
        self.console.size = (width, height)
        self.display.resize(height, width)

    def lines(self):
        """Everything from the first line on, also what has scrolled out."""
        file = self.console.file
        self.stream.feed(file.getvalue().replace("\n", "\r\n"))
        file.seek(0)
        file.truncate()
        columns = self.display.columns
        old = ["".join(row[i].data for i in range(columns)) for row in self.display.history.top]
        return [line.rstrip() for line in [*old, *self.display.display]]


@pytest.fixture
def terminal(monkeypatch):
    def make(width=80, height=30):
        made = Terminal(width, height)
        monkeypatch.setattr(console, "is_terminal", lambda: True)
        monkeypatch.setattr(console, "console", lambda: made.console)
        return made

    return make


def update(screen, step, return_mean=87.25):
    screen.update(step, 8900.4, METRICS, return_mean, return_mean)


@pytest.mark.parametrize(("width", "height"), [(40, 40), (80, 24), (120, 30), (20, 50), (80, 8)])
def test_live_screen_is_redrawn_in_place_and_leaves_no_remains(terminal, clock, width, height):
    shown = terminal(width, height)
    with Screen("ACER on X", {"folder": "a"}, 100_000) as screen:
        for step in range(0, 64_001, 1000):
            clock.now += 0.4
            update(screen, step, None if step < 5000 else step / 1000)
            if step == 32_000:
                screen.note("a note")
                print("a print")
                screen.evaluation(step, 40.0, 2.0, 5)
        during = shown.lines()
        assert len(during) <= 3 + 2 + height
    lines = shown.lines()
    assert [line for line in lines if "ACER" in line] == ["ACER on X"]
    for once in ("a note", "a print", "  progress", "  steps", "  evaluation", "policy"):
        assert sum(line.startswith(once) or once == line.strip().split("  ")[0] for line in lines)
        assert sum(once in line for line in lines) == 1, once
    assert lines.index("a note") < next(i for i, x in enumerate(lines) if "progress" in x)
    if width >= 80:
        text = "\n".join(lines)
        assert "64 %" in text
        assert "64,000 of 100,000   8,900 per second   0:26 elapsed" in text
        assert "left" not in text, "nothing is left to do when it has ended"
        assert "return 40.0 ± 2.0   5 episodes   at step 32,000" in text
        assert "active share         12.5 %" in text
    assert console.sys.stdout is not shown.console.file


def test_a_narrowed_terminal_keeps_no_remains(terminal, clock):
    shown = terminal(100, 30)
    with Screen("title", {}, 1000) as screen:
        update(screen, 500)
        shown.lines()
        # A real terminal wraps the old lines when narrowed; the emulator is told what it shows.
        old = screen._frame._lengths
        wrapped = sum(max(1, -(-length // 50)) for length in old)
        assert wrapped > len(old)
        shown.resize(50, 60)
        shown.display.reset()
        shown.stream.feed("above\r\n" + "old\r\n" * wrapped)
        clock.now += 1
        update(screen, 600)
    lines = shown.lines()
    assert lines[0] == "above"
    assert "old" not in lines


def test_updates_between_two_drawings_are_cheap(terminal, clock):
    shown = terminal()
    with Screen("title", {}, 10**6) as screen:
        update(screen, 0)
        size = shown.console.file.tell()
        began = time.perf_counter()
        for step in range(1000):
            update(screen, step)
        assert time.perf_counter() - began < 0.05
        assert shown.console.file.tell() == size


def test_the_last_metrics_stay_when_an_update_has_none(terminal, clock):
    shown = terminal()
    with Screen("title", {}, 1000) as screen:
        update(screen, 1)
        screen.update(2, 1.0, {}, None, None)
    assert any("explained variance" in line for line in shown.lines())


def test_a_lost_terminal_does_not_end_the_run(terminal, clock, monkeypatch):
    shown = terminal()
    before = sys.stdout

    def lost(*_args):
        raise OSError(5, "Input/output error")

    with Screen("title", {}, 1000) as screen:
        monkeypatch.setattr(shown.console, "file", SimpleNamespace(write=lost, flush=lost))
        for step in range(5):
            clock.now += 1
            update(screen, step)
            screen.note("a note")
    assert sys.stdout is before


def test_plain_lines_elsewhere(capsys, clock):
    with Screen("ACER on X", {"folder": "a/b"}, 100_000, 0) as screen:
        for step in range(0, 12_801, 100):
            clock.now += 0.125
            update(screen, step)
        screen.evaluation(12_800, 40.0, 2.0, 5)
        screen.note("a note")
    assert capsys.readouterr().out.splitlines() == [
        "ACER on X",
        "  folder      a/b",
        "step 700/100,000 (1 %)  return 87.2  8,900 steps/s  ETA 0:11",
        "step 8,700/100,000 (9 %)  return 87.2  8,900 steps/s  ETA 0:10",
        "evaluation at step 12,800: return 40.0 ± 2.0 over 5 episodes",
        "a note",
        "step 12,800/100,000 (13 %)  return 87.2  8,900 steps/s",
    ]


def test_records_go_to_the_console_and_the_log_only_while_open(tmp_path, capsys):
    logger = logging.getLogger("rlrun.somewhere")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with log_to(tmp_path / folder / "run.log"):
            logger.info("in %s", folder)
            logger.debug("not told")
            logger.error("wrong")
    assert capsys.readouterr().out.splitlines() == ["in a", "error: wrong", "in b", "error: wrong"]
    rows = (tmp_path / "b" / "run.log").read_text().splitlines()
    assert [row.split(" ", 2)[2] for row in rows] == ["INFO in b", "ERROR wrong"]
    assert not logging.getLogger("rlrun").handlers


def test_farewell_says_what_came_out_and_what_to_do_next(tmp_path, capsys):
    evaluation = {"return_mean": 487.25, "return_std": 12.0, "episodes": 100, "deterministic": True}
    result = {
        "status": "stopped",
        "step": 100_000,
        "steps_per_second": 8912.4,
        "eval": {**evaluation, "returns": [1.0]},
        "train_return_last100": 456.7,
    }
    long = "outputs/" + "x" * 200
    farewell(tmp_path / "run", result, [(f"rlrun evaluate {long}", "How good is it?")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "",
        "stopped     100,000 steps   8,912 per second",
        "evaluation  return 487.2 ± 12.0   100 episodes, deterministic",
        "training    return 456.7   mean of the last 100 episodes",
        f"folder      {tmp_path / 'run'}",
        "",
        "What next",
        "  How good is it?",
        f"    rlrun evaluate {long}",
    ]


def test_the_shared_console_writes_no_codes_where_nobody_watches(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.console.cache_clear()
    console.console().print("a word", style="bold red")
    assert console.console() is console.console()
    console.console.cache_clear()
    assert capsys.readouterr().out == "a word\n"
