"""Playing with what a run has learnt."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlrun import config as configs
from rlrun import stored
from rlrun.build import Parts, assemble, make_envs
from rlrun.envs import BadEnvironment
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.console import log_to, say
from rlrun.run.evaluate import Evaluation, evaluate_policy
from rlrun.run.rng import generator
from rlrun.run.signals import StopRequest, stop_on_signals
from rlrun.run.store import CheckpointError, write_atomic
from rlrun.schema import NonNegativeInt, PositiveInt, UserError

EVALUATION_ENVS = 10  # played side by side


def evaluate(
    folder: Path,
    *,
    checkpoint: str | int = "best",
    episodes: PositiveInt = 100,
    deterministic: bool = True,
    seed: NonNegativeInt | None = None,
    trust: list[str] | None = None,
) -> int:
    """Play whole episodes with a checkpoint of the run, and write `evaluation.json`.

    Args:
        folder: of the run.
        checkpoint: `best` (the newest, if none has been evaluated), `last`, or a step.
        episodes: how many.
        deterministic: take the most probable actions instead of drawing them.
        seed: of the episodes; None for the run's own, in a stream apart from the training's.
        trust: packages that the stored config may name components of.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    config, parts, step = loaded(folder, checkpoint, seed, trust or [])
    with stop_on_signals() as stop, log_to(None):
        try:
            played = play_episodes(config, parts, "evaluate", episodes, deterministic, stop)
        except BadEnvironment as error:
            raise UserError(str(error)) from error
    if played is None:
        return stop.exit_code
    result = {"step": step, **played.to_json()}
    try:
        write_atomic(folder / "evaluation.json", json.dumps(result, indent=2) + "\n")
    except OSError as error:
        say(f"evaluation.json could not be written: {error}")
    how = "deterministic" if deterministic else "stochastic"
    say(
        f"{config['env']['id']} after {step:,} steps: return {played.mean:.2f} "
        f"+- {played.std:.2f} over {episodes} episodes, {how}"
    )
    return 0


def loaded(
    folder: Path, checkpoint: str | int, seed: int | None, trust: list[str]
) -> tuple[dict[str, Any], Parts, int]:
    """Config, parts and step of a checkpoint of a run, to play with; without replay memory.

    Raises:
        UserError: there is no such run or checkpoint, or it cannot be read.
    """
    unused = ("callback", "logger", "lr_schedule")
    config = stored.load(folder / "config.yaml", trust, without=unused)
    constant = {"_target_": "rlrun.functional.schedules.constant", "_partial_": True}
    # A few episodes are played before anything could be compiled.
    config = configs.check(config | {"logger": {}, "lr_schedule": constant, "compile": "none"})
    if seed is not None:
        config["seed"] = seed
    checkpointer = Checkpointer(folder, config["checkpoint"]["keep"])
    parts = assemble(config)
    parts.collector.envs.close()
    with log_to(None):
        try:
            path = find_checkpoint(checkpointer, str(checkpoint))
            state, _ = checkpointer.load(path, None)
        except CheckpointError as error:
            raise UserError(str(error)) from error
    with fitting(path):
        parts.algorithm.load_state_dict({**state["algorithm"], "memory": None})
    return config, parts, state["training"]["step"]


def find_checkpoint(checkpointer: Checkpointer, name: str) -> Path:
    """The checkpoint that is meant by `best`, `last` or a step; raises UserError if none is."""
    if name == "best":
        path = checkpointer.best() or checkpointer.latest()
    elif name == "last":
        path = checkpointer.latest()
    else:
        steps = {p.name.removeprefix("step-").lstrip("0"): p for p in checkpointer.paths()}
        if name.lstrip("0") not in steps:
            known = ", ".join(["best", "last", *steps])
            raise UserError(f"checkpoint: there is no {name!r}; allowed: {known}")
        path = steps[name.lstrip("0")]
    if path is None:
        raise UserError("the run has no checkpoint yet; `rlrun resume` goes on with it")
    return path


def play_episodes(
    config: Mapping[str, Any],
    parts: Parts,
    stream: str,
    episodes: int,
    deterministic: bool,
    stop: StopRequest,
) -> Evaluation | None:
    """Evaluate in fresh environments, in the named stream of the run's seed; None if stopped."""
    envs = make_envs(config, stream, min(EVALUATION_ENVS, episodes))
    rng = generator(config["seed"], stream)
    return evaluate_policy(parts.algorithm, envs, episodes, deterministic, rng, stop)


@contextmanager
def fitting(checkpoint: Path | str) -> Iterator[None]:
    """Tell a checkpoint whose contents are not those of the config."""
    try:
        yield
    except (RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{checkpoint} does not fit the config.yaml of its run: "
            f"{(str(error) or repr(error)).splitlines()[0]}"
        ) from error
