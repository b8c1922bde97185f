"""Views of a run in other tools: TensorBoard and wandb.

They show the stream that `metrics.jsonl` holds; `SafeView` keeps their failures away from the
training.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

logger = logging.getLogger(__name__)


class View(Protocol):
    """Another tool's picture of the run; nothing depends on it."""

    def start(self, folder: Path, run_id: str, config: Mapping[str, Any], resume_step: int) -> None:
        """Open the view of the run in `folder`, which goes on after `resume_step` (0: new)."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one update."""

    def close(self, exit_code: int) -> None:
        """End the view; 0 means that the run ended well."""


class SafeView:
    """Guards the training against a view: its first failure is told once and switches it off.

    `dropped` counts the records that the view did not take.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._name = type(view).__name__
        self._working = False
        self.dropped = 0

    def start(self, folder: Path, run_id: str, config: Mapping[str, Any], resume_step: int) -> None:
        """Open the view, or switch it off."""
        self._working = True
        try:
            self._view.start(folder, run_id, config, resume_step)
        except Exception as error:
            self._give_up(error)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass one record on, or count it as dropped."""
        if self._working:
            try:
                self._view.write(step, metrics)
                return
            except Exception as error:
                self._give_up(error)
        self.dropped += 1

    def close(self, exit_code: int = 0) -> None:
        """Close the view, also a failed one: it may hold a file or a process."""
        try:
            self._view.close(exit_code)
        except Exception as error:
            if self._working:
                self._give_up(error)
        self._working = False
        if self.dropped:
            logger.warning("records that %s did not take: %d", self._name, self.dropped)

    def _give_up(self, error: Exception) -> None:
        self._working = False
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("%s failed, the run goes on without it: %s", self._name, reason)


class TensorBoardLogger:
    """Event files for TensorBoard in the run's folder, under `tensorboard/`.

    Written with TensorBoard's record format directly: its usual writer puts the host name into
    the name of the file and keeps records in a thread, where a killed run loses them.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    def start(self, folder: Path, run_id: str, config: Mapping[str, Any], resume_step: int) -> None:
        """Begin a new event file; what older ones say after `resume_step` is hidden."""
        self.open(folder / "tensorboard", resume_step)

    def open(self, events: Path, resume_step: int) -> None:
        """Begin a new event file in the folder `events`, as `start`."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._event, self._summary = Event, Summary
        events.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names, so they tell the time.
        self._file = (events / f"events.out.tfevents.{time.time_ns()}").open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._put(file_version="brain.Event:2")
        # A new run hides everything: it may stand in the folder of one that was overwritten.
        hidden_from = resume_step + 1 if resume_step else 0
        self._put(session_log=SessionLog(status=SessionLog.START), step=hidden_from)

    def _put(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one event that holds all metrics of the update."""
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
        ]
        self._put(step=step, summary=self._summary(value=values))

    def close(self, exit_code: int) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()


class WandbLogger:
    """Weights & Biases, as a view of the run.

    project, entity: where the run appears (no entity: the account's own);
    mode: "offline" needs no account and no network, and `wandb sync` uploads the run later;
    "online" needs `wandb login` once;
    group: of the runs that differ in their seeds alone unless given: the algorithm with the digest
    of its settings, as in the folder of the run, and the environment; name: with the seed.

    A resumed online run goes on under the same id, and what the server already has is not sent
    twice. wandb cannot resume offline: each part is a folder of its own with the same id, to be
    uploaded in order with `wandb sync --append`. Code, requirements, command line, git state,
    host name and machine statistics are not collected.
    """

    def __init__(
        self,
        *,
        project: str = "rlrun",
        entity: str | None = None,
        mode: Literal["online", "offline"] = "offline",
        group: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        self.project = project
        self.entity = entity
        self.mode = mode
        self.group = group
        self.name = name
        self.tags = tags
        self._run: Any = None
        self._parts = ""

    def start(self, folder: Path, run_id: str, config: Mapping[str, Any], resume_step: int) -> None:
        """Open the wandb run `run_id` with its files below `folder`; raises without an API key."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        # Its debug.log tells the config and paths of this machine; only trouble belongs there.
        logging.getLogger("wandb").addFilter(_is_warning)
        wandb.setup(wandb.Settings(silent=True))
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key (run `wandb login`, or take logger.mode=offline)")
        append = "--append " if resume_step else ""
        self._parts = f"{append}{folder}/wandb/offline-run-*-{run_id}"
        _, env, seed = run_title(config)
        settings = f"{folder.resolve().parent.name} on {env}"  # .../acer-0123abcd/seed-0
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            group=self.group or settings,
            name=self.name or f"{settings}, seed {seed}",
            tags=self.tags,
            id=run_id,
            resume="allow",
            dir=folder,
            config=dict(config),
            settings=wandb.Settings(
                reinit="create_new",  # several runs in one process must not share one
                silent=True,
                console="off",
                symlink=False,
                init_timeout=20,
                finish_timeout=60,
                host="",
                program="rlrun",
                program_relpath="rlrun",
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                save_code=False,
                x_save_requirements=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics, unless an earlier part of this run already sent this step."""
        if step >= self._run.step:
            self._run.log(dict(metrics), step=step)

    def close(self, exit_code: int) -> None:
        """Finish the wandb run; without it a second run of this process could write into it."""
        if self._run is None:
            return
        self._run.finish(exit_code=exit_code)
        if self.mode == "offline":
            logger.info("upload the wandb run with: wandb sync %s", self._parts)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def run_title(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Names of the algorithm, the environment and the seed in a run's config ("?" if absent)."""
    algo = str((config.get("algo") or {}).get("_target_", "?")).rpartition(".")[2]
    env = str((config.get("env") or {}).get("id", "?"))
    return algo, env, str(config.get("seed", "?"))
