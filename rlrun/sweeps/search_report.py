"""What a search has found."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from typing import TYPE_CHECKING

from rlrun.run.console import say
from rlrun.sweeps.folder import Job, Sweep
from rlrun.sweeps.settings import missing

if TYPE_CHECKING:
    import optuna

_SHOWN = 5
_ENOUGH = 4
"""Finished trials from which the importance of hyperparameters is told."""


def report(sweep: Sweep) -> int:
    """Tell the best trials, what mattered, and how to train the best one with more seeds.

    Returns:
        The exit code: 1 if a trial has failed, or none has been finished.

    Raises:
        UserError: the storage cannot be opened.
    """
    try:
        from rlrun.sweeps import trials
    except ModuleNotFoundError as error:
        raise missing("the report of a search needs", error) from error
    with trials.quiet():
        study = trials.open_study(sweep.folder, trials.place_of(sweep.folder))
        return _tell(sweep, study)


def _tell(sweep: Sweep, study: optuna.Study) -> int:
    found = study.get_trials(deepcopy=False)
    counts = Counter(trial.state.name.lower() for trial in found)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    say(f"{sweep.folder}: {len(found)} trials: {told or 'none told'}")
    for trial in found:
        if trial.state.name == "FAIL":
            reason = trial.user_attrs.get("reason", "")
            say(f"  trial {trial.number} failed: {reason}")
    values = {trial.number: trial.value for trial in found if trial.state.name == "COMPLETE"}
    ranked = sorted(
        (trial for trial in found if trial.number in values), key=lambda t: -(t.value or 0.0)
    )
    if not ranked:
        return 1
    say("best trials")
    for trial in ranked[:_SHOWN]:
        params = "  ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        say(f"  {trial.value:10.6g}  trial {trial.number:<3d} {params}")
        for job in _jobs(sweep, trial):
            say(f"              seed {job.seed}: {job.run}")
    _tell_importance(study, len(ranked))
    (job, *_) = _jobs(sweep, ranked[0])
    words = [word for word in job.words if not word.startswith(("seed=", "sweep.name="))]
    say("train the best one with seeds that it was not chosen by")
    say(f"  rlrun -m {shlex.join([*_folders(sweep.command), *words])} 'seed=range(100,105)'")
    return 1 if counts["fail"] else 0


def _folders(command: list[str]) -> list[str]:
    """The flags of a command that bring options of the user's own."""
    found: list[str] = []
    for flag, value in itertools.pairwise([*command, ""]):
        if flag in ("--config-dir", "-cd"):
            found += [flag, value]
        elif flag.startswith("--config-dir="):
            found.append(flag)
    return found


def _tell_importance(study: optuna.Study, finished: int) -> None:
    if finished < _ENOUGH:
        say(f"importance of the hyperparameters: told from {_ENOUGH} finished trials on")
        return
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    # PED-ANOVA needs no scikit-learn. A quarter of the trials stands for the good ones: a
    # search has tens of them, of which the tenth that is the default would be one or two.
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    say("importance of the hyperparameters (PED-ANOVA), of finished trials")
    for key, share in get_param_importances(study, evaluator=evaluator).items():
        say(f"  {share:6.1%}  {key}")


def _jobs(sweep: Sweep, trial: optuna.trial.FrozenTrial) -> list[Job]:
    return [sweep.jobs[number] for number in trial.user_attrs["jobs"]]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
