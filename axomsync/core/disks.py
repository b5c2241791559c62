"""Questions to the filesystems of the folders, with patience.

A filesystem whose server or program is gone (NFS, FUSE) may hold whoever asks it, for good. So each folder has a thread
of its own that asks, and those who want to know wait a second at most, or a few while a long question gets on. While a call
has waited longer than that, the filesystem counts as silent, and nobody waits for it.

Failures handled: a filesystem that does not answer (told by `silent_since`), and one that answers again (asked again).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from axomsync.core.bounded_call import begun
from axomsync.core.errors import LocalFault

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
LONG_QUESTION_SECONDS = 5.0  # that are waited for one that gets on
LONG_PATIENCE_SECONDS = 10.0  # of those who can't go on without the folder: a slow disk is no dead one


class Look(NamedTuple):
    """What a look at a folder found. `free_bytes` are for an ordinary user; None unless `disk` is "ok"."""

    disk: Literal["ok", "missing", "silent", "off"]
    free_bytes: int | None = None


class Disk:
    """The filesystem of one folder. Usable from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._asked: deque[Callable[[], None]] = deque()
        self._waits_since: float | None = None  # the call that the thread makes; None: there is no thread
        self._known: dict[str, Any] = {}

    def ask(self, question: Callable[[], T], otherwise: T, patience: float = PATIENCE_SECONDS) -> T:
        """Return the answer, or `otherwise` when none comes in time. Raises what `question` raises."""
        answer: Future[T] = Future()

        def work() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(question())
                except Exception as error:  # noqa: BLE001  # the asker gets it
                    answer.set_exception(error)

        if not self._begin(work, patience):
            return otherwise
        gives_up = time.monotonic() + max(patience, LONG_QUESTION_SECONDS)
        while not answer.done():
            left = min(patience - self._waited(), gives_up - time.monotonic())
            if left <= 0:
                answer.cancel()
                return otherwise
            wait([answer], left)  # not `result`, whose TimeoutError may also be the disk's own ETIMEDOUT
        return answer.result()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items to a question that asks about one after the other: the filesystem has answered in between."""
        for item in items:
            yield item
            if self._waits_since is not None:
                self._waits_since = time.monotonic()

    def ask_or_remember(self, what: str, question: Callable[[], T], otherwise: T) -> T:
        """Return the answer, or the last one to `what` when none comes in time; `otherwise` if there was none."""

        def noted() -> T:
            self._known[what] = value = question()
            return value

        return self.ask(noted, cast("T", self._known.get(what, otherwise)))

    def look(self, patience: float = PATIENCE_SECONDS) -> Look:
        """Look whether the folder is there, and how much room it has."""
        found = self.ask(lambda: _look(self.folder), None, patience)
        return found or Look("silent" if self._waited() >= patience else "ok")

    def silent_since(self) -> float | None:
        """Return the time of the question that waits for too long; None while the filesystem answers."""
        waited = self._waited()
        return time.time() - waited if waited >= PATIENCE_SECONDS else None

    def fault(self) -> LocalFault:
        """Return the failure that a silent filesystem is."""
        return LocalFault(
            f"{self.folder}: its filesystem does not answer; look at its server, or at the disk itself (findmnt, dmesg)"
        )

    def demand_answer(self) -> None:
        """Raise `LocalFault` if the filesystem does not answer: before anything that would wait for it."""
        if self.look(LONG_PATIENCE_SECONDS).disk == "silent":
            raise self.fault()

    def _waited(self) -> float:
        since = self._waits_since
        return 0.0 if since is None else time.monotonic() - since

    def _begin(self, work: Callable[[], None], patience: float) -> bool:
        """Have the thread do `work`, unless another question has waited for so long already."""
        with self._lock:
            if self._waited() >= patience:
                return False
            if self._waits_since is None:
                # No pool: the end of the process would wait for its threads. This one waits for the lock first.
                threading.Thread(target=self._run, name="disk", daemon=True).start()
                self._waits_since = time.monotonic()
            self._asked.append(work)
            return True

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._asked:
                    self._waits_since = None
                    return
                self._waits_since, work = time.monotonic(), self._asked.popleft()
            work()


@lru_cache(maxsize=64)  # so a filesystem that does not answer holds one thread of the process, however often it is asked
def disk_of(folder: Path) -> Disk:
    """Return the filesystem of a folder."""
    return Disk(folder)


def answer_or_fault(folders: Iterable[Path], question: Callable[[], T]) -> T:
    """Return the answer to a question that may ask any of `folders`, however long it takes.

    Raises what it raises, and `LocalFault` when it is not answered and one of their filesystems is silent.
    """
    answer = begun(question, "question")
    while not wait([answer], PATIENCE_SECONDS).done:
        for folder in folders:
            disk_of(folder).demand_answer()
    return answer.result()


def free_bytes(folder: str) -> int | None:
    """Free bytes for an ordinary user below `folder`; None when it is missing or does not answer."""
    return disk_of(Path(folder)).look().free_bytes


def _look(folder: Path) -> Look:
    try:
        status = os.statvfs(folder)
    except OSError:
        return Look("missing")
    return Look("ok", status.f_bavail * status.f_frsize)
