"""Documents that others may have written: receipts, records, claims, events, requests, and columns of the ledger."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import orjson

from axomsync.agent.requests import read_outcome
from axomsync.core.documents import NotADocument
from axomsync.core.folders import Folder
from axomsync.core.paths import RECORD
from axomsync.drop.claims import Claims
from axomsync.drop.receipts import read_receipt
from axomsync.engines.events import read_task
from axomsync.gates.event import read_place
from axomsync.ledger import rows
from axomsync.mirror.publish.record import record_in
from axomsync.status.documents import model_document, upload_document
from tests.drop.test_any_document import CONTENT, WHOLE, claims_record

_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
_place = tempfile.TemporaryDirectory(dir=_memory)
_folder = Path(_place.name)
_claim = claims_record(_folder)
_claims = Claims(_folder, "here", keeps=False)


def _receipt(data: bytes) -> None:
    (_folder / "a.receipt.json").write_bytes(data)
    with Folder.open(_folder) as folder:
        receipt = read_receipt(folder, b"a.receipt.json", b"a.receipt.json")
    assert receipt is None or not receipt.path.startswith(b"/")


def _record(data: bytes) -> None:
    (_folder / RECORD).write_bytes(data)
    with Folder.open(_folder) as folder:
        record = record_in(folder)
    assert record is not None
    assert all(".." not in file.rel.split("/") and not file.rel.startswith("/") for file in record.files)


def _record_of_a_claim(data: bytes) -> None:
    _claim.write_bytes(data)
    _claims.record(CONTENT)


def _columns(data: bytes, whole: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row, those of the input in place of the right ones: a damaged ledger has any value anywhere."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        text = data.decode("utf-8", "replace")
        told = {name: text for name, value in whole.items() if isinstance(value, str) and value[:1] in ("{", "[")}
    given = told if isinstance(told, dict) else {}
    return {name: _sqlite(given[name]) if name in given else value for name, value in whole.items()}


def _sqlite(value: Any) -> Any:
    if isinstance(value, dict | list):
        try:
            return json.dumps(value)
        except RecursionError:
            return "[" * 2000
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return rows.folded(value)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _upload(data: bytes) -> None:
    row = _columns(data, _UPLOAD)
    row["path"] = row["path"].encode() if isinstance(row["path"], str) else row["path"]
    orjson.dumps(upload_document(rows.to_upload(row), []))


def _model(data: bytes) -> None:
    orjson.dumps(model_document(rows.to_model(_columns(data, _MODEL))))


def _outcome(data: bytes) -> None:
    read_outcome(data.decode("utf-8", "replace"))


_COUNTED = {"count": 1, "compared": 2, "first": [2]}
_SHAPE = {name: value for name, value in WHOLE["shape"].items() if name != "tokens_estimate"}
_UPLOAD: dict[str, Any] = {
    "id": 1, "path": "a.jsonl", "filename": "a.jsonl", "dev": 1, "ino": 2, "bytes": 3, "mtime_ns": 4, "ctime_ns": 5,
    "state": "uploaded", "reason": None, "sha256": "a" * 64, "blake3": None, "md5": None, "lines": 1, "upload_id": "u",
    "key": "k", "etag": None, "duplicate_of": None, "attempts": 0, "next_attempt": None, "created_at": 1.0,
    "updated_at": 2.0, "unpacked": None, "packed_sha256": None, "repeated_lines": json.dumps(_COUNTED),
    "shape": json.dumps(_SHAPE), "doubtful": 0,
}  # fmt: skip
_MODEL: dict[str, Any] = {
    "id": "m", "name": "n", "version": "v", "params": 1, "base_model_id": None, "remote_status": "ready",
    "created_at": "2026-11-27", "state": "published", "reason": None, "path": "/m/n/v", "bytes_done": 1, "bytes_total": 1,
    "attempts": 0, "next_attempt": None, "updated_at": 1.0, "absent_polls": 0, "absent_since": None, "damage": None,
    "verified_at": None, "digest": None, "bytes_from_gateways": 0, "pulled": 0, "left_out": '["a"]', "remarks": "[]",
    "proofs": '{"proven": 2}',
}  # fmt: skip
_RECORD = {
    "format": 1, "model_id": "m", "name": "n", "version": "v", "params": 1, "base_model_id": None, "created_at": None,
    "published_at": "2026-11-27", "files": [
        {"rel": "a/b.bin", "size": 10, "etag": None, "proof": "proven", "blake3": [[0, 10, "a" * 64]]},
    ], "left_out": ["c"], "remarks": [],
}  # fmt: skip
_EVENT = {
    "event": "current_moved", "at": "2026-11-27T00:00:00+00:00", "file": None,
    "model": {"id": "m", "name": "n", "version": "v", "path": "/nowhere/n/v"},
}  # fmt: skip


def _text(document: object) -> bytes:
    return json.dumps(document).encode()


PARSERS = {
    "receipts": (_receipt, (_text(WHOLE),), (NotADocument,)),
    "records of models": (_record, (_text(_RECORD),), (NotADocument, ValueError)),  # as it documents
    "records of claims": (_record_of_a_claim, (_text({**WHOLE, "content": CONTENT}),)),
    "ledger uploads": (_upload, (_text(_UPLOAD),), (rows.Misfit,)),
    "ledger models": (_model, (_text(_MODEL),), (rows.Misfit,)),
    "outcomes of requests": (_outcome, (_text({"answer": 1, "error": None, "exit_code": 0}),)),
    "events for gates": (lambda data: read_place(io.BytesIO(data)), (_text(_EVENT), _text({"file": "/a"}))),
    "events for engines": (lambda data: read_task(io.BytesIO(data)), (_text(_EVENT),)),
}
