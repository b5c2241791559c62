"""Bars for transfers under way, on a terminal; nothing where standard error is no terminal.

Failures handled: a ledger that is not there yet, as in the first moments of an agent.
"""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from axomsync.cli.common import open_ledger
from axomsync.core.records import UNDER_WAY
from axomsync.core.text import printable
from axomsync.ledger import Reader, UnreadyLedger

if TYPE_CHECKING:
    from axomsync.config import Loaded

LOOK_SECONDS = 0.2


class Bars:
    """A bar for each upload, from its row in the ledger; a context manager. Owns the `ledger` that it reads."""

    def __init__(self, ledger: Reader) -> None:
        self._ledger = ledger
        self._progress = _progress()
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._ledger.close()

    def show(self, rows: Sequence[int]) -> bool:
        """Draw the state of these uploads. Returns True while one of them goes on."""
        moved = {transfer.name: transfer.bytes_received for transfer in self._ledger.transfers()}
        going = False
        for upload in self._ledger.uploads_among(rows):
            name = printable(os.fsdecode(upload.path))
            if upload.id not in self._tasks:
                self._tasks[upload.id] = self._progress.add_task(name, total=upload.size)
            at_work = upload.state in UNDER_WAY and upload.next_attempt is None
            done = moved.get(name, 0) if upload.state in UNDER_WAY else upload.size
            self._progress.update(self._tasks[upload.id], completed=done, description=f"{name}: {upload.state}")
            going = going or at_work
        return going


@contextmanager
def show_downloads(loaded: "Loaded") -> Iterator[None]:
    """Draw a bar for each model that is being downloaded, until the block ends."""
    bars = _progress(transient=True)
    if bars.disable:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        tasks: dict[str, TaskID] = {}
        while not done.wait(LOOK_SECONDS):
            with suppress(UnreadyLedger):
                _draw_downloads(loaded, bars, tasks)

    with bars:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _draw_downloads(loaded: "Loaded", bars: Progress, tasks: dict[str, TaskID]) -> None:
    with open_ledger(loaded) as ledger:
        for transfer in ledger.transfers() if ledger else []:
            if transfer.direction != "down":
                continue
            if transfer.name not in tasks:
                tasks[transfer.name] = bars.add_task(printable(transfer.name), total=transfer.bytes_total)
            bars.update(tasks[transfer.name], completed=transfer.bytes_received)


def _progress(*, transient: bool = False) -> Progress:
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    return Progress(*columns, console=screen, transient=transient, disable=not sys.stderr.isatty())
