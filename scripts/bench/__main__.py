"""Measure rlrun beside floors and a peer.

    python -m scripts.bench                                  every work: half an hour or more
    python -m scripts.bench pong --only a2c acktr-10 --json pong.json
    python -m scripts.bench cartpole-4 --variant "wide: policy.hidden=[256,256]"
    python -m scripts.bench loop                             logging and checkpoints

Words KEY=VALUE are those of rlrun's own command line, for all of its trainings.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from rich.console import Console

from rlrun.build import choose_device
from rlrun.schema import UserError

from . import loop, report
from .measure import Options, measure
from .works import WORKS, named

LOOP = "loop"


def parsed(words: list[str]) -> argparse.Namespace:
    """The command line."""
    about, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORK|KEY=VALUE", help=f"{', '.join(WORKS)}, {LOOP}"
    )
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of contestants' names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="least duration of a turn")
    parser.add_argument(
        "--variant", action="append", default=[], help='"LABEL: KEY=VALUE ...", beside the rest'
    )
    parser.add_argument("--no-peers", action="store_true", help="without Stable-Baselines3")
    parser.add_argument("--json", type=Path, help="file that takes everything")
    arguments = parser.parse_intermixed_args(words)
    arguments.extra = [word for word in arguments.words if "=" in word]
    arguments.works = [word for word in arguments.words if "=" not in word] or [*WORKS]
    if unknown := set(arguments.works) - {*WORKS, LOOP}:
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    if wrong := [variant for variant in arguments.variant if ":" not in variant]:
        parser.error(f"--variant {wrong[0]!r}: write LABEL: KEY=VALUE")
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    if not 0 <= arguments.seconds < math.inf:
        parser.error("--seconds: a number from 0 on")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.parent}")
    if arguments.only and not any(
        named({*WORKS[name].contestants, *WORKS[name].peers}, arguments.only)
        for name in arguments.works
        if name != LOOP
    ):
        parser.error(f"--only {' '.join(arguments.only)}: nobody of this name takes part")
    return arguments


def main(words: list[str]) -> int:
    """Measure, show and write; the exit code."""
    arguments = parsed(words)
    console, begin = Console(highlight=False), time.perf_counter()
    if not console.is_terminal:
        console.width = 200
    pairs = (variant.partition(":") for variant in arguments.variant)
    options = Options(
        arguments.rounds,
        arguments.seconds,
        tuple(arguments.only),
        tuple(arguments.extra),
        {label.strip(): more.strip() for label, _, more in pairs},
        not arguments.no_peers,
    )
    works: dict[str, Any] = {}
    try:
        for name in arguments.works:

            def tell(what: str, name: str = name) -> None:
                if console.is_terminal:
                    print(f"\r\x1b[K{name}: {what}", end="", file=sys.stderr, flush=True)

            if name == LOOP:
                works[name] = loop.measure(options, tell)
                tell("done")
                loop.show(console, works[name])
            else:
                works[name] = measure(WORKS[name], options, tell)
                tell("done\n")
                report.show(console, name, works[name])
    except (UserError, HydraException, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    device = next((w.partition("=")[2] for w in options.extra if w.startswith("device=")), "auto")
    if arguments.json:
        made = report.made_with(choose_device(device))
        made["seconds"] = time.perf_counter() - begin
        report.write(arguments.json, {"made": made, "works": works})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
