"""One work measured: who takes part, the rounds, and what comes of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import peers
from .environments import EnvironmentsAlone
from .floors import Products
from .rounds import Contestant, Summary, ratio, summaries, take_turns
from .training import Trained, mean_replay, split
from .works import YARDSTICK, Work, in_variants, named


@dataclass(frozen=True)
class Options:
    """Of a measurement."""

    rounds: int = 5
    seconds: float = 1.0
    """Least duration of a turn."""
    only: tuple[str, ...] = ()
    """Beginnings of the names of those who take part; empty for all."""
    extra: tuple[str, ...] = ()
    """Words of rlrun's command line for all of its trainings."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """More words, by a label; each contestant takes part without and with them."""
    peers: bool = True


class Floor:
    """What products each training cannot do without, measured once where they are equal."""

    def __init__(self, trainings: Sequence[Trained]) -> None:
        self.units: dict[str, Contestant] = {}
        self.counts: dict[str, dict[str, float]] = {}  # by training: calls per iteration, by unit
        self.missing: list[str] = []
        labels: dict[str, str] = {}
        for trained in trainings:
            try:
                products = Products(trained)
            except ValueError as error:
                self.missing.append(str(error))
                continue
            counts = {}
            for part, count in products.counts().items():
                label = f"products: {part} ({trained.name})"
                label = labels.setdefault(products.key(part), label)
                if label not in self.units:
                    run = products.part(part)
                    unit = Contestant(label, run, trained.threads, products.device)
                    self.units[label] = unit
                counts[label] = count
            self.counts[trained.name] = counts

    def seconds(self, trained: Trained, found: Mapping[str, Summary]) -> dict[str, float] | None:
        """Least seconds per environment step: of the environments, and of the products."""
        if trained.name not in self.counts:
            return None
        calls = self.counts[trained.name].items()
        steps = trained.parts.algorithm.n_steps * trained.config["env"]["n_envs"]
        products = sum(count / found[label].median for label, count in calls) / steps
        return {"env": 1.0 / found["env"].median, "products": products}


def measure(work: Work, options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    """All rows of one work, and remarks; its environments are closed again.

    Raises:
        UserError: a contestant cannot be made of these words.
    """
    if why := work.skipped():
        return {"words": work.words, "rows": [], "notes": [why]}
    names = named(work.contestants, options.only)
    contestants = {name: f"{work.words} {work.contestants[name]}" for name in names}
    words = in_variants(contestants, options.extra, options.variants)
    with ExitStack() as stack:
        stack.enter_context(mean_replay())
        tell("making the contestants")
        trainings = [stack.enter_context(_made(name, own)) for name, own in words.items()]
        if not trainings:
            return {"words": work.words, "rows": [], "notes": ["nobody takes part"]}
        first = trainings[0]
        env = EnvironmentsAlone(first.config, first.threads)
        stack.callback(env.close)
        floor = Floor(trainings)
        others, notes = _peers(work, options, first)
        own = [trained.contestant for trained in trainings]
        alone = [*env.contestants(), *floor.units.values()]
        turns = take_turns([*alone, *own, *others], options.rounds, options.seconds, tell)
        found = summaries(turns)
        rows = [_row(contestant.name, "floor", found) for contestant in alone]
        for trained in trainings:
            tell(f"where the time goes: {trained.name}")
            row = _row(trained.name, "rlrun", found)
            row["words"] = " ".join(trained.words)
            row["floor_seconds"] = least = floor.seconds(trained, found)
            row["of_floor"] = least and row["median"] * sum(least.values())
            row["split_seconds"] = split(trained, options.seconds)
            rows.append(row)
        rows += [_row(contestant.name, "peer", found) for contestant in others]
        if YARDSTICK in found:
            for row in rows:
                if row["kind"] != "floor":
                    of = ratio(turns[row["name"]], turns[YARDSTICK])
                    row["of_yardstick"] = of._asdict()
        for row in rows:
            row["turn_rates"], row["turn_noise"] = map(list, zip(*turns[row["name"]], strict=True))
        notes += floor.missing
        return {"words": work.words, "threads": first.threads, "rows": rows, "notes": notes}


@contextmanager
def _made(name: str, words: list[str]) -> Iterator[Trained]:
    trained = Trained(name, words)
    try:
        yield trained
    finally:
        trained.close()


def _peers(work: Work, options: Options, like: Trained) -> tuple[list[Contestant], list[str]]:
    """Peers with the threads and on the device of a training; and a remark if there are none."""
    if not options.peers:
        return [], []
    if why := peers.missing():
        return [], [why]
    threads, device = like.threads, like.parts.device
    names = [YARDSTICK, *(name for name in named(work.peers, options.only) if name != YARDSTICK)]
    return [peers.peer(name, like.config["env"], threads, device) for name in names], []


def _row(name: str, kind: str, found: Mapping[str, Summary]) -> dict[str, Any]:
    unit = "calls" if name.startswith("products") else "steps"
    return {"name": name, "kind": kind, "unit": unit, **found[name]._asdict()}
