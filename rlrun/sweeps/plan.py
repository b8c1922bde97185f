"""From the words of a sweep to its jobs, all of them checked before the first one starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlrun import config as configs
from rlrun.schema import UserError
from rlrun.sweeps.folder import Job

_SHOWN = 5  # problems told in full


def combinations(words: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The words of each job of a grid: `a=1,2 b=3` gives `a=1 b=3` and `a=2 b=3`.

    Of several words for one key the last one counts.

    Args:
        words: of the command line.
        loader: knows the options of groups, for `glob(...)`.

    Raises:
        UserError: there are none, or not a number of them that can be counted.
    """
    overrides = OverridesParser.create(loader).parse_overrides(list(words))
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: a grid takes values (a,b,c or range(FROM,TO)); a range is "
                "for a search: hydra/sweeper=optuna"
            )
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    if not batch:
        raise UserError(f"{' '.join(words)}: there is no job in it, for a range or glob is empty")
    return batch


def planned(
    combos: Iterable[list[str]], compose: Callable[[list[str]], dict[str, Any]]
) -> tuple[list[Job], list[dict[str, Any]]]:
    """The jobs, numbered from 0, and their checked configs.

    Args:
        combos: words of each job.
        compose: gives the config of such words, resolved but not checked.

    Raises:
        UserError: what is wrong with any of them, or two are the same run.
    """
    jobs: list[Job] = []
    sound: list[dict[str, Any]] = []
    problems: dict[str, list[str]] = {}
    for number, words in enumerate(combos):
        text = " ".join(words)
        try:
            config = configs.check(compose(words))
        except UserError as error:
            problems.setdefault(str(error), []).append(text)
            continue
        run = configs.run_folder(config)
        twins = [" ".join(job.words) for job in jobs if job.run == str(run)]
        if twins:
            why = "" if text in twins else ", for what differs decides nothing about it"
            same = f"is the same run as `{twins[0]}`{why}"
            problems.setdefault(same, []).append(text)
            continue
        steps, digest = config["total_timesteps"], configs.digest(config)
        jobs.append(Job(number, words, str(run), digest, config["seed"], steps))
        sound.append(config)
    if problems:
        raise UserError(_told(problems, len(jobs)))
    return jobs, sound


def _told(problems: dict[str, list[str]], sound: int) -> str:
    wrong = sum(map(len, problems.values()))
    lines = [f"{wrong} of {wrong + sound} jobs cannot be run, so that none was started:"]
    for problem, texts in list(problems.items())[:_SHOWN]:
        more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
        lines.append(f"  {texts[0]}{more}: {problem}")
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN} problems more")
    return "\n".join(lines)
