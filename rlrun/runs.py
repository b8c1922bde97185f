"""The life of a run: begin, go on, stop, finish."""

import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from rlrun import config as configs
from rlrun import stored
from rlrun.build import Parts, assemble, make_envs
from rlrun.envs import BadEnvironment, is_deterministic
from rlrun.evaluation import fitting, play_episodes
from rlrun.optim.errors import NonFiniteUpdate
from rlrun.run import plots, provenance
from rlrun.run.checkpoint import Checkpointer, NoIntactCheckpoint
from rlrun.run.console import Screen, farewell, log_to, say
from rlrun.run.evaluate import Evaluation
from rlrun.run.lock import RunLock, clear
from rlrun.run.loggers import SafeView, run_title
from rlrun.run.logs import EpisodeLog, MetricsLog
from rlrun.run.signals import StopRequest, stop_on_signals
from rlrun.run.store import CheckpointError, write_atomic
from rlrun.run.trainer import NotSavedError, Trainer
from rlrun.run.training import Training, Watcher
from rlrun.schema import UserError

logger = logging.getLogger(__name__)

DIAGNOSTIC = "diagnostic.json"
BROKE_DOWN, NOT_SAVED = 3, 4
"""Exit codes of a training that failed: numbers that are not finite, a disk that takes nothing."""


def train(config: dict[str, Any], overrides: list[str]) -> int:
    """Train in the config's own folder: begin, go on, or say that it is finished.

    Args:
        config: checked.
        overrides: what the user typed, for the record.

    Returns:
        The exit code.

    Raises:
        UserError: something has to be changed first; nothing has been written.
    """
    folder = configs.run_folder(config)
    if not config["run"]["overwrite"] and (folder / "config.yaml").exists():
        before, now = stored.read(folder / "config.yaml"), configs.dotted(config)
        if configs.digest(before) != configs.digest(config):
            then = configs.dotted(before)
            differences = [
                f"{key}={then.get(key)!r} instead of {value!r}"
                for key, value in now.items()
                if not isinstance(value, Mapping) and then.get(key) != value
            ]
            raise UserError(
                f"{folder} was resumed with other settings ({', '.join(differences)}). "
                f"`rlrun resume {folder}` goes on with it, run.overwrite=true begins it anew."
            )
    return _run(config, overrides, folder)


def resume(folder: Path, changes: list[str], trust: list[str]) -> int:
    """Go on with the run in `folder`, with some of its settings changed.

    Returns:
        The exit code.

    Raises:
        UserError: there is no run that can be read, or a change is not possible.
    """
    config = configs.changed(stored.load(folder / "config.yaml", trust), changes)
    config["run"]["overwrite"] = False  # whatever the run began with
    return _run(config, changes, folder)


def adopt(model: Path, changes: list[str], trust: list[str]) -> int:
    """Go on with a model that was trained in Python, as a run in the folder of its settings.

    Args:
        model: folder in which it is unpacked.
        changes: `KEY=VALUE` words.
        trust: names of the packages besides rlrun whose components may be built.

    Returns:
        The exit code.

    Raises:
        UserError: there is a run in its place already, or it cannot go on from here.
    """
    config = configs.changed(stored.load(model / "config.yaml", trust), changes)
    make_envs(config, "env", 1).close()
    config["run"]["dir"] = configs.Run.dir  # not where a file says
    folder = configs.run_folder(config)
    if folder.exists():
        raise UserError(
            f"{folder} is there already, with the settings of this model; `rlrun resume {folder}` "
            f"goes on with it. Move it away to go on with the model."
        )
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    partial.rename(folder)
    try:
        exact = is_deterministic(config["env"]["id"], config["env"]["kwargs"])
        return _run(config, changes, folder, exact)
    except UserError:  # it has not begun
        shutil.rmtree(folder)
        raise


def _run(
    config: dict[str, Any], overrides: list[str], folder: Path, deterministic: bool = True
) -> int:
    """Take the run in hand, train, and leave its result.

    Args:
        config: checked.
        overrides: what the user typed, for the record.
        folder: of the run.
        deterministic: as the environments of a run that goes on were found to be.
    """
    parts = assemble(config)
    with ExitStack() as stack:
        stack.callback(parts.collector.envs.close)
        stack.enter_context(RunLock(folder))
        if config["run"]["overwrite"]:
            clear(folder)
            config["run"]["overwrite"] = False  # not again when it is resumed
        stack.enter_context(log_to(folder / "run.log"))
        checkpointer = Checkpointer(folder, config["checkpoint"]["keep"])
        try:
            latest = checkpointer.latest()
        except NoIntactCheckpoint as error:
            raise UserError(f"{error}; run.overwrite=true begins the run anew") from error
        if stored.is_finished(stored.read_json(folder / "result.json"), config["total_timesteps"]):
            say(
                f"{folder} is finished. `rlrun resume {folder} total_timesteps=N` goes on with "
                f"it, run.overwrite=true begins it anew."
            )
            return 0
        stop = stack.enter_context(stop_on_signals())
        trainer = _trainer(config, parts, checkpointer, folder, stop)
        stack.callback(trainer.close)
        if latest is None:
            exact = is_deterministic(config["env"]["id"], config["env"]["kwargs"])
            trainer.begin()
            write_atomic(folder / "overrides.yaml", yaml.safe_dump(overrides))
        else:
            try:
                state, _ = checkpointer.load(latest, parts.algorithm.memory)
            except CheckpointError as error:
                raise UserError(str(error)) from error
            with fitting(latest):
                exact = trainer.load_state_dict(state) and deterministic
                logger.info("Going on at step %s from %s", f"{trainer.step:,}", latest)
        manifest = provenance.begin(
            folder,
            fresh=latest is None,
            seed=config["seed"],
            step=trainer.step,
            overrides=overrides,
            device=parts.device,
            exact=exact,
        )
        write_atomic(folder / "config.yaml", stored.dump(config))
        return _train(config, folder, trainer, manifest, stop)


def _trainer(
    config: Mapping[str, Any],
    parts: Parts,
    checkpointer: Checkpointer,
    folder: Path,
    stop: StopRequest,
) -> Trainer:
    saving, evaluation = config["checkpoint"], config["eval"]
    episodes, deterministic = evaluation["episodes"], evaluation["deterministic"]

    def play() -> Evaluation | None:
        return play_episodes(config, parts, "eval", episodes, deterministic, stop)

    minutes = saving["every_minutes"]
    return Trainer(
        Training(parts.algorithm, parts.collector),
        total_timesteps=config["total_timesteps"],
        log_interval=config["log_interval"],
        evaluate=play if episodes else None,
        evaluate_every=evaluation["every_steps"],
        save_every=saving["every_steps"],
        save_every_seconds=None if minutes is None else 60.0 * minutes,
        checkpointer=checkpointer,
        metrics_log=MetricsLog(folder),
        episode_log=EpisodeLog(folder),
        evaluation_log=MetricsLog(folder, "evaluations.jsonl"),
        stop=stop,
    )


def _train(
    config: Mapping[str, Any],
    folder: Path,
    trainer: Trainer,
    manifest: Mapping[str, Any],
    stop: StopRequest,
) -> int:
    """Run the loop with everything that watches it, and tell how it ended."""
    views = []
    if config["logger"]:
        views.append(SafeView(configs.instantiate(config["logger"], "logger")()))
    for view in views:
        view.start(folder, manifest["id"], config, trainer.step)
    for reason in manifest["reasons"]:
        logger.warning("Not exact, only approximate: %s", reason)
    algorithm, env, seed = run_title(config)
    here = manifest["parts"][-1]
    details = {
        "seed": seed,
        "folder": str(folder),
        "envs": f"{config['env']['n_envs']} in parallel",
        "device": f"{here['device']}, {here['threads']} threads",
        "resume": manifest["grade"],
    }
    screen = Screen(f"{algorithm} on {env}", details, config["total_timesteps"], trainer.step)
    (folder / DIAGNOSTIC).unlink(missing_ok=True)  # of a breakdown before this
    status, reason, code = "failed", None, 1
    try:
        with screen, _looking_on(config, trainer) as trainer.watcher:
            finished = trainer.run(screen, views)
        status, code = ("finished", 0) if finished else ("stopped", stop.exit_code)
    except (NonFiniteUpdate, BadEnvironment) as error:
        reason, code = str(error), BROKE_DOWN
        with _telling_a_full_disk():
            _write_diagnostic(folder, trainer.step, error)
    except NotSavedError as error:
        reason, code = str(error), NOT_SAVED
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        for view in views:
            view.close(code)
        result = trainer.result() | {"status": status, "reason": reason}
        with _telling_a_full_disk():
            write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    if reason:
        logger.error("%s", reason)
    logger.info("%s at step %s", status.capitalize(), f"{trainer.step:,}")
    with _telling_a_full_disk():
        plots.learning_curve(folder)
    farewell(folder, result, _next_commands(folder, status))
    return code


def _looking_on(
    config: Mapping[str, Any], trainer: Trainer
) -> AbstractContextManager[Watcher | None]:
    """The callback of the config, if it has one."""
    if not config["callback"]:
        return nullcontext()
    from rlrun.api.base_callback import as_callback
    from rlrun.api.learning import Watch
    from rlrun.api.models import around

    callback = as_callback(configs.instantiate(config["callback"], "callback")())
    told = {name: config[name] for name in ("total_timesteps", "log_interval")}
    return Watch(around(config, trainer.training), callback, told)


def _write_diagnostic(folder: Path, step: int, error: ArithmeticError | ValueError) -> None:
    """What is known of numbers that are not finite."""
    details = getattr(error, "details", {})
    report = {"reason": str(error), "step": step, "details": details}
    write_atomic(folder / DIAGNOSTIC, json.dumps(report, indent=2) + "\n")
    logger.info("What is known of it stands in %s", folder / DIAGNOSTIC)


@contextmanager
def _telling_a_full_disk() -> Iterator[None]:
    """A report that cannot be written must not hide how the run ended."""
    try:
        yield
    except OSError as error:
        logger.warning("The report of the run is not complete: %s", error)


def _next_commands(folder: Path, status: str) -> list[tuple[str, str]]:
    """What to try next, each with what it does."""
    rlrun = "rlrun" if shutil.which("rlrun") else os.path.relpath(sys.argv[0])
    run = shlex.quote(str(folder))
    if status == "stopped":
        return [(f"{rlrun} resume {run}", "go on where it stopped, bit for bit")]
    if status == "failed":
        return [(f"{rlrun} inspect {run}", "see what there is; then train with other settings")]
    tensorboard = str(Path(rlrun).with_name("tensorboard"))
    return [
        (f"{rlrun} evaluate {run} deterministic=false", "play 100 episodes with sampled actions"),
        (f"{tensorboard} --logdir {run}", "look at all curves in the browser"),
        (f"{rlrun} env=PongNoFrameskip-v4", "learn a game from its picture (hours on a CPU)"),
    ]
