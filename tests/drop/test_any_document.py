"""Any content as a receipt and as a record of a claim: it is one, or it is none, and that is told."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from axomsync.drop.claims import Claims
from axomsync.drop.receipts import survey
from axomsync.ledger import Ledger
from axomsync.runtime.heartbeat import unwatched
from axomsync.status.documents import upload_document
from tests.rig.anything import ANYTHING, for_any, how_many, nearly

CONTENT = f"{'a' * 64}/a.jsonl"
NAME = "x.jsonl.receipt.json"
SHARD: dict[str, Any] = {"filename": "a-1.jsonl", "bytes": 10, "upload_id": "up-2", "key": "k2", "etag": None}
WHOLE: dict[str, Any] = {
    "path": "a.jsonl", "filename": "a.jsonl", "upload_id": "up-1", "key": "k", "sha256": "a" * 64, "md5": None,
    "etag": '"e"', "bytes": 10, "lines": 1, "repeated_lines": {"count": 1, "compared": 2, "first": [2]},
    "shape": {
        "kind": "text", "examples": 1, "turns": 0, "longest_line": 5, "characters": 5, "tokens_estimate": 1, "mixed": 0,
        "findings": [{"line": 1, "column": 2, "reason": "odd"}], "findings_total": 1,
    },
    "time": "2026-01-01T00:00:00+00:00", "duplicate": False, "shards": [SHARD], "content": CONTENT,
}  # fmt: skip

TEXT_OF_DOCUMENTS = (nearly(WHOLE) | nearly(WHOLE) | ANYTHING).map(lambda document: json.dumps(document).encode())
BYTES = st.binary() | st.sampled_from([b"[" * 200_000, b'{"a":' * 200_000, b"\xef\xbb\xbf{}", b"NaN", b" ", b"{}{}"])
DOCUMENTS = st.lists(TEXT_OF_DOCUMENTS | TEXT_OF_DOCUMENTS | BYTES, min_size=5, max_size=10)


def take(folder: Path, ledger: Ledger, documents: list[bytes]) -> None:
    claims = Claims(folder, "here", keeps=False)
    record = claims_record(folder)
    for number, text in enumerate(documents):
        (folder / "uploaded" / f"{number}.receipt.json").write_bytes(text)
        record.write_bytes(text)
        claims.record(CONTENT)
    found = survey(folder, {}, unwatched)
    for number in range(len(documents)):
        (folder / "uploaded" / f"{number}.receipt.json").unlink()
    assert found.faults == {}
    assert len(found.new) + len(found.none) == len(found.marks) == len(documents)
    ledger.adopt_uploads(found.new, found.marks)
    for upload in ledger.read.uploads():
        shown = json.dumps(upload_document(upload, ledger.read.shards(upload.id)))
        assert "/etc/passwd" not in str(json.loads(shown)["path"])
    ledger.strike([upload.id for upload in ledger.read.uploads()], [])


def claims_record(folder: Path) -> Path:
    Claims(folder, "here", keeps=False).register()
    claims = Claims(folder, "here", keeps=False)
    claims.take(CONTENT)
    (claim,) = (path for path in (folder / ".axomsync" / "claims").iterdir() if not path.suffix)
    return claim.with_name(f"{claim.name}.json")


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Path, Ledger]]:
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as name:
        (Path(name) / "drop" / "uploaded").mkdir(parents=True)
        with Ledger(Path(name) / "state", lambda: 0.0) as ledger:
            yield Path(name) / "drop", ledger


@how_many()
def test_any_document_is_a_receipt_or_none(place: tuple[Path, Ledger], examples: int) -> None:
    for_any(DOCUMENTS, examples // 5, lambda documents: take(*place, documents))


def test_a_whole_document_is_a_receipt(place: tuple[Path, Ledger]) -> None:
    folder, _ = place
    (folder / "uploaded" / NAME).write_text(json.dumps(WHOLE))
    record = claims_record(folder)
    record.write_text(json.dumps(WHOLE))
    (receipt,) = survey(folder, {}, unwatched).new
    (folder / "uploaded" / NAME).unlink()
    assert (receipt.path, receipt.bytes, receipt.at) == (b"a.jsonl", 10, 1767225600.0)
    stored = Claims(folder, "here", keeps=False).record(CONTENT)
    assert stored == receipt.stored
    assert [(shard.start, shard.end, shard.key) for shard in receipt.stored.shards] == [(0, 10, "k2")]
