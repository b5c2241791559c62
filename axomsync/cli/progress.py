"""Bars on a terminal for uploads that somebody waits for; nothing where standard error is no terminal."""

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from axomsync.core.records import UNDER_WAY
from axomsync.core.text import printable
from axomsync.ledger import Reader


class Bars:
    """A bar for each upload, from what the ledger says of it; a context manager. Owns the `ledger` that it reads."""

    def __init__(self, ledger: Reader) -> None:
        self._ledger = ledger
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        screen = Console(stderr=True)
        self._progress = Progress(*columns, TimeRemainingColumn(), console=screen, disable=not sys.stderr.isatty())
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._ledger.close()

    def show(self, rows: Sequence[int]) -> bool:
        """How far these uploads are now; returns whether one of them goes on."""
        moved = {transfer.name: transfer.bytes_received for transfer in self._ledger.transfers()}
        going = False
        for upload in self._ledger.uploads_among(rows):
            name = printable(os.fsdecode(upload.path))
            if upload.id not in self._tasks:
                self._tasks[upload.id] = self._progress.add_task(name, total=upload.stamp.size)
            at_work = upload.state in UNDER_WAY and upload.next_attempt is None
            done = moved.get(name, 0) if upload.state in UNDER_WAY else upload.stamp.size
            self._progress.update(self._tasks[upload.id], completed=done, description=f"{name}: {upload.state}")
            going = going or at_work
        return going
