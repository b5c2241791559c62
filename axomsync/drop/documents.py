"""The JSON form of shards, repeated lines, shapes and compressed files, as receipts, claims and `--json` have it. Pure."""

from typing import Any

from axomsync.core.records import RepeatedLines, Shape, Shard, Upload
from axomsync.drop.names import packing_of


def repeated_document(repeated: RepeatedLines | None) -> dict[str, Any] | None:
    """The lines that repeat an earlier one; None where none is known."""
    if repeated is None:
        return None
    return {"count": repeated.count, "compared": repeated.compared, "first": list(repeated.first)}


def shape_document(shape: Shape | None) -> dict[str, Any] | None:
    """The shape of a dataset; None where nobody looked."""
    if shape is None:
        return None
    return {
        "kind": shape.kind,
        "examples": shape.examples,
        "turns": shape.turns,
        "longest_line": shape.longest_line,
        "characters": shape.characters,
        "tokens_estimate": shape.tokens_estimate,
        "mixed": shape.mixed,
        "findings": [{"line": each.line, "column": each.column, "reason": each.reason} for each in shape.findings],
        "findings_total": shape.findings_total,
    }


def packed_document(upload: Upload) -> dict[str, Any] | None:
    """The compressed file of which this upload is the content; None for a file that was uploaded as it is."""
    if upload.packed_sha256 is None:
        return None
    return {"kind": packing_of(upload.path), "bytes": upload.stamp.size, "sha256": upload.packed_sha256}


def shard_document(shard: Shard) -> dict[str, Any]:
    """One shard and where storage has it."""
    return {
        "filename": shard.filename,
        "bytes": shard.end - shard.start,
        "upload_id": shard.upload_id,
        "key": shard.key,
        "etag": shard.etag,
    }
