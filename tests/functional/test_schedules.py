import pytest

from rlrun.functional import schedules

PROGRESS = [0, 0.1, 0.25, 0.26, 0.4375, 0.5, 0.75, 0.76, 1]
TABLE = {
    "constant": [1] * 9,
    "linear": [1, 0.9, 0.75, 0.74, 0.5625, 0.5, 0.25, 0.24, 0],
    "middle_drop": [1, 0.9, 0.75] + [0.075] * 6,
    "double_linear_con": [1, 0.8, 0.5, 0.48] + [0.125] * 5,
    "double_middle_drop": [1, 0.9, 0.75] + [0.075] * 4 + [0.125] * 2,
}


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    schedule = getattr(schedules, name)
    assert [schedule(p) for p in PROGRESS] == pytest.approx(TABLE[name])


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("progress", [-0.5, 1.0001, 7.0])
def test_progress_is_clamped(name, progress):
    schedule = getattr(schedules, name)
    assert schedule(progress) == schedule(min(max(progress, 0.0), 1.0)) >= 0.0
