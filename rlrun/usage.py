"""What there is to choose from: the options of the config groups, and the text of `--help`.

Everything is read from the YAML files, whose comments are the explanations. No import of Hydra,
PyTorch or Gymnasium, so that help comes at once.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rlrun.schema import UserError

VERBS = {
    "resume": "RUN | MODEL [KEY=VALUE]...",
    "evaluate": "RUN | MODEL [KEY=VALUE]...",
    "record": "RUN | MODEL [KEY=VALUE]...",
    "import": "MODEL.zip [env=ID] [obs_rms=FILE] [to=FILE]",
    "inspect": "RUN | MODEL | CHECKPOINT",
    "sweep": "status|retry|cancel|report [SWEEP]",
    "list": "[envs|algos|policies|schedules|loggers|callbacks|experiments|runs]",
}
"""Words that may stand first on the command line, with what follows them."""

GROUPS = ("algo", "policy", "lr_schedule", "logger", "callback", "experiment")
"""Config groups that are folders of files; `env` is Gymnasium's registry."""

_LINE = re.compile(r"( *)([\w]+):(?: *([^#]*?))?(?: +# (.*))?$")

_HEAD = """\
rlrun: train, resume and sweep reinforcement-learning algorithms

  rlrun [GROUP=OPTION | KEY=VALUE]...   train; without any: ACER on CartPole-v1
  rlrun resume RUN [KEY=VALUE]...       go on where it stopped (total_timesteps=2e5: longer)
  rlrun evaluate RUN [KEY=VALUE]...     episodes=100 deterministic=true checkpoint=best|last|STEP
  rlrun record RUN [KEY=VALUE]...       a video: episodes=1 to=FILE.gif|FILE.mp4
  rlrun inspect RUN | CHECKPOINT        what is in it, is it intact
  rlrun import MODEL.zip [KEY=VALUE]... a model of stable-baselines 2: env=ID obs_rms=FILE to=FILE
  rlrun sweep status|retry|cancel|report [SWEEP]   where it stands, what is missing, stop, curves
  rlrun list [envs|algos|policies|schedules|loggers|callbacks|experiments|runs]

RUN is the folder of a run, or the file of a model that was saved in Python; SWEEP a name in
outputs/sweeps, or a folder. The same command again goes on with an unfinished run or sweep.
"""

_TAIL = """\
Flags
  -m, --multirun    a sweep: one run for each combination of comma-separated values
  --config-dir DIR  more options: DIR/algo/mine.yaml is algo=mine
  --cfg job         show the composed config, with every hyperparameter, and do nothing
  -sc install=bash  tab completion: eval "$(rlrun -sc install=bash)"
  --hydra-help      the other flags; --version

Examples (quotes keep the shell away from brackets and blanks)
  rlrun env=PongNoFrameskip-v4
  rlrun env=ALE/Breakout-v5 logger=wandb logger.mode=online
  rlrun env=LunarLander-v3 algo.learning_rate=1e-3 'policy.hidden=[128, 128]' lr_schedule=constant
  rlrun experiment=none algo.replay_ratio=0
  rlrun -m env=CartPole-v1,Acrobot-v1 'seed=range(5)'
  rlrun -m experiment=sweep/replay_ratio sweep.estimate=true
  rlrun resume outputs/CartPole-v1/acer-*/seed-0 total_timesteps=200000
"""


def config_folder() -> Path:
    """Folder of the config groups: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"rlrun is not installed properly: there is no conf folder at {package}")


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Options of a group that are files, in all these config folders; `sub/name` below folders."""
    found = set()
    for folder in folders:
        root = folder / group
        files = (path.relative_to(root) for path in root.rglob("*.yaml"))
        found |= {path.with_suffix("").as_posix() for path in files}
    return sorted(found)


def keys(text: str) -> list[tuple[str, str, str]]:
    """`(key, value, comment)` of the scalars in a YAML text of ours, keys dotted."""
    found: list[tuple[str, str, str]] = []
    path: list[str] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        indent, name, value, comment = match.groups()
        path = [*path[: len(indent) // 2], name]
        if value:
            found.append((".".join(path), value, comment or ""))
    return found


def help_text(folders: Sequence[Path]) -> str:
    """The whole of `rlrun --help`; the first folder is rlrun's own."""
    lines = [_HEAD, "Groups"]
    lines += [f"  {'env':<12}any registered Gymnasium id: CartPole-v1, ALE/Pong-v5, module:Name-v0"]
    for group in GROUPS:
        # No hyphen of an id may end a line, for what is copied from here should work.
        lines += textwrap.wrap(
            ", ".join(options(group, folders)),
            width=100,
            initial_indent=f"  {group:<12}",
            subsequent_indent=" " * 14,
            break_on_hyphens=False,
            break_long_words=False,
        )
    lines += ["", "Keys, with the defaults (those of the algorithm: see --cfg job)"]
    config = keys((folders[0] / "config.yaml").read_text(encoding="utf-8"))
    hidden = ("defaults", "hydra", "lr_schedule")
    shown = [row for row in config if row[0].split(".")[0] not in hidden]
    shown += [
        ("env.n_envs", "4", "parallel environments; 16 for Atari"),
        ("env.clip_rewards", "false", "learn from the sign of rewards; true for Atari"),
        ("env.normalize_observations", "false", "scale vectors by their running moments"),
        ("env.kwargs.NAME", "-", "argument of the environment"),
    ]
    lines += [f"  {f'{key}={value}':<27} {comment}" for key, value, comment in shown]
    return "\n".join([*lines, "", _TAIL.rstrip()])
