"""The words of the tour: with colour and a live bar on a terminal, as plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

COLOURS = {"ok": "green", "failed": "red"}


class Voice:
    """Prints steps, lines, tables and progress."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        # Elsewhere a line is as wide as it needs to be, and FORCE_COLOR does not make a terminal of a file.
        shape: dict[str, Any] = {"soft_wrap": True} if terminal else {"width": 10_000, "force_terminal": False}
        self._console = Console(highlight=False, markup=False, **shape)
        self._live = terminal and not self._console.is_dumb_terminal
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        self._console.print(f"\n{self._steps}. {title}", style="bold")

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(f"   {text}".replace("\n", "\n   "), style=style))

    def table(self, rows: list[tuple[str, str]]) -> None:
        width = max(len(head) for head, _ in rows)
        for head, cell in rows:
            self._console.print(Text("   ").append(head.ljust(width), COLOURS.get(head, "")).append(f"  {cell}"))

    @contextmanager
    def progress(self) -> Iterator["Bar"]:
        """Yield a live bar for one transfer; elsewhere it is a line every other second."""
        if not self._live:
            yield Bar(self, None)
            return
        columns = TextColumn("  "), BarColumn(bar_width=18), TextColumn("{task.description}", markup=False)
        with Progress(*columns, console=self._console) as progress:
            yield Bar(self, progress)


class Bar:
    """The progress of one transfer, from the document of `status`."""

    def __init__(self, voice: Voice, progress: Progress | None) -> None:
        self._voice, self._progress = voice, progress
        self._task = progress.add_task("") if progress else None
        self._next_line = 0.0

    def show(self, transfer: dict[str, Any]) -> None:
        received, total = transfer["bytes_received"], transfer["bytes_total"]
        known = transfer["eta"] is not None and received > total / 50  # the first second says little
        left = f", {transfer['eta']:.0f} s left" if known else ""
        durable, rate = size(transfer["bytes_done"]), size(transfer["rate"])
        text = f"{received / 1e6:.1f} of {size(total)} ({durable} durable), {rate}/s{left}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=received, total=total, description=text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + 2
            self._voice.say(f"{received / total:4.0%}  {text}")


def size(count: float) -> str:
    """Return bytes in words: `91.6 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
