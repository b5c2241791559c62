"""Writes of uploads: files that were found, checked, sent, confirmed and put away.

Some writes need no wait: if one fails before a thread waits for it, the next write of the same upload fails too (see
`Committer`).
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from sqlite_utils import Database

from axomsync.core.errors import Forgotten
from axomsync.core.records import Checked, Receipt, Segment, Stamp, Stored, Upload, UploadState
from axomsync.ledger.database import fetched
from axomsync.ledger.rows import shape_column, stamp_row, to_upload
from axomsync.ledger.signed_urls import SignedUrlWrites, insert_shards

WENT_AWAY = "the file went away before storage had confirmed it"


class UploadWrites(SignedUrlWrites):
    """Writes of uploads."""

    def see_uploads(self, found: Iterable[tuple[bytes, str, Stamp]]) -> None:
        """Add rows for new files: `(path, filename, stamp)`, all in one transaction."""
        now, rows = self._now(), list(found)

        def work(db: Database) -> None:
            for path, filename, stamp in rows:
                db.conn.execute(
                    "INSERT INTO uploads (path, filename, dev, ino, bytes, mtime_ns, ctime_ns, state, created_at,"
                    " updated_at) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                    (path, filename, *stamp_row(stamp), UploadState.SETTLING, now, now),
                )

        self.write(work)

    def push_upload(self, path: bytes, filename: str, stamp: Stamp) -> int:
        """Add or reset the row of a file that is to be uploaded now, by its absolute path; returns the row's id.

        An upload that is under way continues; one that was given up starts again.
        """
        now = self._now()

        def work(db: Database) -> int:
            row = db.conn.execute("SELECT id, state FROM uploads WHERE path = ? AND in_drop", (path,)).fetchone()
            if row is None:
                columns = "path, filename, dev, ino, bytes, mtime_ns, ctime_ns, state, created_at, updated_at"
                values = (path, filename, *stamp_row(stamp), UploadState.SETTLING, now, now)
                made = db.conn.execute(f"INSERT INTO uploads ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", values)  # noqa: S608
                return made.lastrowid or 0
            state = UploadState.SETTLING if row[1] in (UploadState.HELD, UploadState.FAILED) else UploadState(row[1])
            self._move(db, "uploads", row[0], state, {"next_attempt": None, "attempts": 0})
            return int(row[0])

        return self.write(work)

    def forget_uploads(self, paths: Iterable[bytes]) -> None:
        """Delete the rows of files that disappeared before any work on them; other rows stay as history.

        If a PUT had begun, storage may have the bytes: the history says so, and the signed URL is deleted. Shards that it
        has or may have become orphans.
        """
        gone = list(paths)

        def work(db: Database) -> None:
            for path in gone:
                begun = (
                    "SELECT id FROM uploads JOIN shards ON upload = id WHERE path = ? AND in_drop AND state <> 'uploaded'"
                )
                for (upload,) in db.conn.execute(f"{begun} AND state <> 'duplicate' GROUP BY id", (path,)).fetchall():
                    self._leave_behind(db, upload)
                db.conn.execute(
                    "DELETE FROM uploads WHERE path = ? AND in_drop AND upload_id IS NULL"
                    " AND state IN ('settling', 'checking', 'queued', 'held', 'failed')",
                    (path,),
                )
                db.conn.execute(
                    "DELETE FROM signed_urls WHERE upload IN (SELECT id FROM uploads WHERE path = ? AND in_drop)", (path,)
                )
                lost = "SELECT id FROM uploads WHERE path = ? AND in_drop AND state IN ('queued', 'uploading')"
                for (upload,) in db.conn.execute(lost, (path,)).fetchall():
                    self._move(db, "uploads", upload, UploadState.FAILED, {"reason": WENT_AWAY})
                db.conn.execute("UPDATE uploads SET in_drop = 0, next_attempt = NULL WHERE path = ? AND in_drop", (path,))

        self.write(work)

    def adopt_uploads(
        self, receipts: Iterable[Receipt], marks: Mapping[bytes, str] | None = None, gone: Iterable[bytes] = ()
    ) -> None:
        """Add rows for uploaded files that this ledger does not know; originals before duplicates.

        `marks` of receipts, by path, are recorded; those of receipts that are `gone` are deleted.
        """
        remembered, forgotten = list((marks or {}).items()), [(path,) for path in gone]

        def work(db: Database) -> None:
            known = set(db.conn.execute("SELECT sha256, path FROM uploads WHERE state IN ('uploaded', 'duplicate')"))
            for receipt in receipts:
                if (receipt.sha256, receipt.path) not in known:
                    _adopt(db, receipt)
            db.conn.executemany("DELETE FROM receipts WHERE path = ?", forgotten)
            db.conn.executemany("INSERT OR REPLACE INTO receipts VALUES (?,?)", remembered)

        self.write(work)

    def move_upload(self, upload: int, state: UploadState, **changes: Any) -> Future[None]:
        """Move an upload to `state` and set columns. The future raises `IllegalTransition` and `Forgotten`."""
        return self.submit(lambda db: self._move(db, "uploads", upload, state, changes), upload)

    def record_rejected(self, upload: int, reason: str) -> Upload:
        """Record that a file is no dataset, or that a gate does not let it pass; returns the new row."""
        changes = {"reason": reason, "next_attempt": None}
        return self.write(lambda db: self._move_upload(db, upload, UploadState.REJECTED, changes), upload)

    def record_check(
        self,
        upload: int,
        stamp: Stamp,
        checked: Checked,
        shards: Iterable[tuple[str, Segment]] = (),
        packed_sha256: str | None = None,
    ) -> Future[Upload]:
        """Queue a valid file, as these shards `(filename, range)` if there are any; the future has the new row.

        `packed_sha256` is the digest of a compressed file, which has this `stamp`; `checked` is of what it holds.
        """
        columns = dict(zip(("dev", "ino", "bytes", "mtime_ns", "ctime_ns"), stamp_row(stamp), strict=True))
        changes = {**columns, "sha256": checked.sha256, "blake3": checked.blake3, "lines": checked.lines, "reason": None}
        changes["repeated_lines"] = None if checked.repeated is None else json.dumps(asdict(checked.repeated))
        changes["shape"] = shape_column(checked.shape)
        changes |= {"packed_sha256": packed_sha256, "unpacked": None if packed_sha256 is None else checked.bytes}
        planned = list(shards)

        def work(db: Database) -> Upload:
            queued = self._move_upload(db, upload, UploadState.QUEUED, changes)
            db.conn.execute("DELETE FROM shards WHERE upload = ?", (upload,))
            for number, ((filename, segment), digest) in enumerate(zip(planned, checked.shards, strict=True), 1):
                db.conn.execute(
                    'INSERT INTO shards (upload, number, filename, start, "end", blake3) VALUES (?,?,?,?,?,?)',
                    (upload, number, filename, segment.start, segment.end, digest),
                )
            return queued

        return self.submit(work, upload)

    def make_uploads_due(self) -> None:
        """Make all uploads that wait in the drop folder due now."""
        self.execute("UPDATE uploads SET next_attempt = NULL WHERE in_drop").result()

    def retry(self, uploads: Iterable[int], models: Iterable[str]) -> None:
        """Make these due now; parked files are also checked again."""
        rows, ids = list(uploads), list(models)

        def work(db: Database) -> None:
            for row in rows:
                db.conn.execute("UPDATE uploads SET next_attempt = NULL, attempts = 0 WHERE id = ? AND in_drop", (row,))
                parked = "SELECT 1 FROM uploads WHERE id = ? AND in_drop AND state IN ('failed', 'held')"
                if db.conn.execute(parked, (row,)).fetchone():
                    self._move(db, "uploads", row, UploadState.SETTLING, {})
            for model in ids:
                db.conn.execute("UPDATE models SET next_attempt = NULL WHERE id = ?", (model,))

        self.write(work)

    def strike(self, uploads: Iterable[int], models: Iterable[str]) -> None:
        """Delete these rows and their events: if the file or model appears again, it is new."""
        rows, ids = list(uploads), list(models)

        def work(db: Database) -> None:
            for row in rows:
                db.conn.execute("UPDATE uploads SET duplicate_of = NULL WHERE duplicate_of = ?", (row,))
                db.conn.execute("DELETE FROM uploads WHERE id = ?", (row,))
                db.conn.execute("DELETE FROM events WHERE \"table\" = 'uploads' AND subject = ?", (str(row),))
            for model in ids:
                db.conn.execute("DELETE FROM models WHERE id = ?", (model,))

        self.write(work)

    def record_uploaded(self, upload: int, etag: str | None, md5: str | None, *, doubtful: bool = False) -> Upload:
        """Record that storage confirmed the bytes, and delete the signed URL; returns the new row.

        `doubtful` stays set once it is, see `Upload`.
        """

        def work(db: Database) -> Upload:
            changes: dict[str, Any] = {"etag": etag, "md5": md5, "reason": None, "next_attempt": None}
            changes |= {"doubtful": 1} if doubtful else {}
            db.conn.execute("DELETE FROM signed_urls WHERE upload = ?", (upload,))
            return self._move_upload(db, upload, UploadState.UPLOADED, changes)

        return self.write(work, upload)

    def record_duplicate(self, upload: int, stored: Stored, twin: int | None, reason: str) -> Upload:
        """Record that storage has this content already: as the upload `twin`, or by another agent. Returns the new row."""
        ids = {"upload_id": stored.upload_id, "key": stored.key, "etag": stored.etag}

        def work(db: Database) -> Upload:
            self._leave_behind(db, upload)
            changes = {**ids, "duplicate_of": twin, "reason": reason, "next_attempt": None}
            if twin is None:
                insert_shards(db, upload, stored.shards)
            return self._move_upload(db, upload, UploadState.DUPLICATE, changes)

        return self.write(work, upload)

    def record_moved_away(self, upload: int, receipt: tuple[bytes, str] | None = None) -> Future[None]:
        """Record that the file is no longer in the drop folder: archived, set aside or deleted, as configured.

        `receipt` is the path and mark of its receipt in the archive.
        """

        def work(db: Database) -> None:
            db.conn.execute("UPDATE uploads SET in_drop = 0 WHERE id = ?", (upload,))
            if receipt is not None:
                db.conn.execute("INSERT OR REPLACE INTO receipts VALUES (?,?)", receipt)

        return self.submit(work, upload)

    def restamp(self, upload: int, stamp: Stamp, state: UploadState, reason: str | None = None) -> Future[None]:
        """Record a changed file: its new stamp; its old content is forgotten."""
        columns = dict(zip(("dev", "ino", "bytes", "mtime_ns", "ctime_ns"), stamp_row(stamp), strict=True))

        def work(db: Database) -> None:
            changes = {
                **columns,
                "reason": reason,
                "sha256": None,
                "blake3": None,
                "md5": None,
                "lines": None,
                "repeated_lines": None,
                "shape": None,
                "unpacked": None,
                "packed_sha256": None,
                "next_attempt": None,
            }
            self._leave_behind(db, upload)
            self._move(db, "uploads", upload, state, {**changes, "upload_id": None, "key": None, "attempts": 0})

        return self.submit(work, upload)

    def touch_uploads(self, touched: Iterable[tuple[int, Stamp]]) -> list[Upload]:
        """Record changes of rights, owner or links that left the bytes unchanged; returns the new rows.

        Raises `Forgotten`, and records none, if one of them is gone.
        """
        rows = [(stamp_row(stamp)[-1], upload) for upload, stamp in touched]

        def work(db: Database) -> list[Upload]:
            db.conn.executemany("UPDATE uploads SET ctime_ns = ? WHERE id = ?", rows)
            return [_row(db, upload) for _, upload in rows]

        return self.write(work)

    def _move_upload(self, db: Database, upload: int, state: UploadState, changes: Mapping[str, Any]) -> Upload:
        self._move(db, "uploads", upload, state, changes)
        return _row(db, upload)


def _row(db: Database, upload: int) -> Upload:
    for row in fetched(db, "SELECT * FROM uploads WHERE id = ?", [upload]):
        return to_upload(row)
    raise Forgotten(f"upload {upload}")


def _adopt(db: Database, receipt: Receipt) -> None:
    same = "SELECT id FROM uploads WHERE sha256 = ? AND filename = ? AND state = 'uploaded'"
    twin = db.conn.execute(same, (receipt.sha256, receipt.filename)).fetchone()
    stored, packed = receipt.stored, receipt.packed
    upload = db.conn.execute(
        "INSERT INTO uploads (path, filename, dev, ino, bytes, mtime_ns, ctime_ns, sha256, md5, lines, state,"
        " upload_id, key, etag, duplicate_of, in_drop, created_at, updated_at, repeated_lines, shape, unpacked,"
        " packed_sha256) VALUES (?,?,0,0,?,0,0,?,?,?,?,?,?,?,?,0,?,?,?,?,?,?)",
        (
            receipt.path, receipt.filename, receipt.file_bytes,
            receipt.sha256, receipt.md5, receipt.lines,
            UploadState.UPLOADED if twin is None else UploadState.DUPLICATE,
            stored.upload_id, stored.key, stored.etag, twin and twin[0],
            receipt.at, receipt.at, None if receipt.repeated is None else json.dumps(asdict(receipt.repeated)),
            shape_column(receipt.shape), packed and receipt.bytes, packed and packed.sha256,
        ),
    ).lastrowid  # fmt: skip
    if twin is None and upload is not None:
        insert_shards(db, upload, stored.shards)
