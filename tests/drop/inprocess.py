"""The drop side assembled as in the agent, but in this process, with console and storage in memory and time as an argument.

A kill ends a life after a given number of writes to the ledger: no later write reaches it, as after SIGKILL.
"""

import hashlib
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from axomsync.config import DropSettings
from axomsync.console.client import Console
from axomsync.core.errors import LocalFault, Stopping, Transient, UrlExpired
from axomsync.core.records import UNDER_WAY, BaseModel, Presigned, Shard, Upload
from axomsync.drop.intake import Intake
from axomsync.ledger import Ledger, Reader
from axomsync.ledger.committer import Write
from axomsync.runtime.gates import Gates
from axomsync.storage.client import Storage
from axomsync.storage.s3 import Confirmation
from tests.rig.contexts import worker_context

T = TypeVar("T")

URL_SECONDS = 900.0


class Clocks:
    """Monotonic and wall time; only `advance` and waiting move them."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 1000.0, 1_900_000_000.0

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class Stop(threading.Event):
    """An event; waiting for it takes no time, but moves the clocks."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__()
        self._clocks = clocks

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._clocks.advance(timeout or 0.0)
        return self.is_set()


class FarSide:
    """A console and a storage in memory. Each PUT takes one of `faults`: before, during, after or instead of storing."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._expiry: dict[str, float] = {}
        self._lock = threading.Lock()
        self.names: dict[str, str] = {}  # by key
        self.objects: dict[str, bytes] = {}  # by key
        self.faults: deque[str] = deque()
        self.puts = 0
        self.clock_ahead: float | None = 0.0
        self.console_refuses: str | None = None  # with these words

    def base_models(self, beat: Callable[[], None]) -> list[BaseModel]:
        if self.console_refuses is not None:
            raise Transient(self.console_refuses)
        self.clock_ahead = 0.0
        return []

    def presign(self, filename: str, content_type: str) -> Presigned:
        if self.console_refuses is not None:
            raise Transient(self.console_refuses)
        with self._lock:
            number = len(self.names) + 1
            key = f"tmp/{number}/{filename}"
            self.names[key], self._expiry[key] = filename, self._clocks.wall + URL_SECONDS
        return Presigned(f"up-{number}", key, key, self._expiry[key])

    def put(self, url: str, pieces: Iterator[bytes], length: int, content_type: str) -> Confirmation:
        with self._lock:
            self.puts += 1
            fault = self.faults.popleft() if self.faults else ""
        if fault == "bug":
            raise RuntimeError("a bug")
        if fault == "refused":
            raise Transient("storage answered 503 (SlowDown)", congestion=True)
        if fault == "expired" or self._clocks.wall > self._expiry[url]:
            raise UrlExpired("storage answered 403 (AccessDenied)")
        first = next(pieces, b"")
        if fault == "cut":
            raise Transient("the connection broke")
        body = first + b"".join(pieces)
        assert len(body) == length
        if fault == "lost before storing":
            raise Transient("no byte for 30 s")
        self.objects[url] = body
        if fault == "lost":
            raise Transient("the connection broke")
        if fault == "lost, then expired":
            self._expiry[url] = 0.0
            raise Transient("storage answered 500 (InternalError)")
        return Confirmation(f'"{hashlib.md5(body).hexdigest()}"', etag_is_md5=True)


class MortalLedger(Ledger):
    """A ledger that accepts `writes` more writes, and none after that."""

    def __init__(self, folder: Path, now: Callable[[], float], stop: threading.Event, writes: int | None) -> None:
        self._left, self._stop, self._count = writes, stop, threading.Lock()
        super().__init__(folder, now)

    def submit(self, work: Callable[[Database], T], row: Hashable | None = None) -> Write[T]:
        with self._count:
            if self._left == 0:
                self._stop.set()
                raise Stopping("killed")
            if self._left is not None:
                self._left -= 1
        return super().submit(work, row)


class DropHere:
    """One installation below `home`; each `live` is one life of an agent, of one pass.

    `console` and `storage` replace those in memory; with them the wall clock starts at the real time.
    """

    def __init__(
        self, home: Path, template: Path, *, console: Console | None = None, storage: Storage | None = None, **drop: Any
    ) -> None:
        self.folder, self.outside, self.state = home / "drop", home / "outside", home / "state"
        for folder in (self.folder, self.outside, self.state):
            folder.mkdir(parents=True)
        shutil.copy(template, self.state / "state.db")
        self.settings = DropSettings(**{"folder": self.folder, "settle": "5s", **drop})
        self.clocks = Clocks()
        self.far = FarSide(self.clocks)
        self._console, self._storage = console or self.far, storage or self.far
        if console is not None:
            self.clocks.wall = time.time()
        self.identity = "here"
        self.gates = Gates()
        self.reserve = 0  # bytes of the state folder's disk that unpacked files leave free

    def live(self, writes: int | None = None) -> None:
        """Run one pass; killed after so many `writes` to the ledger if given."""
        stop = Stop(self.clocks)
        with MortalLedger(self.state, lambda: self.clocks.wall, stop, None) as ledger:
            ledger.recover()
            ledger._left = writes
            context = worker_context(
                ledger, self._console, self._storage, stop=stop, identity=self.identity,
                now=lambda: self.clocks.wall, clock=lambda: self.clocks.monotonic, gates=self.gates,
            )  # fmt: skip
            intake = Intake(self.settings, context, self.reserve)
            try:
                intake.run_once()
            except (Stopping, LocalFault):
                assert writes is not None
            finally:
                ledger._left = None

    def ledger(self) -> Ledger:
        """Open the ledger between two lives."""
        return Ledger(self.state, lambda: self.clocks.wall)

    def finish(self) -> None:
        """Run passes until no work is left."""
        for _ in range(10):
            self.live()
            if not any(row.state in UNDER_WAY for row in self.read(Reader.uploads_in_drop)):
                return
        raise AssertionError(f"still under way: {self.read(Reader.uploads_in_drop)}")

    def read(self, question: Callable[[Reader], T]) -> T:
        reader = Reader(self.state / "state.db")
        try:
            return question(reader)
        finally:
            reader.close()

    def uploads(self) -> list[tuple[Upload, list[Shard]]]:
        """Every row, with its shards."""
        shards = self.read(Reader.all_shards)
        return [(row, shards.get(row.id, [])) for row in self.read(Reader.uploads)]

    def content(self, row: Upload, shards: list[Shard]) -> bytes:
        """Bytes that storage has of an upload, by the keys that were handed out."""
        return b"".join(self.far.objects[key or ""] for key in ([s.key for s in shards] or [row.key]))


def ledger_template(folder: Path) -> Path:
    """Make an empty ledger with the newest schema: making one takes longer than a life."""
    Ledger(folder, lambda: 0.0).close()
    return folder / "state.db"
