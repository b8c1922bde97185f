"""The verbs of the command line; each takes the words after it and returns the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrun import schema, stored, usage
from rlrun.schema import UserError

if TYPE_CHECKING:
    from rlrun.run.manifest import Manifest

_LISTS = {
    "algos": "algo",
    "policies": "policy",
    "schedules": "lr_schedule",
    "loggers": "logger",
    "callbacks": "callback",
    "experiments": "experiment",
}


def resume(words: Sequence[str]) -> int:
    """`RUN | MODEL [KEY=VALUE]...`: go on with a run, or with a model, which becomes one."""
    with _opened("resume", words) as (folder, path, changes, trust):
        from rlrun import runs

        if path.is_file():
            return runs.adopt(folder, changes, trust)
        return runs.resume(folder, changes, trust)


def evaluate(words: Sequence[str]) -> int:
    """`RUN | MODEL [KEY=VALUE]...`: evaluate a checkpoint of a run."""
    with _opened("evaluate", words) as (folder, _, others, trust):
        from rlrun import config, evaluation

        values = schema.coerced(evaluation.evaluate, config.values_of(others))
        schema.require(evaluation.evaluate, values, partial=True)
        return evaluation.evaluate(folder, trust=trust, **values)


def record(words: Sequence[str]) -> int:
    """`RUN | MODEL [KEY=VALUE]...`: a video of what was learnt."""
    with _opened("record", words) as (folder, path, others, trust):
        from rlrun import config, recording

        values = schema.coerced(recording.record, config.values_of(others))
        schema.require(recording.record, values, partial=True)
        home = path.parent if path.is_file() else path / "videos"
        return recording.record(folder, home=home, trust=trust, **values)


def import_(words: Sequence[str]) -> int:
    """`MODEL.zip [KEY=VALUE]...`: a model of stable-baselines 2 as one of ours."""
    if not words or "=" in words[0]:
        raise UserError(f"say which model: rlrun import {usage.VERBS['import']}")
    from rlrun import config
    from rlrun.api import importing

    values = schema.coerced(importing.convert, config.values_of(list(words[1:])))
    schema.require(importing.convert, values, partial=True)
    return importing.convert(Path(words[0]), **values)


@contextmanager
def _opened(verb: str, words: Sequence[str]) -> Iterator[tuple[Path, Path, list[str], list[str]]]:
    """Folder of the run, or of the unpacked model; its path; the other words; trusted packages."""
    if not words or "=" in words[0]:
        raise UserError(f"say which run: rlrun {verb} {usage.VERBS[verb]}")
    path = Path(words[0])
    if path.is_file():
        from rlrun.api import saving

        opened: AbstractContextManager[Path] = saving.opened(path)
    else:
        opened = nullcontext(_existing(words[0]))
    with opened as folder:
        if not (folder / "config.yaml").is_file():
            raise UserError(
                f"{folder} is no run: it has no config.yaml. `rlrun list runs` shows them"
            )
        from rlrun import config

        trust = config.values_of([word for word in words[1:] if word.startswith("trust=")])
        packages = trust.get("trust", [])
        if not isinstance(packages, list) or not all(isinstance(name, str) for name in packages):
            raise UserError("trust: write the names of your packages as 'trust=[my_package]'")
        others = [word for word in words[1:] if not word.startswith("trust=")]
        yield folder, path, others, packages


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_dir():
        raise UserError(f"there is no run and no model {path}; `rlrun list runs` shows the runs")
    return path


def inspect(words: Sequence[str]) -> int:
    """`RUN | CHECKPOINT`: what is in it, and is it intact? 1 if something is damaged."""
    if len(words) != 1:
        raise UserError(f"say what to inspect: rlrun inspect {usage.VERBS['inspect']}")
    if Path(words[0]).is_file():
        from rlrun.api import saving

        with saving.opened(words[0]) as folder:
            return inspect([str(folder)])
    path = _existing(words[0])
    from rlrun.run.manifest import verify
    from rlrun.run.store import CheckpointError

    checkpoints = [path]
    if path.parent.name != "checkpoints":
        checkpoints = sorted((path / "checkpoints").glob("step-*"))
        if not (path / "config.yaml").is_file() and not checkpoints:
            raise UserError(f"{path} is neither a run nor a checkpoint")
        for name in ("manifest.json", "result.json"):
            print(f"{name}: {_summary(stored.read_json(path / name))}")
    damaged = 0
    for checkpoint in checkpoints:
        try:
            manifest = verify(checkpoint)
        except (CheckpointError, OSError) as error:
            damaged += 1
            print(f"{checkpoint.name}: DAMAGED: {error}")
            continue
        print(f"{checkpoint.name}: {_contents(manifest)}")
    if not checkpoints:
        print("no checkpoints")
    return 1 if damaged else 0


def _contents(manifest: Manifest) -> str:
    size = sum(stamp.size for stamp in manifest.files.values()) / 1e6
    replay = sum(segment.stamp.size for segment in manifest.segments) / 1e6
    best = ", the best" if manifest.best else ""
    return f"intact{best}; {manifest.step:,} steps, {size:.1f} MB, and {replay:.1f} MB of replay"


def _summary(data: dict[str, Any]) -> str:
    if not data:
        return "missing, or not readable"
    shown = {key: value for key, value in data.items() if not isinstance(value, dict | list)}
    text = ", ".join(f"{key} {value}" for key, value in shown.items())
    return "".join(character if character.isprintable() else "?" for character in text)


def list_(words: Sequence[str]) -> int:
    """`[envs|algos|...|runs]`: one per line; without a word, all but the environments."""
    kinds = [*_LISTS, "envs", "runs"]
    if len(words) > 1 or (words and words[0] not in kinds):
        near = schema.nearest(words[0], kinds)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(kinds)}"
        raise UserError(f"rlrun list {' '.join(words)}: {hint}")
    for kind in words or [*_LISTS, "runs"]:
        indent = "" if words else "  "
        if not words:
            print(kind)
        if kind == "envs":
            from rlrun.envs import registry

            lines = registry.newest_versions()
        elif kind == "runs":
            lines = [_run_line(path.parent) for path in _runs(Path("outputs"))]
        else:
            lines = usage.options(_LISTS[kind], [usage.config_folder()])
        print("\n".join(indent + line for line in lines or ["none yet"]))
    return 0


def _runs(root: Path) -> list[Path]:
    return sorted(root.glob("*/*/seed-*/config.yaml"))


def _run_line(folder: Path) -> str:
    result = stored.read_json(folder / "result.json")
    if not result:
        return f"{folder}  not ended yet"
    evaluation = result.get("eval") or {}
    try:
        mean = evaluation.get("return_mean")
        shown = "" if mean is None else f", return {mean:.1f} in {evaluation['episodes']} episodes"
        return f"{folder}  {result['status']} at {result['step']:,} steps{shown}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return f"{folder}  result.json is damaged"
