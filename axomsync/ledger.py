"""The ledger: everything that must outlive the process, in one SQLite file. The only user of sqlite-utils.

One thread owns the writing connection; others hand it closures and wait. Closures that queue up while a commit is being
synced share the next one, so a thousand small files cost far fewer than a thousand fsyncs. Readers have a connection of
their own (WAL lets them read while a write goes on), also in other processes.

Failures handled: a crash at any point (each closure is whole or absent), a newer schema than this program knows
(`NewerLedger`), an older one or none where one is to be read (`UnreadyLedger`), an illegal state transition (refused: a bug
must not become a lie in the ledger), a full, failing or read-only disk and a damaged or locked file (`LocalFault`), a second
agent on the same state folder (`AlreadyRunning`), a filesystem on which locks lie (`BadConfig`).
"""

import fcntl
import json
import os
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from sqlite_utils import Database, Migrations

from axomsync import __version__
from axomsync.errors import AlreadyRunning, BadConfig, Fatal, LocalFault, NewerLedger, local_fault, printable
from axomsync.filesystems import REMOTE_FILESYSTEMS, filesystem_type
from axomsync.policy import same_but_for_numbers
from axomsync.records import (
    Checked,
    DurableSegment,
    Event,
    Happening,
    Model,
    ModelFile,
    ModelState,
    Presigned,
    Problem,
    RemoteModel,
    RepeatedLines,
    Segment,
    Shard,
    Stamp,
    Transfer,
    Upload,
    UploadState,
)

T = TypeVar("T")
Row = Mapping[str, Any]

BUSY_TIMEOUT_SECONDS = 10.0
LOCK_FILE = "agent.lock"
PID_WIDTH = 10
LOCK_PATIENCE_SECONDS = 1.0  # `status` takes the lock for an instant too, to see whether somebody has it
GROUP_COMMIT_MOST = 256

_U = UploadState
UPLOAD_TRANSITIONS: Mapping[UploadState, frozenset[UploadState]] = {
    _U.SETTLING: frozenset({_U.CHECKING}),
    _U.CHECKING: frozenset({_U.SETTLING, _U.QUEUED, _U.REJECTED, _U.DUPLICATE, _U.HELD, _U.FAILED}),
    _U.QUEUED: frozenset({_U.UPLOADING, _U.SETTLING, _U.DUPLICATE, _U.HELD, _U.FAILED}),
    _U.UPLOADING: frozenset({_U.UPLOADED, _U.QUEUED, _U.SETTLING, _U.DUPLICATE, _U.FAILED}),
    _U.HELD: frozenset({_U.SETTLING}),
    _U.FAILED: frozenset({_U.SETTLING, _U.QUEUED}),
    _U.UPLOADED: frozenset(),
    _U.REJECTED: frozenset({_U.SETTLING, _U.CHECKING}),
    _U.DUPLICATE: frozenset(),
}

_M = ModelState
# The console or the configuration may change its mind at any time, and whatever is tried may fail.
_ANY_TIME = frozenset({_M.WAITING, _M.IGNORED, _M.QUEUED, _M.BLOCKED, _M.FAILED, _M.GONE})
_BEGIN = frozenset({_M.DOWNLOADING, _M.PUBLISHED})  # published at once: the folder was found whole
MODEL_TRANSITIONS: Mapping[ModelState, frozenset[ModelState]] = {
    _M.WAITING: _ANY_TIME,
    _M.IGNORED: _ANY_TIME,
    _M.QUEUED: _ANY_TIME | _BEGIN,
    _M.DOWNLOADING: _ANY_TIME | {_M.VERIFYING},
    _M.VERIFYING: _ANY_TIME | {_M.PUBLISHED, _M.DOWNLOADING},
    # All but the first: its folder was removed.
    _M.PUBLISHED: frozenset({_M.PRUNED, _M.QUEUED, _M.IGNORED, _M.WAITING, _M.GONE}),
    _M.BLOCKED: _ANY_TIME | _BEGIN,
    _M.FAILED: _ANY_TIME | _BEGIN,
    _M.GONE: _ANY_TIME,
    _M.PRUNED: _ANY_TIME,
}

HISTORY_MOST = 500
_ENDS = frozenset({_U.UPLOADED, _U.REJECTED, _U.DUPLICATE, _M.PUBLISHED, _M.GONE, _M.PRUNED})
_SETBACKS = frozenset({_U.QUEUED, _U.HELD, _U.FAILED, _M.QUEUED, _M.BLOCKED, _M.FAILED})
_SUCCESSES: Mapping[str, str] = {_U.UPLOADED: "last_success_up", _M.PUBLISHED: "last_success_down"}
_LABELS = {"uploads": "path", "models": "name || '/' || version"}

migrations = Migrations("axomsync")


@migrations()
def m001_first_schema(db: Database) -> None:
    """Uploads, models, their files and segments, transfers in flight, and what the running agent says of itself."""
    _execute_all(db, _FIRST_SCHEMA)


@migrations()
def m002_shards(db: Database) -> None:
    """Large files that go up as several objects."""
    _execute_all(db, _SHARDS)


@migrations()
def m003_what_storage_may_keep(db: Database) -> None:
    """A digest for each shard; objects that nobody was given."""
    _execute_all(db, _ORPHANS)


@migrations()
def m004_retention_and_hooks(db: Database) -> None:
    """What retention and verification know of models; what hooks are to be run for, noted with the transition itself."""
    _execute_all(db, _RETENTION + _EVENTS)


@migrations()
def m005_requests(db: Database) -> None:
    """What other processes ask of the agent."""
    _execute_all(db, _REQUESTS)


@migrations()
def m006_history(db: Database) -> None:
    """What happened last, for people."""
    _execute_all(db, _HISTORY)


@migrations()
def m007_repeated_lines(db: Database) -> None:
    """Lines of a dataset that repeat others."""
    _execute_all(db, _REPEATED)


@migrations()
def m008_left_out(db: Database) -> None:
    """Files of published models that `[mirror] files` did not select."""
    _execute_all(db, _LEFT_OUT)


@migrations()
def m009_rejected(db: Database) -> None:
    """A way to the files that were set aside."""
    _execute_all(db, _REJECTED)


def _execute_all(db: Database, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            db.execute(statement)


_FIRST_SCHEMA = """
CREATE TABLE uploads (
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL,              -- relative to the drop folder, as the filesystem has it
  filename TEXT NOT NULL,
  dev INTEGER NOT NULL, ino INTEGER NOT NULL, bytes INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  sha256 TEXT, md5 TEXT, lines INTEGER,
  state TEXT NOT NULL, reason TEXT,
  upload_id TEXT, key TEXT, etag TEXT,
  duplicate_of INTEGER REFERENCES uploads(id),
  in_drop INTEGER NOT NULL DEFAULT 1,  -- 1 while the file lies where it was dropped
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX uploads_in_drop ON uploads(path) WHERE in_drop;
CREATE INDEX uploads_content ON uploads(sha256, filename) WHERE state = 'uploaded';
CREATE TABLE signed_urls (          -- secrets: only until the PUT is confirmed, never exported
  upload INTEGER PRIMARY KEY REFERENCES uploads(id) ON DELETE CASCADE,
  url TEXT NOT NULL, expires_at REAL
) STRICT;
CREATE TABLE models (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL, version TEXT NOT NULL, params INTEGER, base_model_id TEXT,
  remote_status TEXT NOT NULL, created_at TEXT,
  state TEXT NOT NULL, reason TEXT, path TEXT,
  bytes_total INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  first_seen REAL NOT NULL, updated_at REAL NOT NULL
) STRICT;
CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  model TEXT NOT NULL REFERENCES models(id) ON DELETE CASCADE,
  rel TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT,
  UNIQUE (model, rel)
) STRICT;
CREATE TABLE segments (             -- bytes that are on disk for good
  file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE,
  start INTEGER NOT NULL, "end" INTEGER NOT NULL, blake3 TEXT NOT NULL,
  PRIMARY KEY (file, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE transfers (
  direction TEXT NOT NULL, name TEXT NOT NULL,
  bytes_done INTEGER NOT NULL, bytes_received INTEGER NOT NULL, bytes_total INTEGER NOT NULL,
  rate REAL NOT NULL, eta REAL,
  PRIMARY KEY (direction, name)
) STRICT;
CREATE TABLE problems (             -- what keeps the agent from its work; those of single items are in their rows
  subject TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL, next_attempt REAL
) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) STRICT;
"""

_SHARDS = """
CREATE TABLE shards (               -- ranges of a file that are uploaded as objects of their own
  upload INTEGER NOT NULL REFERENCES uploads(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  filename TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
  upload_id TEXT, key TEXT, etag TEXT, uploaded INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (upload, number)
) STRICT;
CREATE TABLE signed_shard_urls (    -- secrets, as signed_urls
  upload INTEGER NOT NULL, number INTEGER NOT NULL, url TEXT NOT NULL, expires_at REAL,
  PRIMARY KEY (upload, number),
  FOREIGN KEY (upload, number) REFERENCES shards(upload, number) ON DELETE CASCADE
) STRICT;
"""

_ORPHANS = """
ALTER TABLE shards ADD COLUMN blake3 TEXT;
CREATE TABLE orphans (              -- objects that storage has or may have although their key was given to nobody
  upload INTEGER NOT NULL,          -- whose row may be gone
  upload_id TEXT NOT NULL, key TEXT NOT NULL, created_at REAL NOT NULL,
  PRIMARY KEY (upload, key)
) STRICT;
"""

_RETENTION = """
ALTER TABLE models ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN absent_polls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN absent_since REAL;
ALTER TABLE models ADD COLUMN damage TEXT;
ALTER TABLE models ADD COLUMN verified_at REAL;
"""

# A model that is blocked again and again, by a full disk for instance, has failed once until it is published.
_EVENTS = """
CREATE TABLE events (               -- what hooks are run for; kept a while with what the hook said
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL, "table" TEXT NOT NULL, subject TEXT NOT NULL, at REAL NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  done INTEGER NOT NULL DEFAULT 0, output TEXT
) STRICT;
CREATE INDEX events_due ON events(next_attempt) WHERE NOT done;
CREATE INDEX events_of ON events("table", subject);
CREATE TRIGGER model_published AFTER UPDATE OF state ON models
  WHEN new.state = 'published' AND old.state <> 'published' BEGIN
  DELETE FROM events WHERE kind = 'failed' AND "table" = 'models' AND subject = new.id AND done;  -- it may fail anew
  INSERT INTO events (kind, "table", subject, at) VALUES ('model_published', 'models', new.id, new.updated_at); END;
CREATE TRIGGER model_failed AFTER UPDATE OF state ON models
  WHEN new.state IN ('blocked', 'failed') AND old.state <> new.state
  AND NOT EXISTS (SELECT 1 FROM events WHERE kind = 'failed' AND "table" = 'models' AND subject = new.id) BEGIN
  INSERT INTO events (kind, "table", subject, at) VALUES ('failed', 'models', new.id, new.updated_at); END;
CREATE TRIGGER upload_done AFTER UPDATE OF state ON uploads
  WHEN new.state = 'uploaded' AND old.state <> 'uploaded' BEGIN
  INSERT INTO events (kind, "table", subject, at) VALUES ('upload_done', 'uploads', new.id, new.updated_at); END;
CREATE TRIGGER upload_failed AFTER UPDATE OF state ON uploads
  WHEN new.state IN ('failed', 'rejected', 'held') AND old.state <> new.state BEGIN
  INSERT INTO events (kind, "table", subject, at) VALUES ('failed', 'uploads', new.id, new.updated_at); END;
"""

_REQUESTS = """
CREATE TABLE requests (             -- written by other processes, see steering.py
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  verb TEXT NOT NULL, argument TEXT, parameters TEXT NOT NULL,
  asked_at REAL NOT NULL, begun_at REAL, ended_at REAL,
  outcome TEXT                      -- JSON: answer, error, exit_code
) STRICT;
CREATE INDEX new_requests ON requests(id) WHERE begun_at IS NULL;
"""

_HISTORY = """
CREATE TABLE history (              -- the last transitions worth telling
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL, reason TEXT
) STRICT;
CREATE INDEX history_of ON history(kind, subject, id);
"""

# JSON of records.RepeatedLines.
_REPEATED = "ALTER TABLE uploads ADD COLUMN repeated_lines TEXT"

# A JSON list of their paths.
_LEFT_OUT = "ALTER TABLE models ADD COLUMN left_out TEXT"

_REJECTED = "CREATE INDEX uploads_rejected ON uploads(id) WHERE state = 'rejected' AND NOT in_drop"


# Segments may overlap, where a straggler's rest was fetched twice.
_MODELS = (
    "SELECT m.*, (SELECT coalesce(sum(min(f.size,"
    ' (SELECT coalesce(sum(s."end" - s.start), 0) FROM segments s WHERE s.file = f.id))), 0)'
    " FROM files f WHERE f.model = m.id) AS bytes_done FROM models m"
)


# What SQLite says of a wrong statement or value, rather than of the disk.
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)


@dataclass(frozen=True)
class _Failed:
    why: BaseException


class Ledger:
    """The writing side, for the one agent that holds the state folder. `close` it, or use it in a `with`."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self._now = now
        self.transitions: Counter[tuple[str, str]] = Counter()  # since the start, by table and new state
        self._lock_file = _hold(folder)
        self.path = folder / "state.db"
        try:
            self._writer = _open(self.path)
            self._read = Reader(self.path)
        except BaseException:
            os.close(self._lock_file)
            raise
        self._jobs: queue.SimpleQueue[tuple[Callable[[Database], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_loop, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the writes that were handed in, then let go of the state folder."""
        self._jobs.put(None)
        self._thread.join()
        self._read.close()
        self._writer.close()
        os.close(self._lock_file)

    @property
    def read(self) -> "Reader":
        """The reading side."""
        return self._read

    # Writing

    def submit(self, work: Callable[[Database], T]) -> Future[T]:
        """Have `work` done in a transaction; the future is done once it is synced to disk."""
        future: Future[T] = Future()
        self._jobs.put((work, future))
        return future

    def write(self, work: Callable[[Database], T]) -> T:
        """As `submit`, and wait for it."""
        return self.submit(work).result()

    def _write_loop(self) -> None:
        closing = False
        while not closing:
            group = [self._jobs.get()]
            while group[-1] is not None and len(group) < GROUP_COMMIT_MOST:
                try:
                    group.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            closing = group[-1] is None
            jobs = [job for job in group if job is not None]
            try:
                outcomes = self._commit([work for work, _ in jobs])
            except BaseException as failure:  # noqa: BLE001  # whatever it is: nobody must wait for ever
                outcomes = [_Failed(failure)] * len(jobs)
            for (_, future), outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome, _Failed):
                    future.set_exception(outcome.why)
                else:
                    future.set_result(outcome)

    def _commit(self, works: Sequence[Callable[[Database], Any]]) -> list[Any]:
        """All of `works` in one transaction: what each returned, or `_Failed`. Raises when none is on disk."""
        connection = self._writer.conn
        try:
            # IMMEDIATE: a deferred transaction that reads first can fail at once with SQLITE_BUSY_SNAPSHOT.
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._in_savepoint(work) for work in works]
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OSError):
                raise _sqlite_fault(error, self.path) from None
            raise
        return outcomes

    def _in_savepoint(self, work: Callable[[Database], T]) -> "T | _Failed":
        """What `work` returned, or why it failed; then it has changed nothing. Raises when the disk is to blame."""
        connection = self._writer.conn
        connection.execute("SAVEPOINT job")
        try:
            result = work(self._writer)
        except Exception as failure:
            if isinstance(failure, sqlite3.Error | OSError) and not isinstance(failure, _BUGS):
                raise  # the whole group fails and is told why
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return _Failed(failure)  # it belongs to whoever handed the work in
        connection.execute("RELEASE job")
        return result

    # Uploads

    def see_uploads(self, found: Iterable[tuple[bytes, str, Stamp]]) -> None:
        """Rows for files that were not known: `(path, filename, stamp)`, all in one transaction."""
        now, rows = self._now(), list(found)

        def work(db: Database) -> None:
            for path, filename, stamp in rows:
                db.conn.execute(
                    "INSERT INTO uploads (path, filename, dev, ino, bytes, mtime_ns, ctime_ns, state, created_at,"
                    " updated_at) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                    (path, filename, *_stamp_row(stamp), UploadState.SETTLING, now, now),
                )

        self.write(work)

    def push_upload(self, path: bytes, filename: str, stamp: Stamp) -> int:
        """A row for a file that is to be uploaded now, and that its absolute path leads to; returns its id.

        One that is under way goes on, one that was given up is begun anew.
        """
        now = self._now()

        def work(db: Database) -> int:
            row = db.conn.execute("SELECT id, state FROM uploads WHERE path = ? AND in_drop", (path,)).fetchone()
            if row is None:
                columns = "path, filename, dev, ino, bytes, mtime_ns, ctime_ns, state, created_at, updated_at"
                values = (path, filename, *_stamp_row(stamp), UploadState.SETTLING, now, now)
                made = db.conn.execute(f"INSERT INTO uploads ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", values)  # noqa: S608
                return made.lastrowid or 0
            state = UploadState.SETTLING if row[1] in (UploadState.HELD, UploadState.FAILED) else UploadState(row[1])
            self._move(db, "uploads", row[0], state, {"next_attempt": None, "attempts": 0})
            return int(row[0])

        return self.write(work)

    def forget_uploads(self, paths: Iterable[bytes]) -> None:
        """Drop the rows of files that went away before anything was done for them; others are kept as history.

        Storage may have the bytes of one whose PUT had begun: that is told, and its signed URL forgotten.
        """
        gone = list(paths)

        def work(db: Database) -> None:
            for path in gone:
                db.conn.execute(
                    "DELETE FROM uploads WHERE path = ? AND in_drop AND upload_id IS NULL"
                    " AND state IN ('settling', 'checking', 'queued', 'held', 'failed')",
                    (path,),
                )
                db.conn.execute(
                    "DELETE FROM signed_urls WHERE upload IN (SELECT id FROM uploads WHERE path = ? AND in_drop)", (path,)
                )
                db.conn.execute(
                    "UPDATE uploads SET state = 'failed', reason = 'the file went away before storage had confirmed it'"
                    " WHERE path = ? AND in_drop AND state IN ('queued', 'uploading')",
                    (path,),
                )
                db.conn.execute("UPDATE uploads SET in_drop = 0, next_attempt = NULL WHERE path = ? AND in_drop", (path,))

        self.write(work)

    def adopt_uploads(self, receipts: Iterable[tuple[bytes, Mapping[str, Any]]]) -> None:
        """Rows for files that were uploaded before this ledger began: `(path, receipt)`, originals before duplicates."""

        def work(db: Database) -> None:
            known = set(db.conn.execute("SELECT sha256, path FROM uploads WHERE state IN ('uploaded', 'duplicate')"))
            for path, receipt in receipts:
                if (receipt["sha256"], path) in known:
                    continue
                same = "SELECT id FROM uploads WHERE sha256 = ? AND filename = ? AND state = 'uploaded'"
                twin = db.conn.execute(same, (receipt["sha256"], receipt["filename"])).fetchone()
                original = twin is None
                upload = db.conn.execute(
                    "INSERT INTO uploads (path, filename, dev, ino, bytes, mtime_ns, ctime_ns, sha256, md5, lines, state,"
                    " upload_id, key, etag, duplicate_of, in_drop, created_at, updated_at, repeated_lines)"
                    " VALUES (?,?,0,0,?,0,0,?,?,?,?,?,?,?,?,0,?,?,?)",
                    (
                        path, receipt["filename"], receipt["bytes"], receipt["sha256"], receipt.get("md5"),
                        receipt.get("lines"), UploadState.UPLOADED if original else UploadState.DUPLICATE,
                        receipt.get("upload_id"), receipt.get("key"), receipt.get("etag"), twin and twin[0],
                        receipt["updated_at"], receipt["updated_at"], _repeated_again(receipt.get("repeated_lines")),
                    ),
                ).lastrowid  # fmt: skip
                if original and upload is not None:
                    _insert_shards(db, upload, receipt["shards"])

        self.write(work)

    def move_upload(self, upload: int, state: UploadState, **changes: Any) -> Future[None]:
        """Move an upload to `state` and set columns. Raises `IllegalTransition` from the future."""
        return self.submit(lambda db: self._move(db, "uploads", upload, state, changes))

    def record_check(
        self, upload: int, stamp: Stamp, checked: Checked, shards: Iterable[tuple[str, Segment]] = ()
    ) -> Future[None]:
        """The file was read whole and is valid: it may be uploaded, as these `(filename, range)` if there are any."""
        columns = dict(zip(("dev", "ino", "bytes", "mtime_ns", "ctime_ns"), _stamp_row(stamp), strict=True))
        changes = {**columns, "sha256": checked.sha256, "lines": checked.lines, "reason": None}
        changes["repeated_lines"] = None if checked.repeated is None else json.dumps(asdict(checked.repeated))
        planned = list(shards)

        def work(db: Database) -> None:
            self._move(db, "uploads", upload, UploadState.QUEUED, changes)
            db.conn.execute("DELETE FROM shards WHERE upload = ?", (upload,))
            for number, ((filename, segment), digest) in enumerate(zip(planned, checked.shards, strict=True), 1):
                db.conn.execute(
                    'INSERT INTO shards (upload, number, filename, start, "end", blake3) VALUES (?,?,?,?,?,?)',
                    (upload, number, filename, segment.start, segment.end, digest),
                )

        return self.submit(work)

    def record_presigned(self, upload: int, presigned: Presigned) -> None:
        """Keep the signed URL before the PUT begins, so that an ambiguous loss can be repeated on the same key."""

        def work(db: Database) -> None:
            changes = {"upload_id": presigned.upload_id, "key": presigned.key, "reason": None, "next_attempt": None}
            self._move(db, "uploads", upload, UploadState.UPLOADING, changes)
            db.conn.execute(
                "INSERT OR REPLACE INTO signed_urls (upload, url, expires_at) VALUES (?,?,?)",
                (upload, presigned.url, presigned.expires_at),
            )

        self.write(work)

    def make_uploads_due(self) -> None:
        """Whatever waits for its next try in the drop folder is to be tried now."""
        self.write(lambda db: _execute(db, "UPDATE uploads SET next_attempt = NULL WHERE in_drop", ()))

    def retry(self, uploads: Iterable[int], models: Iterable[str]) -> None:
        """Let these be tried now: their next attempt is due, and files that were parked are looked at anew."""
        rows, ids = list(uploads), list(models)

        def work(db: Database) -> None:
            for row in rows:
                db.conn.execute("UPDATE uploads SET next_attempt = NULL, attempts = 0 WHERE id = ? AND in_drop", (row,))
                anew = "UPDATE uploads SET state = 'settling' WHERE id = ? AND in_drop AND state IN ('failed', 'held')"
                db.conn.execute(anew, (row,))
            for model in ids:
                db.conn.execute("UPDATE models SET next_attempt = NULL WHERE id = ?", (model,))

        self.write(work)

    def strike(self, uploads: Iterable[int], models: Iterable[str]) -> None:
        """Strike out what is known of these: whatever turns up again is new."""
        rows, ids = list(uploads), list(models)

        def work(db: Database) -> None:
            for row in rows:
                db.conn.execute("UPDATE uploads SET duplicate_of = NULL WHERE duplicate_of = ?", (row,))
                db.conn.execute("DELETE FROM uploads WHERE id = ?", (row,))
            for model in ids:
                db.conn.execute("DELETE FROM models WHERE id = ?", (model,))

        self.write(work)

    def forget_presigned(self, upload: int) -> None:
        """Storage refused the URL: the next try asks for another."""
        self.write(lambda db: _execute(db, "DELETE FROM signed_urls WHERE upload = ?", (upload,)))

    def record_uploaded(self, upload: int, etag: str | None, md5: str | None) -> None:
        """Storage confirmed the bytes; the signed URL is forgotten."""

        def work(db: Database) -> None:
            changes = {"etag": etag, "md5": md5, "reason": None, "next_attempt": None}
            self._move(db, "uploads", upload, UploadState.UPLOADED, changes)
            db.conn.execute("DELETE FROM signed_urls WHERE upload = ?", (upload,))

        self.write(work)

    def record_duplicate(self, upload: int, document: Mapping[str, Any], twin: int | None, reason: str) -> None:
        """Storage has this content already: as the upload with the row id `twin`, or as another agent tells.

        `document` has `upload_id`, `key` and `etag`, and without a twin the `shards`, as in a receipt.
        """
        ids = {name: document.get(name) for name in ("upload_id", "key", "etag")}

        def work(db: Database) -> None:
            self._leave_behind(db, upload)
            changes = {**ids, "duplicate_of": twin, "reason": reason, "next_attempt": None}
            self._move(db, "uploads", upload, UploadState.DUPLICATE, changes)
            if twin is None:
                _insert_shards(db, upload, document.get("shards") or ())

        self.write(work)

    def record_orphan(self, upload: int, presigned: Presigned) -> None:
        """Storage has or may have an object whose key is not handed out."""
        sql = "INSERT OR IGNORE INTO orphans VALUES (?,?,?,?)"
        self.write(lambda db: _execute(db, sql, (upload, presigned.upload_id, presigned.key, self._now())))

    def record_shard_presigned(self, upload: int, number: int, presigned: Presigned) -> None:
        """As `record_presigned`, for one shard."""

        def work(db: Database) -> None:
            db.conn.execute(
                "UPDATE shards SET upload_id = ?, key = ? WHERE upload = ? AND number = ?",
                (presigned.upload_id, presigned.key, upload, number),
            )
            db.conn.execute(
                "INSERT OR REPLACE INTO signed_shard_urls (upload, number, url, expires_at) VALUES (?,?,?,?)",
                (upload, number, presigned.url, presigned.expires_at),
            )

        self.write(work)

    def forget_shard_presigned(self, upload: int, number: int) -> None:
        """As `forget_presigned`, for one shard."""
        sql = "DELETE FROM signed_shard_urls WHERE upload = ? AND number = ?"
        self.write(lambda db: _execute(db, sql, (upload, number)))

    def record_shard_uploaded(self, upload: int, number: int, etag: str | None) -> None:
        """Storage confirmed one shard."""

        def work(db: Database) -> None:
            db.conn.execute(
                "UPDATE shards SET uploaded = 1, etag = ? WHERE upload = ? AND number = ?", (etag, upload, number)
            )
            db.conn.execute("DELETE FROM signed_shard_urls WHERE upload = ? AND number = ?", (upload, number))

        self.write(work)

    def record_moved_away(self, upload: int) -> Future[None]:
        """The file no longer lies in the drop folder: archived, set aside or deleted, as configured."""
        return self.submit(lambda db: _execute(db, "UPDATE uploads SET in_drop = 0 WHERE id = ?", (upload,)))

    def restamp(self, upload: int, stamp: Stamp, state: UploadState, reason: str | None = None) -> Future[None]:
        """The file changed: what was known of its content no longer holds."""
        columns = dict(zip(("dev", "ino", "bytes", "mtime_ns", "ctime_ns"), _stamp_row(stamp), strict=True))

        def work(db: Database) -> None:
            changes = {**columns, "reason": reason, "sha256": None, "md5": None, "lines": None, "next_attempt": None}
            self._leave_behind(db, upload)
            self._move(db, "uploads", upload, state, {**changes, "upload_id": None, "key": None, "attempts": 0})

        return self.submit(work)

    def _leave_behind(self, db: Database, upload: int) -> None:
        """Forget where an upload was going; what storage has or may have of it are orphans now."""
        for begun in (
            "SELECT id, upload_id, key, ?2 FROM uploads JOIN signed_urls ON upload = id WHERE id = ?1",
            "SELECT upload, upload_id, key, ?2 FROM shards WHERE upload = ?1 AND (uploaded OR number IN"
            " (SELECT number FROM signed_shard_urls WHERE upload = ?1))",
        ):
            db.conn.execute(f"INSERT OR IGNORE INTO orphans {begun}", (upload, self._now()))
        db.conn.execute("DELETE FROM shards WHERE upload = ?", (upload,))
        db.conn.execute("DELETE FROM signed_urls WHERE upload = ?", (upload,))

    def recover(self) -> None:
        """At the start of an agent: what was under way when the last one ended goes back to where it can be taken up."""

        def work(db: Database) -> None:
            now = self._now()
            for table, state, back in (
                ("uploads", UploadState.CHECKING, UploadState.SETTLING),
                ("uploads", UploadState.UPLOADING, UploadState.QUEUED),
                ("models", ModelState.DOWNLOADING, ModelState.QUEUED),
                ("models", ModelState.VERIFYING, ModelState.QUEUED),
            ):
                db.conn.execute(
                    f"UPDATE {table} SET state = ?, updated_at = ? WHERE state = ?",  # noqa: S608  # names from above
                    (back, now, state),
                )
            db.conn.execute("DELETE FROM transfers")
            db.conn.execute("DELETE FROM problems")

        self.write(work)

    # Models

    def record_catalog(self, changes: Iterable[tuple[RemoteModel, ModelState, str | None]]) -> None:
        """New labels and states of models, as reconciling with the console's list gave them."""
        changed = list(changes)

        def work(db: Database) -> None:
            now = self._now()
            for model, state, reason in changed:
                labels = (model.name, model.version, model.params, model.base_model_id, model.status, model.created_at)
                db.conn.execute(
                    "INSERT INTO models (id, name, version, params, base_model_id, remote_status, created_at, state, reason,"
                    " first_seen, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET"
                    " name = excluded.name, version = excluded.version, params = excluded.params,"
                    " base_model_id = excluded.base_model_id, remote_status = excluded.remote_status,"
                    " created_at = excluded.created_at",
                    (model.id, *labels, state, reason, now, now),
                )
                self._move(db, "models", model.id, state, {"reason": reason})

        self.write(work)

    def note_presence(self, listed: Iterable[str]) -> None:
        """One more list of the console: who is in it is there, of all others one more absence is counted."""
        there = list(listed)

        def work(db: Database) -> None:
            db.conn.execute("CREATE TEMP TABLE IF NOT EXISTS listed (id TEXT PRIMARY KEY)")
            db.conn.execute("DELETE FROM listed")
            db.conn.executemany("INSERT OR IGNORE INTO listed VALUES (?)", ((model_id,) for model_id in there))
            db.conn.execute(
                "UPDATE models SET absent_polls = 0, absent_since = NULL"
                " WHERE absent_since IS NOT NULL AND id IN (SELECT id FROM listed)"
            )
            db.conn.execute(
                "UPDATE models SET absent_polls = absent_polls + 1, absent_since = coalesce(absent_since, ?)"
                " WHERE id NOT IN (SELECT id FROM listed)",
                (self._now(),),
            )

        self.write(work)

    def record_found(self, model: RemoteModel, path: str, files: Iterable[ModelFile], left_out: Iterable[str]) -> None:
        """A model that lies in the mirror folder, and that this ledger knows nothing of."""
        found, others = list(files), _json_list(left_out)

        def work(db: Database) -> None:
            db.conn.execute(
                "INSERT INTO models (id, name, version, params, base_model_id, remote_status, created_at, state, path,"
                " left_out, bytes_total, first_seen, updated_at) VALUES (?,?,?,?,?,?,?,'published',?,?,?,?,?)",
                (
                    model.id, model.name, model.version, model.params, model.base_model_id, model.status, model.created_at,
                    path, others, sum(file.size for file in found), self._now(), self._now(),
                ),
            )  # fmt: skip
            _insert_files(db, model.id, found)

        self.write(work)

    def record_published(
        self, model_id: str, path: str, files: Iterable[ModelFile], left_out: Iterable[str], verified_at: float | None
    ) -> None:
        """A model is whole at `path`. `verified_at` is None when nobody has read the bytes yet: they are due to be, then."""
        there, others = list(files), _json_list(left_out)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM files WHERE model = ?", (model_id,))
            _insert_files(db, model_id, there)
            changes: dict[str, Any] = {"path": path, "left_out": others, "bytes_total": sum(file.size for file in there)}
            changes |= {"reason": None, "attempts": 0, "next_attempt": None, "verified_at": verified_at, "damage": None}
            self._move(db, "models", model_id, ModelState.PUBLISHED, changes)

        self.write(work)

    def replace_files(self, model_id: str, files: Iterable[ModelFile]) -> None:
        """What is published of a model now, in the place of what was."""
        fresh = list(files)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM files WHERE model = ?", (model_id,))
            _insert_files(db, model_id, fresh)

        self.write(work)

    def record_pruned(self, model_id: str, reason: str) -> None:
        """Retention has removed the folder of a model: nothing of it is on disk any more."""

        def work(db: Database) -> None:
            changes = {"reason": reason, "path": None, "damage": None, "verified_at": None}
            self._move(db, "models", model_id, ModelState.PRUNED, changes)
            db.conn.execute("DELETE FROM segments WHERE file IN (SELECT id FROM files WHERE model = ?)", (model_id,))

        self.write(work)

    def note_verified(self, model_id: str, damage: str | None) -> None:
        """The bytes of a published model were read and compared just now; `damage` is what is wrong with them."""
        sql = "UPDATE models SET damage = ?, verified_at = ? WHERE id = ?"
        self.write(lambda db: _execute(db, sql, (damage, self._now(), model_id)))

    def move_model(self, model_id: str, state: ModelState, **changes: Any) -> None:
        """Move a model to `state` and set columns. Raises `IllegalTransition`."""
        self.write(lambda db: self._move(db, "models", model_id, state, changes))

    def record_wanted(self, model_id: str, *, pulled: bool) -> None:
        """A model is to be fetched now; `pulled` has it stay although the selection would not take it."""
        changes: dict[str, Any] = {"attempts": 0, "next_attempt": None, "reason": None} | ({"pulled": 1} if pulled else {})
        self.move_model(model_id, ModelState.QUEUED, **changes)

    def plan_files(self, model_id: str, files: Iterable[tuple[str, int]]) -> None:
        """The files of a model as its manifest has them; files that left the manifest or changed size are forgotten."""
        wanted = dict(files)

        def work(db: Database) -> None:
            for row in list(db.query("SELECT id, rel, size FROM files WHERE model = ?", [model_id])):
                if wanted.get(row["rel"]) != row["size"]:
                    db.conn.execute("DELETE FROM files WHERE id = ?", (row["id"],))
            for rel, size in wanted.items():
                db.conn.execute(
                    "INSERT INTO files (model, rel, size) VALUES (?,?,?) ON CONFLICT DO NOTHING", (model_id, rel, size)
                )
            db.conn.execute("UPDATE models SET bytes_total = ? WHERE id = ?", (sum(wanted.values()), model_id))

        self.write(work)

    def record_durable(self, entries: Iterable[tuple[str, str, str | None, DurableSegment]]) -> None:
        """Segments that have been synced: `(model id, rel, ETag, segment)`. One that grew replaces what it spans."""
        grown = list(entries)

        def work(db: Database) -> None:
            for model_id, rel, etag, segment in grown:
                db.conn.execute("UPDATE files SET etag = ? WHERE model = ? AND rel = ?", (etag, model_id, rel))
                db.conn.execute(
                    'INSERT INTO segments (file, start, "end", blake3)'
                    " SELECT id, ?, ?, ? FROM files WHERE model = ? AND rel = ?"
                    ' ON CONFLICT (file, start) DO UPDATE SET "end" = excluded."end", blake3 = excluded.blake3'
                    ' WHERE excluded."end" >= segments."end"',
                    (segment.start, segment.end, segment.blake3, model_id, rel),
                )
                db.conn.execute(
                    "DELETE FROM segments WHERE file = (SELECT id FROM files WHERE model = ? AND rel = ?)"
                    ' AND start > ? AND "end" <= ?',
                    (model_id, rel, segment.start, segment.end),
                )

        self.write(work)

    def discard_file(self, model_id: str, rel: str) -> None:
        """What was received of a file is no longer worth anything: its object changed, or its partial vanished."""

        def work(db: Database) -> None:
            db.conn.execute(
                "DELETE FROM segments WHERE file = (SELECT id FROM files WHERE model = ? AND rel = ?)", (model_id, rel)
            )
            db.conn.execute("UPDATE files SET etag = NULL WHERE model = ? AND rel = ?", (model_id, rel))

        self.write(work)

    # Events for hooks

    def record_hook(self, event: int, output: str, next_attempt: float | None) -> None:
        """A hook was run for an event, and said `output`; it is done with it unless there is a `next_attempt`."""
        sql = "UPDATE events SET attempts = attempts + 1, output = ?, next_attempt = ?, done = ? WHERE id = ?"
        self.write(lambda db: _execute(db, sql, (output, next_attempt, int(next_attempt is None), event)))

    def drop_events(self, kinds: Iterable[str], done_before: float) -> None:
        """Nobody wants to hear of these kinds; and of what was done with before that time, only failures that last."""
        unwanted = list(kinds)

        def work(db: Database) -> None:
            for kind in unwanted:
                db.conn.execute("UPDATE events SET done = 1 WHERE kind = ? AND NOT done", (kind,))
            db.conn.execute(
                "DELETE FROM events WHERE done AND at < ? AND NOT (kind = 'failed' AND \"table\" = 'models')", (done_before,)
            )

        self.write(work)

    # What others ask for

    def begin_request(self, request: int) -> None:
        """The agent sets about it."""
        self.write(lambda db: _execute(db, "UPDATE requests SET begun_at = ? WHERE id = ?", (self._now(), request)))

    def end_request(self, request: int, outcome: str) -> None:
        """It ended; whoever waits reads the outcome."""
        sql = "UPDATE requests SET outcome = ?, ended_at = ? WHERE id = ?"
        self.write(lambda db: _execute(db, sql, (outcome, self._now(), request)))

    def set_request_back(self, request: int) -> None:
        """The agent stops before it ended: the next one begins it anew."""
        self.write(lambda db: _execute(db, "UPDATE requests SET begun_at = NULL WHERE id = ?", (request,)))

    def recover_requests(self, outcome: str, kept: float) -> None:
        """At the start of an agent: `outcome` for what a crash cut off; what ended `kept` seconds ago is forgotten."""

        def work(db: Database) -> None:
            now = self._now()
            ended = "UPDATE requests SET outcome = ?, ended_at = ? WHERE begun_at IS NOT NULL AND ended_at IS NULL"
            db.conn.execute(ended, (outcome, now))
            db.conn.execute("DELETE FROM requests WHERE ended_at < ?", (now - kept,))

        self.write(work)

    # The agent about itself

    def show_transfers(self, transfers: Iterable[Transfer]) -> None:
        """Replace what other processes see of the transfers in flight."""
        rows = list(transfers)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM transfers")
            for t in rows:
                db.conn.execute(
                    "INSERT OR REPLACE INTO transfers VALUES (?,?,?,?,?,?,?)",
                    (t.direction, t.name, t.bytes_done, t.bytes_received, t.bytes_total, t.rate, t.eta),
                )

        self.write(work)

    def set_facts(self, **facts: str | None) -> None:
        """Small facts about the agent that `status` shows, such as the last poll."""

        def work(db: Database) -> None:
            for name, value in facts.items():
                db.conn.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

        self.write(work)

    def show_problem(self, subject: str, reason: str, next_attempt: float | None) -> None:
        """Add a problem or change its reason; it keeps the time when it began."""

        def work(db: Database) -> None:
            known = db.conn.execute("SELECT 1 FROM problems WHERE subject = ?", (subject,)).fetchone()
            db.conn.execute(
                "INSERT INTO problems VALUES (?, ?, ?, ?) ON CONFLICT (subject) DO UPDATE"
                " SET reason = excluded.reason, next_attempt = excluded.next_attempt",
                (subject, reason, self._now(), next_attempt),
            )
            if known is None:
                self._tell(db, "problem", subject, "began", reason)

        self.write(work)

    def clear_problem(self, subject: str) -> None:
        """The problem is over."""

        def work(db: Database) -> None:
            if db.conn.execute("DELETE FROM problems WHERE subject = ?", (subject,)).rowcount:
                self._tell(db, "problem", subject, "over", None)

        self.write(work)

    def tell(self, kind: str, subject: str, state: str, reason: str | None = None) -> None:
        """Add a line to the history."""
        self.write(lambda db: self._tell(db, kind, subject, state, reason))

    def _move(self, db: Database, table: str, row_id: int | str, state: str, changes: Mapping[str, Any]) -> None:
        row = db.conn.execute(
            f"SELECT state, attempts, {_LABELS[table]} FROM {table} WHERE id = ?",  # noqa: S608  # own names
            (row_id,),
        ).fetchone()
        if row is None:
            raise IllegalTransition(f"{table} {row_id} is not in the ledger")
        if row[0] != state and not _legal(table, row[0], state):
            raise IllegalTransition(f"{table} {row_id} can't go from {row[0]} to {state}")
        columns = {**changes, "state": str(state), "updated_at": self._now()}
        assignments = ", ".join(f"{column} = ?" for column in columns)
        db.conn.execute(f"UPDATE {table} SET {assignments} WHERE id = ?", (*columns.values(), row_id))  # noqa: S608
        if row[0] != state:
            self._tell_transition(db, table, row, str(state), changes.get("reason"))

    def _tell_transition(self, db: Database, table: str, row: tuple[Any, ...], state: str, reason: str | None) -> None:
        _, attempts, label = row
        self.transitions[table, state] += 1
        if fact := _SUCCESSES.get(state):
            db.conn.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (fact, str(self._now())))
        begins = state == ModelState.DOWNLOADING and not attempts
        if begins or state in _ENDS or (reason and state in _SETBACKS):
            self._tell(db, table.removesuffix("s"), printable(os.fsdecode(label)), state, reason)

    def _tell(self, db: Database, kind: str, subject: str, state: str, reason: str | None) -> None:
        """Unless it is what was told of the same subject last: what is tried again and again is told once."""
        last = db.conn.execute(
            "SELECT state, reason FROM history WHERE kind = ? AND subject = ? ORDER BY id DESC LIMIT 1", (kind, subject)
        ).fetchone()
        if reason and last and last[0] == state and same_but_for_numbers(last[1] or "", reason) and state in _SETBACKS:
            return
        added = db.conn.execute(
            "INSERT INTO history (at, kind, subject, state, reason) VALUES (?,?,?,?,?)",
            (self._now(), kind, subject, state, reason),
        )
        db.conn.execute("DELETE FROM history WHERE id <= ?", ((added.lastrowid or 0) - HISTORY_MOST,))


class IllegalTransition(Fatal):
    """The program tried to move a row where it can't go: a bug, stopped before it reaches the disk."""


class UnreadyLedger(LocalFault):
    """There is none, or one that no agent has brought up to date since the program was upgraded."""


class Reader:
    """The reading side: a read-only connection, usable from any thread and while an agent in another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise UnreadyLedger(f"{path}: there is no ledger yet; `axomsync run` or `axomsync sync` creates it")
        self._lock = threading.Lock()
        try:
            connection = sqlite3.connect(
                f"file:{_uri_path(path)}?mode=ro", uri=True, check_same_thread=False, timeout=BUSY_TIMEOUT_SECONDS
            )
            self._db = Database(connection)
            with _closed_on_failure(connection):
                _refuse_newer(self._db, path)
                if migrations.pending(self._db):
                    raise UnreadyLedger(f"{path}: of an older version; start the agent anew, which brings it up to date")
        except sqlite3.Error as error:
            raise _sqlite_fault(error, path) from None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    @overload
    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]: ...
    @overload
    def _rows(self, sql: str, parameters: Sequence[object] = (), *, make: Callable[[Row], T]) -> list[T]: ...
    def _rows(
        self, sql: str, parameters: Sequence[object] = (), *, make: Callable[[Row], Any] = lambda row: row
    ) -> list[Any]:
        with self._lock:
            try:
                return [make(row) for row in self._db.query(sql, list(parameters))]  # fifty thousand dicts are 100 MB
            except sqlite3.Error as error:
                raise _sqlite_fault(error, self.path) from None

    def uploads(self) -> list[Upload]:
        """Every file ever taken, oldest first."""
        return self._rows("SELECT * FROM uploads ORDER BY id", make=_upload)

    def uploads_in_drop(self) -> list[Upload]:
        """Files that lie in the drop folder as far as the ledger knows, and those that `push` was given."""
        return self._rows("SELECT * FROM uploads WHERE in_drop ORDER BY id", make=_upload)

    def latest_rejected(self, most: int) -> list[Upload]:
        """At most so many of the files that are no datasets and were set aside, latest first."""
        sql = "SELECT * FROM uploads WHERE state = 'rejected' AND NOT in_drop ORDER BY id DESC LIMIT ?"
        return self._rows(sql, (most,), make=_upload)

    def latest_uploads(self, most: int) -> list[Upload]:
        """At most so many that came last, and so many that are not done with; what changed last comes first."""
        undone = "SELECT id FROM uploads WHERE in_drop AND state NOT IN ('uploaded', 'duplicate') ORDER BY id DESC LIMIT ?"
        latest = "SELECT id FROM uploads ORDER BY id DESC LIMIT ?"
        sql = f"SELECT * FROM uploads WHERE id IN ({undone}) OR id IN ({latest}) ORDER BY updated_at DESC, id DESC"  # noqa: S608
        return [_upload(row) for row in self._rows(sql, (most, most))]

    def upload(self, upload: int) -> Upload:
        """One upload by its row id."""
        return _upload(self._rows("SELECT * FROM uploads WHERE id = ?", (upload,))[0])

    def uploads_among(self, ids: Iterable[int]) -> list[Upload]:
        """Those of these uploads that the ledger has."""
        among = ", ".join(str(int(each)) for each in ids)
        return self._rows(f"SELECT * FROM uploads WHERE id IN ({among}) ORDER BY id", make=_upload)  # noqa: S608

    def same_content(self, sha256: str, filename: str | None) -> Upload | None:
        """An upload that storage has confirmed with this content, under this name or under any."""
        rows = self._rows(
            "SELECT * FROM uploads WHERE sha256 = ? AND filename = coalesce(?, filename) AND state = 'uploaded' LIMIT 1",
            (sha256, filename),
        )
        return _upload(rows[0]) if rows else None

    def presigned(self, upload: Upload) -> Presigned | None:
        """The signed URL that was kept for an upload. A secret."""
        rows = self._rows("SELECT url, expires_at FROM signed_urls WHERE upload = ?", (upload.id,))
        if not rows or upload.upload_id is None or upload.key is None:
            return None
        return Presigned(upload.upload_id, upload.key, rows[0]["url"], rows[0]["expires_at"])

    def shards(self, upload: int) -> list[Shard]:
        """The shards of an upload in order, none when it goes up whole."""
        return self.all_shards("WHERE upload = ?", upload).get(upload, [])

    def all_shards(self, where: str = "", *parameters: object) -> dict[int, list[Shard]]:
        """The shards of every upload that has some, by its row id."""
        columns = 'upload, number, filename, start, "end", upload_id, key, etag, blake3, uploaded'
        shards: dict[int, list[Shard]] = {}
        for row in self._rows(f"SELECT {columns} FROM shards {where} ORDER BY upload, number", parameters):  # noqa: S608
            upload, facts = row["upload"], {name: row[name] for name in row if name != "upload"}
            shards.setdefault(upload, []).append(Shard(**{**facts, "uploaded": bool(facts["uploaded"])}))
        return shards

    def shard_presigned(self, upload: int, shard: Shard) -> Presigned | None:
        """The signed URL that was kept for a shard. A secret."""
        sql = "SELECT url, expires_at FROM signed_shard_urls WHERE upload = ? AND number = ?"
        rows = self._rows(sql, (upload, shard.number))
        if not rows or shard.upload_id is None or shard.key is None:
            return None
        return Presigned(shard.upload_id, shard.key, rows[0]["url"], rows[0]["expires_at"])

    def orphans(self) -> dict[int, list[str]]:
        """Keys of objects that storage has or may have and nobody was given, by the row id of the upload."""
        keys: dict[int, list[str]] = {}
        for row in self._rows("SELECT upload, key FROM orphans ORDER BY created_at"):
            keys.setdefault(row["upload"], []).append(row["key"])
        return keys

    def upload_counts(self) -> dict[str, int]:
        """Uploads a state, zero included."""
        return self._counts("uploads", UploadState)

    def models(self, *states: ModelState) -> list[Model]:
        """Every model ever listed, or those in one of `states`; newest first."""
        among = _among(states) if states else ""
        rows = self._rows(f"{_MODELS} {among} ORDER BY created_at DESC, id")
        return [_model(row) for row in rows]

    def latest_models(self, most: int) -> list[Model]:
        """At most so many of the newest, and so many that are not done with; newest first."""
        states = "('queued', 'downloading', 'verifying', 'blocked', 'failed')"
        undone = f"SELECT id FROM models WHERE state IN {states} LIMIT ?"  # noqa: S608
        latest = "SELECT id FROM models ORDER BY created_at DESC, id LIMIT ?"
        sql = f"{_MODELS} WHERE m.id IN ({undone}) OR m.id IN ({latest}) ORDER BY created_at DESC, id"
        return [_model(row) for row in self._rows(sql, (most, most))]

    def models_due(self, states: Iterable[ModelState], now: float) -> list[Model]:
        """Models in one of `states` whose next attempt is due, oldest first."""
        sql = f"{_MODELS} {_among(states)} AND coalesce(next_attempt, 0) <= ? ORDER BY created_at, id"
        return [_model(row) for row in self._rows(sql, (now,))]

    def model(self, model_id: str) -> Model:
        """One model by its id."""
        return _model(self._rows(f"{_MODELS} WHERE m.id = ?", (model_id,))[0])

    def model_counts(self) -> dict[str, int]:
        """Models a state, zero included."""
        return self._counts("models", ModelState)

    def files(self, model_id: str) -> list[ModelFile]:
        """The files of a model with their durable segments, by path."""
        segments: dict[int, list[DurableSegment]] = {}
        query = 'SELECT s.file, s.start, s."end", s.blake3 FROM segments s JOIN files f ON f.id = s.file WHERE f.model = ?'
        for row in self._rows(f"{query} ORDER BY s.start", (model_id,)):
            segments.setdefault(row["file"], []).append(DurableSegment(row["start"], row["end"], row["blake3"]))
        return [
            ModelFile(row["rel"], row["size"], row["etag"], tuple(segments.get(row["id"], ())))
            for row in self._rows("SELECT * FROM files WHERE model = ? ORDER BY rel", (model_id,))
        ]

    def events_due(self, now: float) -> list[Event]:
        """What hooks are to be run for, oldest first."""
        sql = 'SELECT id, kind, "table", subject, at, attempts FROM events'
        rows = self._rows(f"{sql} WHERE NOT done AND coalesce(next_attempt, 0) <= ? ORDER BY id", (now,))
        return [Event(**row) for row in rows]

    def transfers(self) -> list[Transfer]:
        """Transfers in flight, as the agent last told."""
        return [Transfer(**row) for row in self._rows("SELECT * FROM transfers ORDER BY direction, name")]

    def problems(self) -> list[Problem]:
        """What keeps the agent from its work, oldest first."""
        return [Problem(**row) for row in self._rows("SELECT * FROM problems ORDER BY since")]

    def new_requests(self) -> list[Row]:
        """What was asked of the agent and not begun, oldest first."""
        return self._rows("SELECT * FROM requests WHERE begun_at IS NULL ORDER BY id")

    def request(self, request: int) -> Row | None:
        """One request; None when it is long over."""
        return next(iter(self._rows("SELECT * FROM requests WHERE id = ?", (request,))), None)

    def history(self, most: int) -> list[Happening]:
        """What happened last, newest first."""
        columns = "at, kind, subject, state, reason"
        rows = self._rows(f"SELECT {columns} FROM history ORDER BY id DESC LIMIT ?", (most,))  # noqa: S608  # own names
        return [Happening(**row) for row in rows]

    def version(self) -> int:
        """A number that is another one once something has been written."""
        return int(self._rows("PRAGMA data_version")[0]["data_version"])

    def facts(self) -> dict[str, str | None]:
        """What the agent last said of itself."""
        return {row["name"]: row["value"] for row in self._rows("SELECT * FROM facts")}

    def _counts(self, table: str, states: Iterable[str]) -> dict[str, int]:
        counted = self._rows(f"SELECT state, count(*) AS n FROM {table} GROUP BY state")  # noqa: S608  # own names
        return {str(state): 0 for state in states} | {row["state"]: row["n"] for row in counted}


@contextmanager
def write_beside_agent(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction from another process than the agent. Raises `LocalFault`."""
    if _is_barred(path):
        raise LocalFault(f"{path}: this user may not steer the agent; use sudo, or be the user that the agent runs as")
    Reader(path).close()  # of this version, and there
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        with closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise _sqlite_fault(error, path) from None


def _is_barred(path: Path) -> bool:
    """Whether there is, or may be, a file that this process may not write."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    return not os.access(path, os.W_OK)


def holder(folder: Path) -> int | None:
    """Pid of the agent that holds the state folder, None when nobody does."""
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise local_fault(error, str(folder / LOCK_FILE)) from None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(file, 32, 0).strip() or b"0")
    finally:
        os.close(file)
    return None


def _hold(folder: Path) -> int:
    """Take the state folder for this process; the lock goes when the process goes, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        kind = filesystem_type(folder)
        if kind in REMOTE_FILESYSTEMS:
            raise BadConfig(
                f"[state] folder {folder} is on {kind}, where locks and WAL can't be trusted; name a folder on a local disk"
            )
        file = _open_or_make(folder / LOCK_FILE)
    except OSError as error:
        raise local_fault(error, error.filename or str(folder)) from None
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while not _locked(file):
        if time.monotonic() > deadline:
            pid = os.pread(file, 32, 0).decode().strip()
            os.close(file)
            raise AlreadyRunning(
                f"another agent (pid {pid}) holds {folder}; stop it, or give this one its own [state] folder"
            )
        time.sleep(0.02)
    try:
        os.pwrite(file, f"{os.getpid():<{PID_WIDTH}}\n".encode(), 0)  # at once whole: others may be reading it
    except OSError as error:
        os.close(file)
        raise local_fault(error, str(folder / LOCK_FILE)) from None
    return file


def _open_or_make(path: Path) -> int:
    """A descriptor of a file in the state folder. What root makes belongs to the folder's owner, as whom the agent runs."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    if os.geteuid() == 0:
        home = path.parent.stat()
        with suppress(PermissionError):  # a container may hold root to what it has
            os.fchown(file, home.st_uid, home.st_gid)
    return file


def _among(states: Iterable[ModelState]) -> str:
    return "WHERE state IN ({})".format(", ".join(f"'{state}'" for state in states))


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> Database:
    """The writing connection, with the newest schema. Raises `LocalFault`, or `NewerLedger` for one that is newer still."""
    mask = os.umask(0o027)  # what goes where is nobody else's business
    try:
        if not path.exists():
            os.close(_open_or_make(path))
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS)
        with _closed_on_failure(connection):
            db = Database(connection)
            _refuse_newer(db, path)
            if db.journal_mode != "wal":
                db.enable_wal()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            migrations.apply(db)
    except sqlite3.Error as error:
        raise _sqlite_fault(error, path) from None
    except OSError as error:
        raise local_fault(error, str(path)) from None
    finally:
        os.umask(mask)
    return db


@contextmanager
def _closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _refuse_newer(db: Database, path: Path) -> None:
    known = {migration.name for migration in migrations.pending(Database(memory=True))}
    unknown = [applied.name for applied in migrations.applied(db) if applied.name not in known]
    if unknown:
        row = db.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()
        writer = row[0] if row else "an unknown version"
        raise NewerLedger(
            f"{path}: written by a newer axomsync: by {writer}, and this is {__version__}, which "
            f"does not know {', '.join(unknown)}; install that version again, or restore a ledger from before the upgrade"
        )


_SQLITE_ADVICE = {
    "database or disk is full": "the disk is full; free some space",
    "disk I/O error": "the disk is full or failing; free some space, and look at the kernel log",
    "attempt to write a readonly database": "it can't be written; give the service's user access to it and its folder",
    "unable to open database file": "it can't be opened; give the service's user access to it and its folder",
    "database is locked": "another program keeps it locked, a backup or an SQLite shell perhaps; end that",
    "file is not a database": "it is not a ledger; move it away, a new one loses no data",
    "database disk image is malformed": "it is damaged; move it away, a new one loses no data",
}


def _sqlite_fault(error: Exception, path: Path) -> LocalFault:
    return LocalFault(f"{printable(str(path))}: {_SQLITE_ADVICE.get(str(error), error)}")


def _uri_path(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _execute(db: Database, sql: str, parameters: Sequence[object]) -> None:
    db.conn.execute(sql, tuple(parameters))


def _insert_files(db: Database, model_id: str, files: Iterable[ModelFile]) -> None:
    for file in files:
        cursor = db.conn.execute(
            "INSERT INTO files (model, rel, size, etag) VALUES (?,?,?,?)", (model_id, file.rel, file.size, file.etag)
        )
        db.conn.executemany(
            'INSERT INTO segments (file, start, "end", blake3) VALUES (?,?,?,?)',
            ((cursor.lastrowid, part.start, part.end, part.blake3) for part in file.segments),
        )


def _insert_shards(db: Database, upload: int, documents: Iterable[Mapping[str, Any]]) -> None:
    """Shards that storage has, as a receipt tells of them."""
    start = 0
    for number, shard in enumerate(documents, 1):
        end = start + int(shard["bytes"])
        db.conn.execute(
            'INSERT INTO shards (upload, number, filename, start, "end", upload_id, key, etag, uploaded)'
            " VALUES (?,?,?,?,?,?,?,?,1)",
            (upload, number, shard["filename"], start, end, shard["upload_id"], shard["key"], shard["etag"]),
        )
        start = end


def _legal(table: str, old: str, new: str) -> bool:
    if table == "uploads":
        return new in UPLOAD_TRANSITIONS[UploadState(old)]
    return new in MODEL_TRANSITIONS[ModelState(old)]


def _stamp_row(stamp: Stamp) -> tuple[int, int, int, int, int]:
    return (_signed(stamp.dev), _signed(stamp.ino), stamp.size, stamp.mtime_ns, stamp.ctime_ns)


def _signed(number: int) -> int:
    """SQLite integers are signed: 64-bit inode numbers of some filesystems need folding."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number


def _repeated(text: str | None) -> RepeatedLines | None:
    if text is None:
        return None
    document = json.loads(text)
    return RepeatedLines(document["count"], document["compared"], tuple(document["first"]))


def _repeated_again(told: Any) -> str | None:
    """What a receipt says of repeated lines; nothing when somebody made something else of it."""
    try:
        known = RepeatedLines(int(told["count"]), int(told["compared"]), tuple(map(int, told["first"])))
    except (KeyError, TypeError, ValueError):
        return None
    return json.dumps(asdict(known))


def _upload(row: Row) -> Upload:
    return Upload(
        id=row["id"],
        path=bytes(row["path"]),
        filename=row["filename"],
        stamp=Stamp(_unsigned(row["dev"]), _unsigned(row["ino"]), row["bytes"], row["mtime_ns"], row["ctime_ns"]),
        state=UploadState(row["state"]),
        **{
            name: row[name]
            for name in (
                "reason", "sha256", "md5", "lines", "upload_id", "key", "etag",
                "duplicate_of", "attempts", "next_attempt", "created_at", "updated_at",
            )
        },
        repeated=_repeated(row["repeated_lines"]),
    )  # fmt: skip


def _json_list(names: Iterable[str]) -> str | None:
    return json.dumps(listed) if (listed := list(names)) else None


def _model(row: Row) -> Model:
    return Model(
        state=ModelState(row["state"]),
        **{
            name: row[name]
            for name in (
                "id", "name", "version", "params", "base_model_id", "remote_status", "created_at", "reason",
                "path", "bytes_done", "bytes_total", "attempts", "next_attempt", "updated_at", "absent_polls",
                "absent_since", "damage", "verified_at",
            )
        },
        pulled=bool(row["pulled"]),
        left_out=tuple(json.loads(row["left_out"] or "[]")),
    )  # fmt: skip
