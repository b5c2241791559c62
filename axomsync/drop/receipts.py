"""Receipts: what the archive says of a file that storage has, and what that tells a ledger that was lost or put back.

A receipt counts when this agent's user or root has made it and nobody else may write to it; what it says of itself counts,
not its name, so one that somebody moved still says the truth. Under `after = "delete"` none is proof enough, see `put_away`.

Failures handled: receipts with any content, and what only has a receipt's name (left out, and told once), one that a power
loss left empty (written again when the ledger knows the file), links and devices on the way (never followed), a disk that
does not give them (told, and tried again).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from axomsync.core import records
from axomsync.core.documents import NotADocument, read_document
from axomsync.core.errors import LocalFault
from axomsync.core.folders import Folder
from axomsync.core.paths import ARCHIVE, RECEIPT, UNFINISHED
from axomsync.core.records import Receipt, RepeatedLines, Shard, Stored, Upload
from axomsync.core.text import iso, printable
from axomsync.drop.documents import packed_document, repeated_document, shape_document, shard_document
from axomsync.drop.watch import folder_fault
from axomsync.runtime.heartbeat import Beat

LARGEST_NUMBER = 2**63 - 1  # that SQLite holds
LONGEST_PATH = 4096  # bytes; PATH_MAX of Linux

Text = Annotated[str, StringConstraints(max_length=4 * LONGEST_PATH)]  # a byte of a path is escaped as four characters
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]


class Shape(BaseModel):
    """Base of the JSON objects that are kept on disk; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class _ShardShape(Shape):
    filename: Text
    bytes: Count
    upload_id: Text
    key: Text
    etag: Text | None = None


class StoredShape(Shape):
    """An upload in storage, as receipts and the records of claims describe it."""

    upload_id: Text | None = None
    key: Text | None = None
    etag: Text | None = None
    shards: list[_ShardShape] = []

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if not (self.shards or (self.upload_id and self.key)):
            raise ValueError("it names no object in storage")
        if sum(shard.bytes for shard in self.shards) > LARGEST_NUMBER:
            raise ValueError("its shards have more bytes than a file can have")
        return self

    def stored(self) -> Stored:
        """The same as a record."""
        shards, end = [], 0
        for number, each in enumerate(self.shards, 1):
            start, end = end, end + each.bytes
            ids = (each.upload_id, each.key, each.etag)
            shards.append(Shard(number, each.filename, start, end, *ids, blake3=None, uploaded=True))
        return Stored(self.upload_id, self.key, self.etag, tuple(shards))


class _PackedShape(Shape):
    bytes: Count
    sha256: Sha256


class _RepeatedShape(Shape):
    count: Count
    compared: Count
    first: list[Count]


class _FindingShape(Shape):
    line: Count
    column: Count
    reason: Text


class _DatasetShape(Shape):
    kind: Text | None
    examples: Count
    turns: Count
    longest_line: Count
    characters: Count
    mixed: Count
    findings: list[_FindingShape]
    findings_total: Count

    def record(self) -> records.Shape:
        """The same as a record."""
        found = tuple(records.ShapeFinding(each.line, each.column, each.reason) for each in self.findings)
        counts = (self.examples, self.turns, self.longest_line, self.characters, self.mixed)
        return records.Shape(self.kind, *counts, found, self.findings_total)


def _demand_below(path: str) -> str:
    if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError("it is no path below the drop folder")
    return path


def _demand_time(text: str) -> str:
    at = datetime.fromisoformat(text)
    try:
        if at.tzinfo is None:
            raise ValueError("it has no offset from UTC")
        at.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is out of reach") from None
    return text


def _or_nothing(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        return None  # a remark that somebody changed makes the receipt no less true


class _ReceiptShape(StoredShape):
    path: Annotated[Text, AfterValidator(_demand_below)]
    filename: Text
    bytes: Count
    sha256: Sha256
    md5: Text | None = None
    lines: Count | None = None
    repeated_lines: Annotated[_RepeatedShape | None, WrapValidator(_or_nothing)] = None
    shape: Annotated[_DatasetShape | None, WrapValidator(_or_nothing)] = None
    packed: Annotated[_PackedShape | None, WrapValidator(_or_nothing)] = None
    time: Annotated[Text, AfterValidator(_demand_time)]
    duplicate: bool
    forgotten: Text | None = None  # since when it no longer counts, because somebody wants the content sent again


_RECEIPT: TypeAdapter[_ReceiptShape] = TypeAdapter(_ReceiptShape)


def receipt_text(upload: Upload, confirmed: Upload, shards: Iterable[Shard]) -> str:
    """The receipt of an uploaded file; `confirmed` is the upload that storage has, `shards` are its parts."""
    receipt = {
        "path": printable(os.fsdecode(upload.path)),
        "filename": confirmed.filename,
        "upload_id": confirmed.upload_id,
        "key": confirmed.key,
        "sha256": confirmed.sha256,
        "md5": confirmed.md5,
        "etag": confirmed.etag,
        "bytes": upload.size,
        "packed": packed_document(upload),
        "lines": confirmed.lines,
        "repeated_lines": repeated_document(upload.repeated),
        "shape": shape_document(upload.shape),
        "time": iso(confirmed.updated_at),
        "duplicate": upload.id != confirmed.id,
        "shards": [shard_document(shard) for shard in shards],
    }
    return orjson.dumps(receipt, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def read_receipt(folder: Folder, name: bytes, place: bytes) -> Receipt | None:
    """The receipt `name` in `folder`, None when it is gone or no longer counts; `place` is where it lies below the archive.

    Raises `NotADocument`, `OSError`.
    """
    shape = read_document(folder, name, _RECEIPT, ours=True)
    if shape is None or shape.forgotten is not None:
        return None
    told = shape.repeated_lines
    return Receipt(
        # A name that had to be escaped for the receipt is taken from where the file was put away.
        path=place.removesuffix(RECEIPT) if "\\" in shape.path else shape.path.encode(),
        filename=shape.filename,
        bytes=shape.bytes,
        sha256=shape.sha256,
        md5=shape.md5,
        lines=shape.lines,
        repeated=None if told is None else RepeatedLines(told.count, told.compared, tuple(told.first)),
        stored=shape.stored(),
        duplicate=shape.duplicate,
        at=datetime.fromisoformat(shape.time).timestamp(),
        shape=None if shape.shape is None else shape.shape.record(),
        packed=None if shape.packed is None else records.Packed(shape.packed.bytes, shape.packed.sha256),
    )


def mark_of(status: os.stat_result) -> str:
    """A mark of a receipt that changes when the receipt is replaced: it is never written into, only replaced."""
    return f"{status.st_ino} {status.st_size} {status.st_ctime_ns}"


@dataclass(slots=True)
class Survey:
    """The result of one look at the archive. Paths are those of receipts, below the drop folder."""

    marks: dict[bytes, str] = field(default_factory=dict)  # of all receipts that could be looked at
    new: list[Receipt] = field(default_factory=list)  # that were not known; originals before duplicates
    none: dict[bytes, str] = field(default_factory=dict)  # why what was not known is no receipt
    unfinished: list[bytes] = field(default_factory=list)  # temporary files
    faults: dict[bytes, LocalFault] = field(default_factory=dict)  # what could not be looked at now


def survey(root: Path, known: Mapping[bytes, str], beat: Beat) -> Survey:
    """Every receipt in the archive; those whose mark is `known` are not read again."""
    result = Survey()
    with Folder.open(root) as top:
        for rel, folder, names in folders_below(top, ARCHIVE, result.faults, beat):
            for name in names:
                beat()
                if name.startswith(UNFINISHED):
                    result.unfinished.append(os.path.join(rel, name))
                elif name.endswith(RECEIPT):
                    _look(result, known, folder, name, os.path.join(rel, name))
    result.new.sort(key=lambda receipt: receipt.duplicate)
    return result


def _look(result: Survey, known: Mapping[bytes, str], folder: Folder, name: bytes, path: bytes) -> None:
    try:
        status = folder.status(name)
        if status is None:
            return
        mark = mark_of(status)
        if known.get(path) != mark:
            receipt = read_receipt(folder, name, path.removeprefix(ARCHIVE + b"/"))
            if receipt is not None:
                result.new.append(receipt)
    except NotADocument as why:
        result.none[path] = str(why)
    except OSError as error:
        result.faults[path] = folder_fault(error)
        return
    result.marks[path] = mark


def folders_below(
    top: Folder, rel: bytes, faults: dict[bytes, LocalFault], beat: Beat
) -> Iterator[tuple[bytes, Folder, list[bytes]]]:
    """The folder `rel` and all below it, with what lies in each but its folders; what can't be looked at is in `faults`.

    Each is open until the next is asked for. No link is followed, and no path longer than those that the agent makes.
    """
    pending = [rel]
    while pending:
        rel = pending.pop()
        try:
            with top.descend(rel) as folder:
                names = []
                with os.scandir(folder.descriptor) as entries:
                    for entry in entries:
                        beat()
                        name = os.fsencode(entry.name)
                        if not entry.is_dir(follow_symlinks=False):
                            names.append(name)
                        elif len(rel) + len(name) < LONGEST_PATH:
                            pending.append(os.path.join(rel, name))
                yield rel, folder, names
        except FileNotFoundError:
            continue  # nobody has made it yet, or it went away since it was listed
        except OSError as error:
            if not isinstance(error.filename, str | bytes):
                error.filename = os.path.join(top.path, rel)
            faults[rel] = folder_fault(error)
