"""Reads of uploads, their shards and signed URLs, and of the known receipts."""

import json
import math
from collections.abc import Collection, Iterable, Sequence

from axomsync.core.errors import Forgotten
from axomsync.core.records import Presigned, Shard, Stamp, Upload, UploadState
from axomsync.ledger.queries import Queries
from axomsync.ledger.rows import Row, fitting, stamp_row, to_upload


class UploadQueries(Queries):
    """Reads of uploads."""

    def uploads(
        self, states: Collection[UploadState] = (), since: float | None = None, limit: int | None = None
    ) -> list[Upload]:
        """Every file ever taken, oldest first; limited to `states`, to changes `since` a time, or to the newest `limit`."""
        among = f"state IN ({', '.join('?' * len(states))})" if states else "true"
        sql = f"SELECT * FROM uploads WHERE {among} AND updated_at >= ? ORDER BY id DESC LIMIT ?"  # noqa: S608
        newest = self._rows(
            sql, (*states, -math.inf if since is None else since, -1 if limit is None else limit), make=to_upload
        )
        return newest[::-1]

    def uploads_in_drop(self) -> list[Upload]:
        """Files that lie in the drop folder according to the ledger, and files of `push`."""
        return self._rows("SELECT * FROM uploads WHERE in_drop ORDER BY id", make=to_upload)

    def once_failed(self) -> list[Upload]:
        """Files that storage has, that were tried more than once, and that do not lie in the drop folder any more."""
        sql = "SELECT * FROM uploads WHERE state IN ('uploaded', 'duplicate') AND attempts AND NOT in_drop ORDER BY id"
        return self._rows(sql, make=to_upload)

    def latest_rejected(self, most: int) -> list[Upload]:
        """At most `most` of the rejected files that were set aside, latest first."""
        sql = "SELECT * FROM uploads WHERE state = 'rejected' AND NOT in_drop ORDER BY id DESC LIMIT ?"
        return self._rows(sql, (most,), make=to_upload)

    def rejections(self) -> set[tuple[int, float]]:
        """Row id and time of each rejection."""
        rows = self._rows("SELECT id, updated_at FROM uploads WHERE state = 'rejected'")
        return {(row["id"], row["updated_at"]) for row in rows}

    def latest_uploads(self, most: int) -> list[Upload]:
        """At most `most` of the latest uploads, and `most` of the unfinished ones; the latest change first."""
        undone = "SELECT id FROM uploads WHERE in_drop AND state NOT IN ('uploaded', 'duplicate') ORDER BY id DESC LIMIT ?"
        latest = "SELECT id FROM uploads ORDER BY id DESC LIMIT ?"
        sql = f"SELECT * FROM uploads WHERE id IN ({undone}) OR id IN ({latest}) ORDER BY updated_at DESC, id DESC"  # noqa: S608
        return self._rows(sql, (most, most), make=to_upload)

    def upload(self, upload: int) -> Upload:
        """One upload by its row id. Raises `Forgotten`."""
        for row in self._rows("SELECT * FROM uploads WHERE id = ?", (upload,), make=to_upload):
            return row
        raise Forgotten(f"upload {upload}")

    def uploads_among(self, ids: Iterable[int]) -> list[Upload]:
        """The uploads with these row ids, as far as the ledger has them."""
        among = ", ".join(str(int(each)) for each in ids)
        return self._rows(f"SELECT * FROM uploads WHERE id IN ({among}) ORDER BY id", make=to_upload)  # noqa: S608

    def same_content(self, sha256: str, filename: str | None, *, sent: bool = False) -> Upload | None:
        """Find an upload with this content that storage has confirmed, under this name or under any.

        `sent` leaves out uploads known only from a receipt: this ledger never saw their files.
        """
        seen = "AND (dev <> 0 OR ino <> 0)" if sent else ""
        rows = self._rows(
            "SELECT * FROM uploads WHERE sha256 = ? AND filename = coalesce(?, filename) AND state = 'uploaded'"  # noqa: S608
            f" {seen} LIMIT 1",
            (sha256, filename),
            make=to_upload,
        )
        return rows[0] if rows else None

    def others_of_size(self, upload: Upload) -> bool:
        """Check whether another upload has as many bytes as this one: it may have the same content."""
        sql = "SELECT 1 FROM uploads WHERE coalesce(unpacked, bytes) = ? AND id <> ? LIMIT 1"
        return bool(self._rows(sql, (upload.size, upload.id)))

    def all_of_content(self, sha256: str, filename: str | None) -> list[Upload]:
        """Every upload with this content, under this name or under any."""
        sql = "SELECT * FROM uploads WHERE sha256 = ? AND filename = coalesce(?, filename) ORDER BY id"
        return self._rows(sql, (sha256, filename), make=to_upload)

    def begun_before(self, upload: Upload, filename: str | None) -> list[Upload]:
        """Files with this content, under this name or under any, that have a signed URL; none if the upload has one."""
        begun = "SELECT upload FROM signed_urls UNION SELECT upload FROM signed_shard_urls"
        rows = self._rows(
            f"SELECT * FROM uploads WHERE id IN ({begun}) AND in_drop"  # noqa: S608  # from above
            " AND state IN ('queued', 'uploading') AND sha256 = ? AND filename = coalesce(?, filename)",
            (upload.sha256, filename),
            make=to_upload,
        )
        return [] if any(row.id == upload.id for row in rows) else rows

    def receipts(self) -> dict[bytes, str]:
        """Known receipts of the archive: marks by path."""
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
        """Check whether storage gave this ETag to other bytes too: a file of another MD5, or a shard of another BLAKE3."""
        files = "SELECT 1 FROM uploads WHERE etag = ? AND state = 'uploaded' AND md5 IS NOT NULL AND md5 <> ?"
        shards = "SELECT 1 FROM shards WHERE etag = ? AND uploaded AND blake3 IS NOT NULL AND blake3 IS NOT ?"
        return bool(self._rows(f"{files} UNION ALL {shards} LIMIT 1", (etag, md5, etag, blake3)))  # both from above

    def presigned(self, upload: Upload) -> Presigned | None:
        """The recorded signed URL of an upload. A secret."""
        sql = "SELECT url, expires_at FROM signed_urls WHERE upload = ?"
        return self._presigned(sql, (upload.id,), upload.upload_id, upload.key)

    def shards(self, upload: int) -> list[Shard]:
        """The shards of an upload in order; none if it is uploaded whole."""
        return self.all_shards("WHERE upload = ?", upload).get(upload, [])

    def all_shards(self, where: str = "", *parameters: object) -> dict[int, list[Shard]]:
        """The shards of every upload that has shards, by its row id."""
        columns = 'upload, number, filename, start, "end", upload_id, key, etag, blake3, uploaded'
        shards: dict[int, list[Shard]] = {}
        sql = f"SELECT {columns} FROM shards {where} ORDER BY upload, number"  # noqa: S608  # own names
        for upload, shard in self._rows(sql, parameters, make=_shard):
            shards.setdefault(upload, []).append(shard)
        return shards

    def shard_presigned(self, upload: int, shard: Shard) -> Presigned | None:
        """The recorded signed URL of a shard. A secret."""
        sql = "SELECT url, expires_at FROM signed_shard_urls WHERE upload = ? AND number = ?"
        return self._presigned(sql, (upload, shard.number), shard.upload_id, shard.key)

    def _presigned(self, sql: str, of: Sequence[object], upload_id: str | None, key: str | None) -> Presigned | None:
        if upload_id is None or key is None:
            return None
        rows = self._rows(sql, of, make=lambda row: fitting(Presigned, upload_id=upload_id, key=key, **row))
        return rows[0] if rows else None

    def orphans(self) -> dict[int, list[str]]:
        """Keys of objects that storage has or may have and that were not handed out, by row id of the upload."""
        keys: dict[int, list[str]] = {}
        for row in self._rows("SELECT upload, key FROM orphans ORDER BY created_at"):
            keys.setdefault(row["upload"], []).append(row["key"])
        return keys

    def upload_counts(self) -> dict[str, int]:
        """Number of uploads in each state, zero included."""
        return self._counts("uploads", UploadState)


def _shard(row: Row) -> tuple[int, Shard]:
    columns = {name: row[name] for name in row if name != "upload"}
    return row["upload"], fitting(Shard, **{**columns, "uploaded": bool(columns["uploaded"])})
