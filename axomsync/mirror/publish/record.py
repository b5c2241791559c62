"""`.axomsync.json`, the record in each published folder: the model, its files and their digests.

Failures handled: a record that is missing (None), damaged, foreign or no file (None, logged once), paths in it that lead
elsewhere (likewise), a proof that only a newer version knows (the weakest counts), a link or FIFO in the place of the record
or its successor (never followed, never waited for), a crash during a replacement (the old one stays), a disk that can't be
read now (`LocalFault`: it says nothing about the record).
"""

import errno
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel as Shape
from pydantic import ConfigDict, FailFast, Field, StringConstraints, TypeAdapter

from axomsync.core.documents import NotADocument, read_document
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import RECORD
from axomsync.core.records import DurableSegment, Model, ModelFile, Proof, RemoteModel
from axomsync.core.text import printable
from axomsync.mirror.layout import LARGEST_MODEL, check_paths
from axomsync.mirror.publish.access import FOR_EVERYBODY, Access

log = logging.getLogger(__name__)

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
LARGEST_NUMBER = (1 << 63) - 1  # the ledger's limit


@dataclass(frozen=True)
class Record:
    """Content of a record: enough to rebuild the ledger without fetching a byte."""

    model: RemoteModel
    files: tuple[ModelFile, ...]
    proofs: Mapping[str, Proof]
    published_at: str
    left_out: tuple[str, ...] = ()  # files of the model that `[mirror] files` did not select
    remarks: tuple[str, ...] = ()  # oddities of its files that do not block it


class _Strict(Shape):
    model_config = ConfigDict(strict=True, extra="ignore")


_Offset = Annotated[int, Field(strict=True, ge=0, le=LARGEST_MODEL)]
_Digest = Annotated[str, StringConstraints(strict=True, pattern="^[0-9a-f]{64}$")]
_Label = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
_Segment = Annotated[tuple[_Offset, _Offset, _Digest], Field(strict=False)]
_Rel = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class _FileShape(_Strict):
    rel: _Rel
    size: _Offset
    etag: str | None = Field(max_length=1024)
    proof: str = Field(max_length=100)
    blake3: Annotated[list[_Segment], FailFast()]


class _RecordShape(_Strict):
    model_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: _Label
    version: _Label
    params: int | None = Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)
    base_model_id: str | None = Field(max_length=1000)
    created_at: str | None = Field(max_length=1000)
    published_at: str = Field(max_length=100)
    files: Annotated[list[_FileShape], Field(min_length=1), FailFast()]
    left_out: Annotated[list[_Rel], FailFast()] = []
    remarks: Annotated[list[Annotated[str, Field(max_length=4096)]], FailFast()] = []


_SHAPE = TypeAdapter(_RecordShape)


def read_record(folder: Path) -> Record | None:
    """Read the record of a published folder; None when there is none, or a foreign one (logged once).

    Raises `LocalFault` when it can't be read now.
    """
    try:
        with _opened(folder) as opened:
            return record_in(opened)
    except (NotADocument, ValueError) as fault:
        _tell(folder / RECORD, str(fault))
        return None
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise local_fault(error) from None


def record_in(opened: Folder) -> Record | None:
    """Read the record in an open folder; None when there is none.

    Raises `NotADocument` and `ValueError` for one that can't be right, and `OSError`.
    """
    shape = read_document(opened, RECORD.encode(), _SHAPE)
    return None if shape is None else _record(shape)


def file_documents(record: Record) -> list[dict[str, Any]]:
    """Each file with the proof of its bytes, as in `verify --json` and `explain --json`."""
    return [{"rel": f.rel, "bytes": f.size, "etag": f.etag, "proof": str(record.proofs[f.rel])} for f in record.files]


def write_record(folder: Path, record: Record, access: Access = FOR_EVERYBODY) -> None:
    """Write or replace the record of a folder atomically, and sync it. Raises `OSError`, and `LocalFault` for `access`."""
    text = json.dumps(_document(record), indent=1) + "\n"
    with _opened(folder) as opened:
        opened.replace(RECORD.encode(), text.encode(), access.mode, group=access.gid)


def _opened(folder: Path) -> Folder:
    """Open a folder of the mirror; neither it nor its parent may be a link."""
    with Folder.open(folder.parent.parent) as above:
        return above.descend(os.fsencode(folder.relative_to(folder.parent.parent)))


@lru_cache(maxsize=1000)
def _tell(path: Path, fault: str) -> None:
    """Log a fault once in the life of a process."""
    log.warning("%s: this is not a record of a model: %s; it is ignored", printable(str(path)), fault)


def _record(shape: _RecordShape) -> Record:
    """Convert a parsed record. Raises `ValueError` for values that can't be true."""
    check_paths([*(file.rel for file in shape.files), *shape.left_out])
    if sum(file.size for file in shape.files) > LARGEST_MODEL:
        raise ValueError("its files have more bytes than any disk holds")
    for file in shape.files:
        if any(not start < end <= file.size for start, end, _ in file.blake3):
            raise ValueError(f"{printable(file.rel)[:200]!r} has segments that lie outside of it")
    model = RemoteModel(
        shape.model_id, shape.name, shape.version, shape.params, shape.base_model_id, "ready", shape.created_at
    )
    files = tuple(
        ModelFile(file.rel, file.size, file.etag, tuple(DurableSegment(*segment) for segment in file.blake3))
        for file in sorted(shape.files, key=lambda file: file.rel)  # in the order of writing
    )
    proofs = {file.rel: _proof(file.proof) for file in shape.files}
    return Record(model, files, proofs, shape.published_at, tuple(shape.left_out), tuple(shape.remarks))


def _proof(word: str) -> Proof:
    """Parse a proof; an unknown word of a newer version counts as the weakest."""
    return Proof(word) if word in Proof.__members__.values() else Proof.SIZE


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
        "remarks": record.remarks,
    }


def record_of(
    model: Model,
    files: tuple[ModelFile, ...],
    proofs: Mapping[str, Proof],
    left_out: tuple[str, ...],
    now: float,
    remarks: tuple[str, ...],
) -> Record:
    """The record of a model that is published at `now`."""
    remote = RemoteModel(
        model.id, model.name, model.version, model.params, model.base_model_id, model.remote_status, model.created_at
    )
    published_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Record(remote, files, proofs, published_at, left_out, remarks)
