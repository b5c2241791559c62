"""`.axomsync.json`, the record in each published folder: what it is, and what its bytes are.

Failures handled: a record that is missing, damaged or of somebody else (None), a crash while one is replaced (the old one
stays).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axomsync.mirror.integrity import Proof
from axomsync.mirror.layout import RECORD
from axomsync.records import DurableSegment, ModelFile, RemoteModel


@dataclass(frozen=True)
class Record:
    """What the record says: enough to rebuild the ledger without fetching a byte."""

    model: RemoteModel
    files: tuple[ModelFile, ...]
    proofs: Mapping[str, Proof]
    published_at: str
    left_out: tuple[str, ...] = ()  # files that the model has too, and that `[mirror] files` did not select


def read_record(folder: Path) -> Record | None:
    """The record of a published folder, None when there is none or it is not one of ours."""
    try:
        document = json.loads((folder / RECORD).read_bytes())
        model = RemoteModel(
            str(document["model_id"]), str(document["name"]), str(document["version"]),
            document["params"], document["base_model_id"], "ready", document["created_at"],
        )  # fmt: skip
        files = tuple(
            ModelFile(
                str(file["rel"]), int(file["size"]), file["etag"],
                tuple(DurableSegment(start, end, digest) for start, end, digest in file["blake3"]),
            )
            for file in document["files"]
        )  # fmt: skip
        proofs = {str(file["rel"]): Proof(file["proof"]) for file in document["files"]}
        left_out = tuple(map(str, document.get("left_out", ())))
        return Record(model, files, proofs, str(document["published_at"]), left_out)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_documents(record: Record) -> list[dict[str, Any]]:
    """Each file with what could be shown of its bytes, as `verify --json` and `explain --json` have it."""
    return [{"rel": f.rel, "bytes": f.size, "etag": f.etag, "proof": str(record.proofs[f.rel])} for f in record.files]


def write_record(folder: Path, record: Record) -> None:
    """Write or replace the record of a folder: whole or not at all, and synced. Raises `OSError`."""
    fresh = folder / f"{RECORD}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(_document(record), file, indent=1)
        file.write("\n")
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(fresh, folder / RECORD)


def _document(record: Record) -> dict[str, Any]:
    model = record.model
    return {
        "format": 1,
        "model_id": model.id,
        "name": model.name,
        "version": model.version,
        "params": model.params,
        "base_model_id": model.base_model_id,
        "created_at": model.created_at,
        "published_at": record.published_at,
        "files": [
            {
                "rel": file.rel,
                "size": file.size,
                "etag": file.etag,
                "proof": str(record.proofs[file.rel]),
                "blake3": [[s.start, s.end, s.blake3] for s in file.segments],
            }
            for file in sorted(record.files, key=lambda file: file.rel)
        ],
        "left_out": record.left_out,
    }
