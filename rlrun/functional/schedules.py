"""Learning-rate schedules: the factor on the initial rate as a function of progress.

`progress` is the share of the training that is done; it is clamped to [0, 1], so that no
schedule can ever turn negative. The names and the numbers are those of stable-baselines.
"""


def _remaining(progress: float) -> float:
    return 1.0 - min(max(progress, 0.0), 1.0)


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 down to 0 in a straight line."""
    return _remaining(progress)


def middle_drop(progress: float) -> float:
    """Linear for the first quarter, then 0.075."""
    left = _remaining(progress)
    return left if left >= 0.75 else 0.075


def double_linear_con(progress: float) -> float:
    """Linear at twice the slope down to 0.125, then 0.125."""
    return max(2.0 * _remaining(progress) - 1.0, 0.125)


def double_middle_drop(progress: float) -> float:
    """Linear for the first quarter, then 0.075, and 0.125 in the last quarter."""
    left = _remaining(progress)
    if left >= 0.75:
        return left
    return 0.075 if left >= 0.25 else 0.125
