"""A model in one file: the folder of a run, with one checkpoint, as a zip without compression.

config.yaml                                     as resolved, without what watches
checkpoints/step-000123456/                     see `rlrun.run.checkpoint`
replay/000000000-000000250.safetensors          the replay memory, unless it was left out
"""

import contextlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from rlrun import stored
from rlrun.api.sb2.file import is_sb2
from rlrun.build import choose_device
from rlrun.data.replay import ReplayMemory
from rlrun.evaluation import find_checkpoint
from rlrun.run import provenance
from rlrun.run.checkpoint import Checkpointer
from rlrun.run.store import CheckpointError
from rlrun.schema import UserError

Target = str | os.PathLike[str] | IO[bytes]

_MEMBER = re.compile(
    r"config\.yaml|manifest\.json"
    r"|checkpoints/step-\d{9,18}/(manifest\.json|state\.json|tensors\.safetensors)"
    r"|replay/\d{9,18}-\d{9,18}\.safetensors"
)
_UMASK = os.umask(0)
os.umask(_UMASK)


def write(
    target: Target, config: Mapping[str, Any], state: Mapping[str, Any], memory: ReplayMemory | None
) -> None:
    """Write a model into one file; an existing one is replaced when the new one is complete.

    Args:
        target: path, to which `.zip` is added if it has no suffix, or a binary file.
        config: of the model.
        state: as `Training.state_dict` gives it.
        memory: what it replays; None to leave it out.

    Raises:
        OSError: the disk refuses; what was there before stays.
    """
    if isinstance(target, str | os.PathLike):
        path = named(target)
        handle, partial = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
        try:
            with open(handle, "w+b") as file:
                write(file, config, state, memory)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~_UMASK)  # not only for its owner
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        return
    with tempfile.TemporaryDirectory(prefix="rlrun-") as name:
        folder = Path(name)
        step = state["training"]["step"]
        Checkpointer(folder, 1).save(step, state, memory, meta={})
        here = choose_device(config["device"])
        provenance.begin(
            folder,
            fresh=True,
            seed=config["seed"],
            step=step,
            overrides=[],
            device=here,
            exact=True,
        )
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("config.yaml", stored.dump(config))
            for file_ in sorted(folder.rglob("*.*")):
                if file_.is_file():
                    archive.write(file_, file_.relative_to(folder))


def named(target: str | os.PathLike[str]) -> Path:
    """The path of a model's file, with its suffix."""
    path = Path(target)
    return path if path.suffix else path.with_name(f"{path.name}.zip")


def found(source: str | os.PathLike[str]) -> Path:
    """The file or folder of that name, `.zip` added if need be.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in (Path(source), Path(f"{os.fspath(source)}.zip")):
        if path.exists():
            return path
    raise FileNotFoundError(f"there is no model and no run at {source}")


@contextlib.contextmanager
def opened(source: Target) -> Iterator[Path]:
    """The folder that a saved model holds, for a while; or the folder of a run itself.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is no model.
    """
    if isinstance(source, str | os.PathLike):
        path = found(source)
        if path.is_dir():
            yield path
            return
        with path.open("rb") as file, opened(file) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rlrun-") as name:
        unpack(source, Path(name))
        yield Path(name)


def unpack(source: IO[bytes], folder: Path) -> None:
    """Write what a saved model holds into a folder.

    Raises:
        UserError: it is no model, or damaged; nothing has been written outside of the folder.
    """
    title = getattr(source, "name", "the file")
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            for member in members:
                # Compressed ones could be larger than any disk.
                plain = member.compress_type == zipfile.ZIP_STORED
                if not _MEMBER.fullmatch(member.filename) or not plain:
                    raise UserError(f"{title}: holds {member.filename!r}, so it is no model")
            for member in members:
                path = folder / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, path.open("xb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, FileExistsError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{title}: is no model of rlrun, or damaged: {error}") from error
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{title}: is no model of rlrun: it has no config.yaml")


def parameters_in(source: Target) -> dict[str, NDArray[Any]]:
    """The weights in a saved model, or in the last checkpoint of a run.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(source, str | os.PathLike) and is_sb2(path := found(source)):
        raise UserError(
            f"{path}: a model of stable-baselines 2; load it with ACKTR.load or ACER.load"
        )
    with opened(source) as folder:
        checkpointer = Checkpointer(folder, 1)
        try:
            state, _ = checkpointer.load(find_checkpoint(checkpointer, "last"), None)
            return {name: t.cpu().numpy() for name, t in state["algorithm"]["actor"].items()}
        except (CheckpointError, KeyError, AttributeError) as error:
            raise UserError(f"{folder}: no model that can be read: {error}") from error
