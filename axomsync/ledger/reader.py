"""The reading side of the ledger: WAL lets it read while a write goes on, also in other processes.

Failures handled: no ledger, or one of an older version (`UnreadyLedger`), a newer one (`NewerLedger`), a locked file, one
that is damaged anywhere: in its structure, in a state, in a name or a number (`LocalFault`).
"""

import errno
import json
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from sqlite_utils import Database

from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.core.records import (
    DurableSegment,
    Event,
    Happening,
    Model,
    ModelFile,
    ModelState,
    Presigned,
    Problem,
    Shard,
    Stamp,
    Transfer,
    Upload,
    UploadState,
)
from axomsync.ledger.database import BUSY_TIMEOUT_SECONDS, DAMAGE, Trouble, check_ledger, closed_on_failure, sqlite_fault
from axomsync.ledger.rows import Misfit, Row, fitting, known_state, stamp_row, to_model, to_upload
from axomsync.ledger.schema import migrations, refuse_newer

T = TypeVar("T")

ROOM_BYTES = 1_000_000  # that making a ledger takes, and more

# Segments may overlap, where a straggler's rest was fetched twice.
_MODELS = (
    "SELECT m.*, (SELECT coalesce(sum(min(f.size,"
    ' (SELECT coalesce(sum(s."end" - s.start), 0) FROM segments s WHERE s.file = f.id))), 0)'
    " FROM files f WHERE f.model = m.id) AS bytes_done FROM models m"
)


class UnreadyLedger(LocalFault):
    """There is none, or one that no agent has brought up to date since the program was upgraded."""


class Reader:
    """The reading side: a read-only connection, usable from any thread and while an agent in another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_ledger(path)
        if not path.exists():
            raise UnreadyLedger(f"{path}: there is no ledger yet; `axomsync run` or `axomsync sync` creates it")
        if not os.access(path, os.R_OK, effective_ids=True):
            raise local_fault(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), str(path))
        self._lock = threading.Lock()
        try:
            connection = sqlite3.connect(
                f"file:{_uri_path(path)}?mode=ro{_as_guest(path)}",
                uri=True,
                check_same_thread=False,
                timeout=BUSY_TIMEOUT_SECONDS,
            )
            self._db = Database(connection)
            with closed_on_failure(connection):
                refuse_newer(self._db, path)
                if migrations.pending(self._db):
                    raise UnreadyLedger(f"{path}: {_why_pending(self._db, path)}")
        except (sqlite3.Error, *DAMAGE) as error:
            fault = sqlite_fault(error, path)
            if _is_guest(path) and getattr(fault, "trouble", None) in (Trouble.READ_ONLY, Trouble.UNOPENED):
                raise LocalFault(
                    f"{path}: the agent that wrote it came to a sudden end, and this user may not put it in order; "
                    "use sudo, or start the agent"
                ) from None
            raise fault from None

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
            except (sqlite3.Error, *DAMAGE) as error:
                raise sqlite_fault(error, self.path) from None

    def uploads(
        self, states: Collection[UploadState] = (), since: float | None = None, limit: int | None = None
    ) -> list[Upload]:
        """Every file ever taken, oldest first; or those in one of `states`, that changed `since` a time, or the newest."""
        among = f"state IN ({', '.join('?' * len(states))})" if states else "true"
        sql = f"SELECT * FROM uploads WHERE {among} AND updated_at >= ? ORDER BY id DESC LIMIT ?"  # noqa: S608
        newest = self._rows(
            sql, (*states, -math.inf if since is None else since, -1 if limit is None else limit), make=to_upload
        )
        return newest[::-1]

    def uploads_in_drop(self) -> list[Upload]:
        """Files that lie in the drop folder as far as the ledger knows, and those that `push` was given."""
        return self._rows("SELECT * FROM uploads WHERE in_drop ORDER BY id", make=to_upload)

    def latest_rejected(self, most: int) -> list[Upload]:
        """At most so many of the files that are no datasets and were set aside, latest first."""
        sql = "SELECT * FROM uploads WHERE state = 'rejected' AND NOT in_drop ORDER BY id DESC LIMIT ?"
        return self._rows(sql, (most,), make=to_upload)

    def rejections(self) -> set[tuple[int, float]]:
        """Which files were ever rejected, and when."""
        rows = self._rows("SELECT id, updated_at FROM uploads WHERE state = 'rejected'")
        return {(row["id"], row["updated_at"]) for row in rows}

    def latest_uploads(self, most: int) -> list[Upload]:
        """At most so many that came last, and so many that are not done with; what changed last comes first."""
        undone = "SELECT id FROM uploads WHERE in_drop AND state NOT IN ('uploaded', 'duplicate') ORDER BY id DESC LIMIT ?"
        latest = "SELECT id FROM uploads ORDER BY id DESC LIMIT ?"
        sql = f"SELECT * FROM uploads WHERE id IN ({undone}) OR id IN ({latest}) ORDER BY updated_at DESC, id DESC"  # noqa: S608
        return self._rows(sql, (most, most), make=to_upload)

    def upload(self, upload: int) -> Upload:
        """One upload by its row id."""
        return self._rows("SELECT * FROM uploads WHERE id = ?", (upload,), make=to_upload)[0]

    def uploads_among(self, ids: Iterable[int]) -> list[Upload]:
        """Those of these uploads that the ledger has."""
        among = ", ".join(str(int(each)) for each in ids)
        return self._rows(f"SELECT * FROM uploads WHERE id IN ({among}) ORDER BY id", make=to_upload)  # noqa: S608

    def same_content(self, sha256: str, filename: str | None, *, sent: bool = False) -> Upload | None:
        """An upload that storage has confirmed with this content, under this name or under any.

        `sent` leaves out what only a receipt tells: this ledger never saw the file itself.
        """
        seen = "AND (dev <> 0 OR ino <> 0)" if sent else ""
        rows = self._rows(
            "SELECT * FROM uploads WHERE sha256 = ? AND filename = coalesce(?, filename) AND state = 'uploaded'"  # noqa: S608
            f" {seen} LIMIT 1",
            (sha256, filename),
            make=to_upload,
        )
        return rows[0] if rows else None

    def all_of_content(self, sha256: str, filename: str | None) -> list[Upload]:
        """Every upload with this content, under this name or under any."""
        sql = "SELECT * FROM uploads WHERE sha256 = ? AND filename = coalesce(?, filename) ORDER BY id"
        return self._rows(sql, (sha256, filename), make=to_upload)

    def begun_before(self, upload: Upload, filename: str | None) -> list[Upload]:
        """Files of this content, under this name or under any, that have a signed URL and wait for nothing.

        None where the upload itself is one of them.
        """
        begun = "SELECT upload FROM signed_urls UNION SELECT upload FROM signed_shard_urls"
        rows = self._rows(
            f"SELECT * FROM uploads WHERE id IN ({begun}) AND in_drop AND next_attempt IS NULL"  # noqa: S608  # from above
            " AND state IN ('queued', 'uploading') AND sha256 = ? AND filename = coalesce(?, filename)",
            (upload.sha256, filename),
            make=to_upload,
        )
        return [] if any(row.id == upload.id for row in rows) else rows

    def receipts(self) -> dict[bytes, str]:
        """The receipts in the archive that are known: marks by path."""
        return {bytes(row["path"]): row["mark"] for row in self._rows("SELECT path, mark FROM receipts")}

    def put_away_as(self, stamp: Stamp, states: Iterable[UploadState]) -> Upload | None:
        """Find the upload in one of these states whose archived file has this stamp; renaming has changed the ctime."""
        _, *looks, _ = stamp_row(stamp)
        rows = self._rows(
            "SELECT * FROM uploads WHERE ino = ? AND bytes = ? AND mtime_ns = ? AND NOT in_drop"
            " AND state IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT 1",
            (*looks, json.dumps(list(states))),
            make=to_upload,
        )
        return rows[0] if rows else None

    def others_with_etag(self, etag: str, md5: str, blake3: str | None) -> bool:
        """Whether storage gave this ETag to other bytes too: to a file of another MD5, or a shard of another BLAKE3."""
        files = "SELECT 1 FROM uploads WHERE etag = ? AND state = 'uploaded' AND md5 IS NOT NULL AND md5 <> ?"
        shards = "SELECT 1 FROM shards WHERE etag = ? AND uploaded AND blake3 IS NOT NULL AND blake3 IS NOT ?"
        return bool(self._rows(f"{files} UNION ALL {shards} LIMIT 1", (etag, md5, etag, blake3)))  # both from above

    def presigned(self, upload: Upload) -> Presigned | None:
        """The signed URL that was kept for an upload. A secret."""
        sql = "SELECT url, expires_at FROM signed_urls WHERE upload = ?"
        return self._presigned(sql, (upload.id,), upload.upload_id, upload.key)

    def shards(self, upload: int) -> list[Shard]:
        """The shards of an upload in order, none when it goes up whole."""
        return self.all_shards("WHERE upload = ?", upload).get(upload, [])

    def all_shards(self, where: str = "", *parameters: object) -> dict[int, list[Shard]]:
        """The shards of every upload that has some, by its row id."""
        columns = 'upload, number, filename, start, "end", upload_id, key, etag, blake3, uploaded'
        shards: dict[int, list[Shard]] = {}
        sql = f"SELECT {columns} FROM shards {where} ORDER BY upload, number"  # noqa: S608  # own names
        for upload, shard in self._rows(sql, parameters, make=_shard):
            shards.setdefault(upload, []).append(shard)
        return shards

    def shard_presigned(self, upload: int, shard: Shard) -> Presigned | None:
        """The signed URL that was kept for a shard. A secret."""
        sql = "SELECT url, expires_at FROM signed_shard_urls WHERE upload = ? AND number = ?"
        return self._presigned(sql, (upload, shard.number), shard.upload_id, shard.key)

    def _presigned(self, sql: str, of: Sequence[object], upload_id: str | None, key: str | None) -> Presigned | None:
        if upload_id is None or key is None:
            return None
        rows = self._rows(sql, of, make=lambda row: fitting(Presigned, upload_id=upload_id, key=key, **row))
        return rows[0] if rows else None

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
        return self._rows(f"{_MODELS} {among} ORDER BY created_at DESC, id", make=to_model)

    def latest_models(self, most: int) -> list[Model]:
        """At most so many of the newest, and so many that are not done with; newest first."""
        states = "('queued', 'downloading', 'verifying', 'blocked', 'failed')"
        undone = f"SELECT id FROM models WHERE state IN {states} LIMIT ?"  # noqa: S608
        latest = "SELECT id FROM models ORDER BY created_at DESC, id LIMIT ?"
        sql = f"{_MODELS} WHERE m.id IN ({undone}) OR m.id IN ({latest}) ORDER BY created_at DESC, id"
        return self._rows(sql, (most, most), make=to_model)

    def models_due(self, states: Iterable[ModelState], now: float) -> list[Model]:
        """Models in one of `states` whose next attempt is due, oldest first."""
        sql = f"{_MODELS} {_among(states)} AND coalesce(next_attempt, 0) <= ? ORDER BY created_at, id"
        return self._rows(sql, (now,), make=to_model)

    def model(self, model_id: str) -> Model:
        """One model by its id."""
        return self._rows(f"{_MODELS} WHERE m.id = ?", (model_id,), make=to_model)[0]

    def model_counts(self) -> dict[str, int]:
        """Models a state, zero included."""
        return self._counts("models", ModelState)

    def files(self, model_id: str) -> list[ModelFile]:
        """The files of a model with their durable segments, by path."""
        segments: dict[int, list[DurableSegment]] = {}
        query = 'SELECT s.file, s.start, s."end", s.blake3 FROM segments s JOIN files f ON f.id = s.file WHERE f.model = ?'
        for file, segment in self._rows(f"{query} ORDER BY s.start", (model_id,), make=_segment):
            segments.setdefault(file, []).append(segment)

        def with_segments(row: Row) -> ModelFile:
            own = tuple(segments.get(row["id"], ()))
            return fitting(ModelFile, rel=row["rel"], size=row["size"], etag=row["etag"], segments=own)

        return self._rows("SELECT * FROM files WHERE model = ? ORDER BY rel", (model_id,), make=with_segments)

    def events_due(self, now: float) -> list[Event]:
        """What hooks are to be run for, oldest first."""
        sql = 'SELECT id, kind, "table", subject, at, attempts, next_attempt FROM events'
        due = f"{sql} WHERE NOT done AND coalesce(next_attempt, 0) <= ? ORDER BY id"
        return self._rows(due, (now,), make=partial(_plain, Event))

    def transfers(self) -> list[Transfer]:
        """Transfers in flight, as the agent last told."""
        return self._rows("SELECT * FROM transfers ORDER BY direction, name", make=partial(_plain, Transfer))

    def problems(self) -> list[Problem]:
        """What keeps the agent from its work, oldest first."""
        return self._rows("SELECT * FROM problems ORDER BY since", make=partial(_plain, Problem))

    def new_requests(self) -> list[Row]:
        """What was asked of the agent and not begun, oldest first."""
        return self._rows("SELECT * FROM requests WHERE begun_at IS NULL ORDER BY id")

    def request(self, request: int) -> Row | None:
        """One request; None when it is long over."""
        return next(iter(self._rows("SELECT * FROM requests WHERE id = ?", (request,))), None)

    def history(self, most: int) -> list[Happening]:
        """What happened last, newest first."""
        columns = "at, kind, subject, state, reason"
        sql = f"SELECT {columns} FROM history ORDER BY id DESC LIMIT ?"  # noqa: S608  # own names
        return self._rows(sql, (most,), make=partial(_plain, Happening))

    def version(self) -> int:
        """A number that is another one once something has been written."""
        return int(self._rows("PRAGMA data_version")[0]["data_version"])

    def facts(self) -> dict[str, str | None]:
        """What the agent last said of itself."""
        return dict(self._rows("SELECT * FROM facts", make=_fact))

    def _counts(self, table: str, states: Iterable[str]) -> dict[str, int]:
        def counted(row: Row) -> tuple[str, int]:
            return str(known_state(table, row["state"])), row["n"]

        sql = f"SELECT state, count(*) AS n FROM {table} GROUP BY state"  # noqa: S608  # own names
        return {str(state): 0 for state in states} | dict(self._rows(sql, make=counted))


def _why_pending(db: Database, path: Path) -> str:
    """Whether an older version wrote it, or nobody yet: a start that failed half-way leaves a file without any fact."""
    if "facts" in db.table_names() and db.execute("SELECT EXISTS (SELECT 1 FROM facts)").fetchone()[0]:
        return "of an older version; start the agent anew, which brings it up to date"
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize < ROOM_BYTES or (disk.f_files and not disk.f_favail):
        return "the start that was to make it failed, since the disk is full; free some space, and start the agent again"
    return "the start that was to make it failed, on a full disk perhaps; start the agent again: nothing was lost"


def _plain(kind: type[T], row: Row) -> T:
    return fitting(kind, **row)


def _shard(row: Row) -> tuple[int, Shard]:
    columns = {name: row[name] for name in row if name != "upload"}
    return row["upload"], fitting(Shard, **{**columns, "uploaded": bool(columns["uploaded"])})


def _segment(row: Row) -> tuple[int, DurableSegment]:
    return row["file"], fitting(DurableSegment, start=row["start"], end=row["end"], blake3=row["blake3"])


def _fact(row: Row) -> tuple[str, str | None]:
    if not isinstance(row["name"], str) or not isinstance(row["value"], str | None):
        raise Misfit("facts")
    return row["name"], row["value"]


def _among(states: Iterable[ModelState]) -> str:
    return "WHERE state IN ({})".format(", ".join(f"'{state}'" for state in states))


def _as_guest(path: Path) -> str:
    """How SQLite is to read for somebody who may not make the files that it wants beside a ledger, where no agent has made
    them: as a file that nobody writes to. Wrong only for what an agent writes that starts at that moment."""
    return "&immutable=1" if _is_guest(path) and not path.with_name(path.name + "-shm").exists() else ""


def _is_guest(path: Path) -> bool:
    return not os.access(path.parent, os.W_OK, effective_ids=True)


def _uri_path(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
