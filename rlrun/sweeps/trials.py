"""The trials of a search, as Optuna keeps them: asked for, watched, told once.

Several drivers may work on one search. Each trial has one owner, who holds the lock of its folder
`trials/NNNN`; the kernel frees it however the owner ends, and a trial that runs without an owner is
taken up by the next driver that has room.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from rlrun import stored
from rlrun.run.lock import RunLock
from rlrun.run.store import make_folder, write_atomic
from rlrun.schema import UserError
from rlrun.sweeps.settings import Settings

MARK, DATABASE, TURN = "search.json", "study.db", "turn.lock"
"""Files in the folder of a search: what it is, its trials, and whose turn it is to ask."""

_LOCK_SECONDS = 60.0  # patience with another driver's write
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


@dataclass(frozen=True)
class Owned:
    """A trial that this driver has in hand."""

    number: int
    params: dict[str, Any]
    trial: optuna.Trial
    lock: RunLock


class Trials:
    """The study of a search.

    Args:
        folder: of the sweep.
        settings: of the search.
        ranges: by key.
        identity: what may not differ when the search goes on.

    Raises:
        UserError: the storage cannot be opened, or holds a search for something else.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        ranges: Mapping[str, BaseDistribution],
        identity: Mapping[str, Any],
    ) -> None:
        self.folder, self.settings, self.ranges = folder, settings, ranges
        self.owned: dict[int, Owned] = {}
        self._left: set[int] = set()  # for the next driver
        _sampler(settings, 0)  # if it cannot be had, nothing is written
        with self.turn():
            place = {"storage": settings.storage, "study": settings.study or folder.name}
            known = place_of(folder)
            if changed := [key for key in place if known and known.get(key) != place[key]]:
                raise UserError(
                    f"{folder} has its trials elsewhere: {changed[0]} is {known.get(changed[0])}. "
                    "Leave hydra.sweeper.storage and study as they were, or give this search "
                    "another place by sweep.name=NAME."
                )
            self.study = open_study(folder, place, create=True)
            self._check(identity)
            self.study.pruner = _pruner(settings)
            if not (folder / MARK).exists():
                write_atomic(folder / MARK, json.dumps(place | dict(identity), indent=1))

    def _check(self, identity: Mapping[str, Any]) -> None:
        known = self.study.user_attrs.get("search")
        if known is None:
            if self.study.get_trials(deepcopy=False):
                raise UserError(
                    f"hydra.sweeper.storage: it holds a study {self.study.study_name} that is not "
                    "rlrun's; give another name by hydra.sweeper.study=NAME"
                )
            self.study.set_user_attr("search", dict(identity))
            return
        differing = [
            f"{key} is {value}, and was {known.get(key)}"
            for key, value in identity.items()
            if known.get(key) != value
        ]
        if differing:
            raise UserError(
                f"{self.folder} is another search: {'; '.join(differing)}. Give this one another "
                "place by sweep.name=NAME."
            )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One driver at a time asks for trials and numbers jobs."""
        make_folder(self.folder)
        handle = os.open(self.folder / TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def take(self) -> Owned | None:
        """A trial that has lost its owner, or a new one; None if there is none to have.

        To be called in one's `turn`.
        """
        trials = self.study.get_trials(deepcopy=False)
        for found in trials:
            mine = found.number in self.owned or found.number in self._left
            if found.state is TrialState.RUNNING and not mine:
                lock = self._lock(found.number)
                if lock is not None and self._is_running(found.number):
                    return self._own(optuna.Trial(self.study, found._trial_id), lock)
                if lock is not None:
                    lock.release()
        if len(trials) >= self.settings.n_trials:
            return None
        trial = self.study.ask()
        lock = self._lock(trial.number)
        assert lock is not None, "nobody else can have it before our turn is over"
        return self._own(trial, lock)

    def _own(self, trial: optuna.Trial, lock: RunLock) -> Owned:
        """Parameters that it has already stay; a driver may have died between two of them."""
        # A sampler of its own for each trial: one that is begun anew would repeat itself.
        self.study.sampler = _sampler(self.settings, trial.number)
        try:
            params = {key: _suggest(trial, key, found) for key, found in self.ranges.items()}
        except BaseException:
            lock.release()
            raise
        owned = Owned(trial.number, params, trial, lock)
        self.owned[trial.number] = owned
        return owned

    def _lock(self, number: int) -> RunLock | None:
        lock = RunLock(self.folder / "trials" / f"{number:04d}")
        try:
            lock.acquire()
        except UserError:
            return None
        return lock

    def _is_running(self, number: int) -> bool:
        return self.study.get_trials(deepcopy=False)[number].state is TrialState.RUNNING

    def report(self, owned: Owned, step: int, value: float) -> bool:
        """Take an objective from the middle of the training; whether to stop the trial there."""
        owned.trial.report(value, step)
        return owned.trial.should_prune()

    def reported(self, owned: Owned) -> int:
        """The last step that was reported; -1 before the first."""
        found: FrozenTrial = self.study.get_trials(deepcopy=False)[owned.number]
        return -1 if found.last_step is None else found.last_step

    def note(self, owned: Owned, jobs: Sequence[int]) -> None:
        """Keep with the trial which jobs are its own."""
        owned.trial.set_user_attr("jobs", list(jobs))

    def tell(
        self, owned: Owned, state: TrialState, value: float | None = None, reason: str = ""
    ) -> None:
        """The end of a trial."""
        if reason:
            owned.trial.set_user_attr("reason", reason)
        self.study.tell(owned.trial, value, state)
        self._give_up(owned)

    def leave(self, owned: Owned) -> None:
        """Let another driver, or this command begun again, go on with it."""
        self._left.add(owned.number)
        self._give_up(owned)

    def _give_up(self, owned: Owned) -> None:
        del self.owned[owned.number]
        owned.lock.release()

    def told(self) -> int:
        """How many trials have come to their end."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def close(self) -> None:
        """Give up what is still in hand."""
        for owned in list(self.owned.values()):
            self._give_up(owned)


def open_study(folder: Path, place: Mapping[str, Any], create: bool = False) -> optuna.Study:
    """The study of the search in `folder`.

    Args:
        folder: of the sweep.
        place: `storage` and `study`, as in its `search.json`.
        create: make it if it is not there.

    Raises:
        UserError: it cannot be opened.
    """
    if not {"storage", "study"} <= set(place):
        raise UserError(f"{folder / MARK} is damaged: it does not say where the trials are")
    url = place["storage"] or f"sqlite:///{(folder / DATABASE).resolve()}"
    try:
        if url.startswith("sqlite"):
            waiting = {"connect_args": {"timeout": _LOCK_SECONDS}}
            storage: Any = optuna.storages.RDBStorage(url, engine_kwargs=waiting)
        else:
            storage = optuna.storages.get_storage(url)
        if create:
            return optuna.create_study(
                study_name=place["study"],
                storage=storage,
                direction="maximize",
                load_if_exists=True,
            )
        return optuna.load_study(study_name=place["study"], storage=storage)
    except Exception as error:  # whatever a database and its driver may raise
        told = str(error).splitlines()[0] if str(error) else repr(error)
        raise UserError(
            f"hydra.sweeper.storage: the study in {url} cannot be opened: {told}"
        ) from error


def place_of(folder: Path) -> dict[str, Any]:
    """The `search.json` of a sweep; empty if it is no search."""
    return stored.read_json(folder / MARK)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Optuna tells about itself off the screen."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", module="optuna")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _suggest(trial: optuna.Trial, key: str, found: BaseDistribution) -> Any:
    if isinstance(found, CategoricalDistribution):
        return trial.suggest_categorical(key, found.choices)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(key, found.low, found.high, step=found.step, log=found.log)
    assert isinstance(found, FloatDistribution)
    return trial.suggest_float(key, found.low, found.high, step=found.step, log=found.log)


def _sampler(settings: Settings, number: int) -> optuna.samplers.BaseSampler:
    text = f"{settings.sampler_seed}/{number}"
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    if settings.sampler == "tpe":
        # Trials that still run count as bad ones, lest all workers try the same place.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    try:
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    except ImportError as error:
        raise UserError(
            "hydra.sweeper.sampler=cmaes needs the package cmaes: pip install 'rlrun[search]'"
        ) from error


def _pruner(settings: Settings) -> optuna.pruners.BasePruner:
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    assert settings.asha.min_steps is not None, "filled in by the search"
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=settings.asha.min_steps, reduction_factor=settings.asha.factor
    )
