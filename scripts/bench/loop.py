"""What the loop around learning costs: logging every update, and saving a checkpoint."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlrun.run.checkpoint import Checkpointer
from rlrun.run.console import Screen
from rlrun.run.loggers import SafeView, TensorBoardLogger
from rlrun.run.logs import EpisodeLog, MetricsLog
from rlrun.run.signals import StopRequest
from rlrun.run.trainer import Trainer

from .measure import Options
from .rounds import Contestant, Summary, ratio, summaries, take_turns
from .training import Trained, mean_replay
from .works import CONTESTANTS, WORKS, named

CASES = {"pong": 5, "cartpole-4": 100}
"""Updates of one turn at least, by the name of a work."""
ALGORITHM = "acer-4"


class NoCheckpoints(Checkpointer):
    """Keeps nothing: the training ends after every turn, and would save each time."""

    def save(self, *args: Any, **kwargs: Any) -> Path:
        """Do nothing."""
        return Path()


class Run:
    """A real run in a folder, with everything that watches it, trained a few updates at a time."""

    def __init__(
        self, name: str, words: list[str], log_interval: int, folder: Path, updates: int
    ) -> None:
        self.name, self.updates = name, updates
        self.trained = Trained(name, words)
        self.folder = folder
        self.trainer = Trainer(
            self.trained.training,
            total_timesteps=1,
            log_interval=log_interval,
            evaluate=None,
            evaluate_every=None,
            save_every=None,
            save_every_seconds=None,
            checkpointer=NoCheckpoints(folder, keep=1),
            metrics_log=MetricsLog(folder),
            episode_log=EpisodeLog(folder),
            evaluation_log=MetricsLog(folder, "evaluations.jsonl"),
            stop=StopRequest(),
        )
        self.trainer.begin()
        self.view = SafeView(TensorBoardLogger())
        self.view.start(folder, "bench", self.trained.config, 0)

    @property
    def contestant(self) -> Contestant:
        """It takes turns by some updates."""
        return Contestant(self.name, self.unit, self.trained.threads, self.trained.parts.device)

    def unit(self) -> int:
        """Environment steps of some updates, which are done."""
        trainer, config = self.trainer, self.trained.config
        before = trainer.step
        steps = config["algo"]["n_steps"] * config["env"]["n_envs"]
        trainer.total_timesteps = before + self.updates * steps
        screen = Screen("bench", {}, trainer.total_timesteps, before)
        with redirect_stdout(io.StringIO()), screen:
            trainer.run(screen, [self.view])
        return trainer.step - before

    def close(self) -> None:
        """Close files and environments."""
        self.view.close()
        self.trainer.close()
        self.trained.close()


def measure(options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    """Shares of the time of training, for ACER on Pong and on CartPole."""
    return {name: _case(name, options, tell) for name in named(CASES, options.only)}


def _case(name: str, options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    words = [*f"{WORKS[name].words} {CONTESTANTS[ALGORITHM]}".split(), "lr_schedule=constant"]
    words += options.extra
    with ExitStack() as stack:
        stack.enter_context(mean_replay())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = []
        for label, interval in (("never", 10**9), ("every update", 1)):
            run = Run(label, words, interval, folder / label, CASES[name])
            stack.callback(run.close)
            runs.append(run)
        contestants = [run.contestant for run in runs]
        turns = take_turns(contestants, options.rounds, options.seconds, tell)
        found = summaries(turns)
        tell("checkpoints")
        saving = _saving(runs[0], options.rounds, found["never"])
    return {
        "words": " ".join(words),
        "steps_per_second": {name: taken._asdict() for name, taken in found.items()},
        "logging_share": 1.0 - ratio(turns["every update"], turns["never"]).median,
        "checkpoint": saving,
    }


def _saving(run: Run, rounds: int, speed: Summary) -> dict[str, float]:
    """Seconds of a checkpoint with as much new in the memory as comes between two of them."""
    trained, config = run.trained, run.trained.config
    every = 60.0 * (config["checkpoint"]["every_minutes"] or 10.0)
    checkpointer = Checkpointer(run.folder, config["checkpoint"]["keep"])
    memory = trained.parts.algorithm.memory
    rollout = trained.training.collect()
    assert memory is not None
    assert rollout is not None
    new = int(every * speed.median / rollout.rewards.numel())
    seconds = []
    for _ in range(rounds):
        trained.learn(1)
        for _ in range(min(new, memory.slots)):
            memory.push(rollout)
        trained.training.step += 1  # each checkpoint has a step of its own
        begin = time.perf_counter()
        state = run.trainer.state_dict()
        checkpointer.save(run.trainer.step, state, memory, meta={})
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    return {"seconds": median, "max": max(seconds), "every": every, "share": median / every}


def show(console: Console, cases: Mapping[str, Any]) -> None:
    """A table of the shares."""
    made = Table(title=f"loop: {ALGORITHM}, shares of the time of training", title_justify="left")
    for column in ("", "steps/s", "min..max", "seconds", "share"):
        made.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, case in cases.items():
        for label, taken in case["steps_per_second"].items():
            spread = f"{taken['low']:,.0f}..{taken['high']:,.0f}"
            share = "" if label == "never" else f"{case['logging_share']:.1%}"
            made.add_row(f"{name}, logged {label}", f"{taken['median']:,.0f}", spread, "", share)
        saving = case["checkpoint"]
        label = f"{name}, checkpoint every {saving['every'] / 60:g} minutes"
        made.add_row(label, "", "", f"{saving['seconds']:.3f}", f"{saving['share']:.2%}")
    console.print(made)
