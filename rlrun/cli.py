"""The command `rlrun`: verbs, help, and training through Hydra.

Hydra composes the config and runs the jobs of a sweep. What is wrong with the command is told in
one message, without a traceback, with exit code 2, before anything is written. Set
HYDRA_FULL_ERROR=1 to see the traceback.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlrun import __version__, explain, process, schema, usage, verbs
from rlrun.schema import UserError

USER_ERROR = 2
STOPPED = (130, 143)
"""Exit codes of a run that a signal stopped."""

_FULL_ERROR = "HYDRA_FULL_ERROR"
_VERBS = {
    "resume": verbs.resume,
    "evaluate": verbs.evaluate,
    "record": verbs.record,
    "import": verbs.import_,
    "inspect": verbs.inspect,
    "list": verbs.list_,
}
# Hydra's flags, by whether a value follows.
_VALUE_FLAGS = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
_FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc"),
)


def main() -> int:
    """Entry point of the command; returns its exit code."""
    sys.path.append(os.getcwd())  # for the user's own modules; last, so that it shadows nothing
    process.tune()
    try:
        return _dispatch(sys.argv[1:])
    except UserError as error:
        if os.environ.get(_FULL_ERROR) == "1":
            raise
        print(f"rlrun: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("rlrun: stopped before the training began", file=sys.stderr)
        return STOPPED[0]
    except BrokenPipeError:  # the reader of our output has gone, as in `rlrun list envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(words: list[str]) -> int:
    if {"-sc", "--shell-completion"} & set(words):
        return _complete()
    if {"-h", "--help"} & set(words):
        print(usage.help_text(_folders(words)))
        return 0
    if words == ["--version"]:
        print(f"rlrun {__version__}")
        return 0
    if words and words[0] == "sweep":
        from rlrun.sweeps import verbs as sweep_verbs

        return sweep_verbs.sweep(words[1:], _again)
    if words and words[0] in _VERBS:
        return _VERBS[words[0]](words[1:])
    flags, overrides = _sorted_words(words)
    _check_experiment(overrides, _folders(words))
    return _compose(flags, overrides)


def _again(words: list[str]) -> int:
    """The command line once more, in the current folder."""
    sys.argv[1:] = words
    return main()


def _sorted_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags (with their values) and overrides apart: Hydra takes overrides in one piece only."""
    flags: list[str] = []
    overrides: list[str] = []
    takes_value = False
    for word in words:
        if takes_value and not word.startswith("-"):
            flags.append(word)
        elif word.startswith("-"):
            flags.append(word)
            _check_flag(word.split("=")[0])
        else:
            # Hydra knows no null for a group.
            overrides.append("experiment=none" if word == "experiment=null" else word)
        takes_value = word in _VALUE_FLAGS
    return flags, overrides


def _check_flag(flag: str) -> None:
    known = [*_FLAGS, *_VALUE_FLAGS]
    if flag not in known:
        near = schema.nearest(flag, known)
        hint = f"did you mean {near[0]}?" if near else "`rlrun --help` lists the flags"
        raise UserError(f"{flag}: unknown flag; {hint}")


def _folders(words: Sequence[str]) -> list[Path]:
    """Folders of config groups: rlrun's own, and the one of `--config-dir`."""
    folders = [usage.config_folder()]
    for flag, value in itertools.pairwise([*words, ""]):
        name, _, attached = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(attached or value))
    return folders


def _check_experiment(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Hydra would pass over a misspelt experiment, for the default one may be missing."""
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        if key != "experiment" or "(" in value or any("searchpath" in other for other in overrides):
            continue
        known = usage.options("experiment", folders)
        for name in value.strip("[]").split(","):
            if name.strip(" '\"") not in known:
                raise UserError(explain.unknown_option("experiment", name, known))


def _complete() -> int:
    """Answer the shell; words after a verb are files, which the shell knows best."""
    words = os.environ.get("COMP_LINE", "").split()[1:]
    if words and words[0] == "sweep":
        from rlrun.sweeps import verbs as sweep_verbs

        is_whole = os.environ["COMP_LINE"].endswith(" ")
        print(" ".join(sweep_verbs.completions([*words[1:], ""] if is_whole else words[1:])))
        return 0
    if words and words[0] in usage.VERBS:
        return 0
    if len(words) == 1 and not os.environ["COMP_LINE"].endswith(" "):
        print(" ".join(verb for verb in usage.VERBS if verb.startswith(words[0])))
    try:
        return _run_hydra(_Job())
    except Exception:
        return 1  # a line that is still being typed may be wrong


def _compose(flags: list[str], overrides: list[str]) -> int:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    sys.argv[1:] = [*flags, *overrides]
    job = _Job()
    try:
        return _run_hydra(job)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if job.crashed:
            raise
        raise UserError(explain.explain(error, _folders(flags))) from error


def _run_hydra(job: _Job) -> int:
    """Compose and run by `sys.argv`; exceptions come through instead of being printed."""
    import hydra

    from rlrun import env_source

    env_source.register()
    if {"-m", "--multirun"} & set(sys.argv):
        from rlrun.sweeps import plugins

        plugins.register()
    command = hydra.main(str(usage.config_folder()), "config", version_base="1.3")(job)
    with _environment(_FULL_ERROR, "1"):
        command()
    return job.exit_code


class _Job:
    """What Hydra calls for each composed config; remembers how its runs ended."""

    def __init__(self) -> None:
        self.exit_code = 0
        self.crashed = False
        self._full_error = os.environ.get(_FULL_ERROR)

    def __call__(self, composed: Any) -> int:
        with _environment(_FULL_ERROR, self._full_error):
            try:
                code = self._train(composed)
            except Exception:
                self.crashed = True
                raise
        self.exit_code = self.exit_code or code
        if code in STOPPED:
            raise SystemExit(code)  # and the rest of a sweep does not start
        return code

    def _train(self, composed: Any) -> int:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        hydra = HydraConfig.get()
        overrides = [str(word) for word in OmegaConf.to_container(hydra.overrides.task) or ()]
        try:
            from rlrun import config

            if swept := hydra.sweeper.get("params"):
                raise UserError(
                    f"{' '.join(overrides)}: this is a sweep (over {', '.join(swept)}); add -m, or "
                    "take another experiment for a single run"
                )
            checked = config.check(config.plain(composed))
            if checked["sweep"]["estimate"]:
                raise UserError("sweep.estimate=true: this estimates a sweep; add -m")
            from rlrun import runs

            return runs.train(checked, overrides)
        except UserError as error:
            if self._full_error == "1":
                raise
            number = None if OmegaConf.is_missing(hydra.job, "num") else hydra.job.num
            name = "" if number is None else f"job {number} ({' '.join(overrides)}): "
            print(f"rlrun: {name}{error}", file=sys.stderr)
            return USER_ERROR


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """An environment variable set, or unset for None, for a while."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
