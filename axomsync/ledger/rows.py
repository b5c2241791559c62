"""Rows of the ledger and the records that everyone speaks: one into the other. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from axomsync.records import Model, ModelState, RepeatedLines, Stamp, Upload, UploadState

Row = Mapping[str, Any]


def to_upload(row: Row) -> Upload:
    """One row of `uploads`."""
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


def to_model(row: Row) -> Model:
    """One row of `models` with the sum `bytes_done`."""
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
        remarks=tuple(json.loads(row["remarks"] or "[]")),
    )  # fmt: skip


def stamp_row(stamp: Stamp) -> tuple[int, int, int, int, int]:
    """The columns dev, ino, bytes, mtime_ns and ctime_ns."""
    return (_signed(stamp.dev), _signed(stamp.ino), stamp.size, stamp.mtime_ns, stamp.ctime_ns)


def json_list(names: Iterable[str]) -> str | None:
    """A column that holds a list; NULL for none."""
    return json.dumps(listed) if (listed := list(names)) else None


def repeated_again(told: Any) -> str | None:
    """What a receipt says of repeated lines; nothing when somebody made something else of it."""
    try:
        known = RepeatedLines(int(told["count"]), int(told["compared"]), tuple(map(int, told["first"])))
    except (KeyError, TypeError, ValueError):
        return None
    return json.dumps(asdict(known))


def _repeated(text: str | None) -> RepeatedLines | None:
    if text is None:
        return None
    document = json.loads(text)
    return RepeatedLines(document["count"], document["compared"], tuple(document["first"]))


def _signed(number: int) -> int:
    """SQLite integers are signed: 64-bit inode numbers of some filesystems need folding."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number
