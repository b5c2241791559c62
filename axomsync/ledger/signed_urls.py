"""Writes to the ledger: signed URLs of uploads and shards, from presign to confirmation, and orphans.

An orphan is an object that storage has or may have, and whose key is not handed out.

A signed URL is a secret. It is kept only while its PUT may have to be repeated.
"""

from collections.abc import Iterable

from sqlite_utils import Database

from axomsync.core.records import Presigned, Shard, UploadState
from axomsync.ledger.facts import LAST_PRESIGN
from axomsync.ledger.states import Moves


class SignedUrlWrites(Moves):
    """Writes to the ledger: signed URLs, shards and orphans."""

    def record_presigned(self, upload: int, presigned: Presigned) -> None:
        """Record the signed URL before the PUT can end, so that a PUT with a lost answer can be repeated on the same key."""

        def work(db: Database) -> None:
            changes = {"upload_id": presigned.upload_id, "key": presigned.key, "reason": None, "next_attempt": None}
            self._move(db, "uploads", upload, UploadState.UPLOADING, changes)
            db.conn.execute(
                "INSERT OR REPLACE INTO signed_urls (upload, url, expires_at) VALUES (?,?,?)",
                (upload, presigned.url, presigned.expires_at),
            )
            self._note_answer(db)

        self.write(work, upload)

    def take_over_presigned(self, upload: int, other: int) -> None:
        """Give an upload the signed URL that another one with its content and name has begun with.

        Storage may have the content under that key already: so it stays the only one.
        """

        def work(db: Database) -> None:
            url = db.conn.execute("DELETE FROM signed_urls WHERE upload = ? RETURNING url, expires_at", (other,)).fetchone()
            if url is not None:
                ids = db.conn.execute("SELECT upload_id, key FROM uploads WHERE id = ?", (other,)).fetchone()
                db.conn.execute("UPDATE uploads SET upload_id = NULL, key = NULL WHERE id = ?", (other,))
                db.conn.execute("UPDATE uploads SET upload_id = ?, key = ? WHERE id = ?", (*ids, upload))
                db.conn.execute(
                    "INSERT OR REPLACE INTO signed_urls (upload, url, expires_at) VALUES (?,?,?)", (upload, *url)
                )

        self.write(work, upload)

    def forget_presigned(self, upload: int) -> None:
        """Delete a URL that storage refused: the next try requests another."""
        self.execute("DELETE FROM signed_urls WHERE upload = ?", upload).result()

    def record_orphan(self, upload: int, presigned: Presigned) -> None:
        """Record an object that storage has or may have, and whose key is not handed out."""
        sql = "INSERT OR IGNORE INTO orphans VALUES (?,?,?,?)"
        self.execute(sql, upload, presigned.upload_id, presigned.key, self._now()).result()

    def record_shard_presigned(self, upload: int, number: int, presigned: Presigned) -> None:
        """Record the signed URL of one shard, as `record_presigned` does."""

        def work(db: Database) -> None:
            db.conn.execute(
                "UPDATE shards SET upload_id = ?, key = ? WHERE upload = ? AND number = ?",
                (presigned.upload_id, presigned.key, upload, number),
            )
            db.conn.execute(
                "INSERT OR REPLACE INTO signed_shard_urls (upload, number, url, expires_at) VALUES (?,?,?,?)",
                (upload, number, presigned.url, presigned.expires_at),
            )
            self._note_answer(db)

        self.write(work)

    def _note_answer(self, db: Database) -> None:
        """Record that the console answered: an agent that only uploads never polls."""
        db.conn.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (LAST_PRESIGN, str(self._now())))

    def forget_shard_presigned(self, upload: int, number: int) -> None:
        """Delete the signed URL of one shard, as `forget_presigned` does."""
        sql = "DELETE FROM signed_shard_urls WHERE upload = ? AND number = ?"
        self.execute(sql, upload, number).result()

    def record_shard_uploaded(self, upload: int, number: int, etag: str | None, *, doubtful: bool = False) -> None:
        """Record that storage confirmed one shard; a `doubtful` shard makes its upload doubtful."""

        def work(db: Database) -> None:
            db.conn.execute(
                "UPDATE shards SET uploaded = 1, etag = ? WHERE upload = ? AND number = ?", (etag, upload, number)
            )
            db.conn.execute("DELETE FROM signed_shard_urls WHERE upload = ? AND number = ?", (upload, number))
            if doubtful:
                db.conn.execute("UPDATE uploads SET doubtful = 1 WHERE id = ?", (upload,))

        self.write(work)

    def _leave_behind(self, db: Database, upload: int) -> None:
        """Forget the target of an upload; objects that storage has or may have of it become orphans."""
        for begun in (
            "SELECT id, upload_id, key, ?2 FROM uploads JOIN signed_urls ON upload = id WHERE id = ?1",
            "SELECT upload, upload_id, key, ?2 FROM shards WHERE upload = ?1 AND (uploaded OR number IN"
            " (SELECT number FROM signed_shard_urls WHERE upload = ?1))",
        ):
            db.conn.execute(f"INSERT OR IGNORE INTO orphans {begun}", (upload, self._now()))
        db.conn.execute("DELETE FROM shards WHERE upload = ?", (upload,))
        db.conn.execute("DELETE FROM signed_urls WHERE upload = ?", (upload,))


def insert_shards(db: Database, upload: int, shards: Iterable[Shard]) -> None:
    """Insert shards that storage has, according to a receipt or another agent."""
    db.conn.executemany(
        'INSERT INTO shards (upload, number, filename, start, "end", upload_id, key, etag, uploaded)'
        " VALUES (?,?,?,?,?,?,?,?,1)",
        ((upload, s.number, s.filename, s.start, s.end, s.upload_id, s.key, s.etag) for s in shards),
    )
