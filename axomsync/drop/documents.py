"""The JSON form of shards and of repeated lines, as receipts, claims and `--json` have it. Pure."""

from typing import Any

from axomsync.core.records import RepeatedLines, Shard


def repeated_document(repeated: RepeatedLines | None) -> dict[str, Any] | None:
    """The lines that repeat an earlier one; None where none is known."""
    if repeated is None:
        return None
    return {"count": repeated.count, "compared": repeated.compared, "first": list(repeated.first)}


def shard_document(shard: Shard) -> dict[str, Any]:
    """One shard and where storage has it."""
    return {
        "filename": shard.filename,
        "bytes": shard.end - shard.start,
        "upload_id": shard.upload_id,
        "key": shard.key,
        "etag": shard.etag,
    }
