"""Shared fixtures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlrun import cli


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Runs `rlrun WORDS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rlrun", *words])
        capsys.readouterr()
        try:
            code = cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Outcome(code, *capsys.readouterr())

    yield run
    root.setLevel(level)  # Hydra sets up logging for a sweep
    root.handlers[:] = handlers
