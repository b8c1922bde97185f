import pytest

from rlrun.run import panel

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


def test_what_is_not_shown_above_stands_in_the_table():
    status = panel.Status(100, 50, metrics=METRICS, return_mean=1.0, length_mean=2.0)
    text = "\n".join("".join(t for t, _ in line) for line in panel.lines(status, 80))
    for name in ("policy", "q", "explained variance", "active share", "mean", "slots"):
        assert f"  {name} " in text
    assert "nan" in text
    assert "steps per second" not in text
    assert "4,000" in text


@pytest.mark.parametrize("width", [10, 33, 40, 79, 80, 81, 120, 300])
def test_lines_fit_and_ascii_is_enough_where_there_is_no_more(width):
    status = panel.Status(1000, 700, metrics=METRICS, return_mean=1.0, length_mean=2.0)
    status.remember_return()
    for line in panel.lines(status, width, unicode=False):
        text = "".join(t for t, _ in line)
        assert text.isascii()
        assert len(text) < max(width, 35)  # the screen cuts what is wider than a tiny terminal


def test_the_curve_stands_below_the_bar():
    status = panel.Status(1000, 0)
    for step in range(0, 501, 5):
        status.step, status.return_mean = step, float(step)
        status.remember_return()
    bar, curve = ("".join(t for t, _ in line) for line in panel.lines(status, 80)[1:3])
    assert bar.rstrip().endswith("50 %")
    assert curve.rstrip().endswith("500.0")
    assert "▁" in curve
    assert "▅" in curve
    assert len(curve.split("500.0")[0].rstrip()) == bar.rindex("━") + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (200_000, "2 d 7 h"), (float("inf"), "?")],
)
def test_durations(seconds, text):
    assert panel.duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("a", 0.0, "0"),
        ("a", 7e-4, "7.00e-04"),
        ("a", -0.01234, "-0.0123"),
        ("a", 12.3456, "12.35"),
        ("a", 12345.6, "12,346"),
        ("a", 4000, "4,000"),
        ("a", 1e12, "1.00e+12"),
        ("active_share", 0.0312, "3.1 %"),
        ("a", float("-inf"), "-inf"),
    ],
)
def test_numbers(name, value, text):
    assert panel.number(name, value) == text
    assert len(text) <= 9


@pytest.mark.parametrize(
    ("share", "bar"), [(0, "─────"), (0.45, "━━───"), (0.5, "━━╸──"), (0.99, "━━━━╸"), (1, "━━━━━")]
)
def test_the_bar_moves_by_half_a_cell(share, bar):
    assert "".join(text for text, _ in panel._bar(share, 5, unicode=True)) == bar
