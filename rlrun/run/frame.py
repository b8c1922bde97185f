"""Lines that stay at the bottom of the terminal while everything else scrolls above them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console, ConsoleRenderable, RenderHook
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType
from rich.text import Text

from rlrun.run.panel import Line


class Frame(RenderHook):
    """Draws the lines that `draw` gives for a width.

    rich's own live display finds its last frame by the height it had when drawn. This one counts
    the rows it takes now, so that a narrowed terminal, which wraps old lines, keeps no remains.
    It leaves the cursor visible: a killed run could not bring it back.
    """

    def __init__(self, console: Console, draw: Callable[[int], list[Line]]) -> None:
        self._console = console
        self._draw = draw
        self._lengths: list[int] = []  # of the lines on the terminal, in columns
        self._whole = False

    def start(self) -> None:
        """Show the frame, and let the standard streams print above it."""
        self._streams = sys.stdout, sys.stderr
        self._console.push_render_hook(self)
        sys.stdout = FileProxy(self._console, sys.stdout)
        if sys.stderr.isatty():
            sys.stderr = FileProxy(self._console, sys.stderr)
        self.refresh()

    def refresh(self) -> None:
        """Draw the frame anew."""
        self._console.print(Control())  # nothing, which brings the frame along

    def stop(self) -> None:
        """Leave the last frame, also what did not fit, and give the streams back."""
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = self._streams
        self._whole = True
        try:
            self.refresh()
        finally:
            self._console.pop_render_hook()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Erase the old frame, print, draw the new one: rich calls it at each print."""
        width, height = self._console.size
        lines = [Text.assemble(*line) for line in self._draw(width)]
        for line in lines:
            line.truncate(width - 1)
        if not self._whole:  # lines that scroll out of the terminal could not be erased
            lines = lines[: max(1, height - 1)]
        erase = self._erase(width)
        self._lengths = [line.cell_len for line in lines]
        return [erase, *renderables, *lines]

    def _erase(self, width: int) -> Control:
        rows = sum(max(1, -(-length // width)) for length in self._lengths)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up * rows)
