"""What a search may choose: words of the command line as ranges and as fixed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rlrun.schema import UserError

_FORMS = (
    "a search takes KEY=VALUE, KEY=a,b,c or choice(a,b,c), interval(LOW,HIGH), "
    "int(interval(LOW,HIGH)), range(FROM,TO,STEP), and tag(log,interval(LOW,HIGH))"
)


@dataclass(frozen=True)
class Space:
    """The words that hold for all trials, and the range of each key that differs."""

    fixed: list[str]
    ranges: dict[str, BaseDistribution]
    """By key, as it was typed."""

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """What one types for a trial with these parameters."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items())]

    def probes(self) -> list[dict[str, Any]]:
        """Parameters of few trials in which each key takes its ends and a value between them.

        What is wrong with a range shows in one of these, before any trial has begun.
        """
        values = {key: _probes(found) for key, found in self.ranges.items()}
        count = max(map(len, values.values()))
        return [{key: v[i % len(v)] for key, v in values.items()} for i in range(count)]


def space(words: Sequence[str]) -> Space:
    """The space that the words of a command line describe; of two for one key the last counts.

    Raises:
        UserError: a word that a search cannot use, or none that leaves a choice.
    """
    fixed: dict[str, str] = {}
    ranges: dict[str, BaseDistribution] = {}
    for word in words:
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise UserError(f"{word}: not understood; {_FORMS}") from error
        key = override.get_key_element()
        if override.key_or_group == "seed":
            raise UserError(
                "seed: a search gives each trial the seeds 0 to N-1; type hydra.sweeper.seeds=N"
            )
        fixed.pop(key, None)
        ranges.pop(key, None)
        if override.is_sweep_override():
            ranges[key] = _range(override)
        else:
            fixed[key] = word
    if not ranges:
        raise UserError(f"there is nothing to choose; {_FORMS}")
    return Space(list(fixed.values()), ranges)


def _range(override: Override) -> BaseDistribution:
    word, found = override.input_line, override.value()
    tags: set[str] = getattr(found, "tags", set())
    if unknown := sorted(tags - {"log"}):
        raise UserError(f"{word}: unknown tag {unknown[0]}; there is only log")
    log = "log" in tags
    try:
        if isinstance(found, IntervalSweep):
            return _number(found.start, found.end, log)
        if isinstance(found, RangeSweep) and not found.shuffle:
            values = list(found.range())
            low, high = min(values), max(values)
            return _number(low, high, log, abs(found.step))
        if isinstance(found, ChoiceSweep) and not (log or found.shuffle):
            return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{word}: no range: {reason}") from error
    raise UserError(f"{word}: {_FORMS}")


def _number(low: Any, high: Any, log: bool, step: Any = None) -> BaseDistribution:
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log, 1 if step is None else int(step))
    return FloatDistribution(float(low), float(high), log, None if step is None else float(step))


def _probes(found: BaseDistribution) -> list[Any]:
    """Every choice, or the ends; between them one that is no whole number if it need not be."""
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    assert isinstance(found, IntDistribution | FloatDistribution)
    ends = [found.low, found.high]
    if isinstance(found, FloatDistribution) and found.step is None:
        ends.append(found.low + 0.618 * (found.high - found.low))
    return list(dict.fromkeys(ends))
