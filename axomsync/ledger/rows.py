"""Conversion between rows of the ledger and records. Pure."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import orjson

from axomsync.core.records import Model, ModelState, RepeatedLines, Shape, ShapeFinding, Stamp, Upload, UploadState

Row = Mapping[str, Any]
T = TypeVar("T")

_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1  # range of SQLite's integers
_STATES = {"uploads": UploadState, "models": ModelState}


class Misfit(ValueError):
    """A value in the ledger that this program never writes: the file is damaged."""


def fitting(kind: Callable[..., T], /, **values: Any) -> T:
    """Make a record of plain columns, each of the record's type. Raises `Misfit`."""
    types = tuple(map(type, values.values()))
    misfit = _misfit(kind, tuple(values), types)
    if misfit is not None:
        raise Misfit(misfit)
    return kind(**values)


@lru_cache(maxsize=4096)  # there are many rows, but few forms
def _misfit(kind: Any, names: tuple[str, ...], types: tuple[type, ...]) -> str | None:
    """Find the first column whose value has another type than the record's."""
    given = dict(zip(names, types, strict=True))
    return next((name for name, wanted in _column_types(kind) if given[name] not in wanted), None)


def known_state(table: str, word: Any) -> str:
    """Check that a word is a state of `uploads` or `models`; returns it. Raises `Misfit`."""
    try:
        return _STATES[table](word)
    except ValueError:
        raise Misfit("state") from None


@cache
def _column_types(kind: Any) -> list[tuple[str, tuple[type, ...]]]:
    """List the fields of a record that are plain columns, with the allowed types of SQLite's values."""
    columns = []
    for name, hint in get_type_hints(kind).items():
        types = get_args(hint) or (hint,)
        if all(part in (int, float, str, bytes, bool, NoneType) for part in types):
            columns.append((name, types))
    return columns


def to_upload(row: Row) -> Upload:
    """Make a record from one row of `uploads`."""
    return fitting(
        Upload,
        id=row["id"],
        path=row["path"],
        filename=row["filename"],
        stamp=_stamp(row),
        state=UploadState(known_state("uploads", row["state"])),
        **{
            name: row[name]
            for name in (
                "reason", "sha256", "blake3", "md5", "lines", "upload_id", "key", "etag",
                "duplicate_of", "attempts", "next_attempt", "created_at", "updated_at", "unpacked", "packed_sha256",
            )
        },
        repeated=_repeated(row["repeated_lines"]),
        shape=_shape(row["shape"]),
        doubtful=bool(row["doubtful"]),
    )  # fmt: skip


def to_model(row: Row) -> Model:
    """Make a record from one row of `models` with the sum `bytes_done`."""
    return fitting(
        Model,
        state=ModelState(known_state("models", row["state"])),
        **{
            name: row[name]
            for name in (
                "id", "name", "version", "params", "base_model_id", "remote_status", "created_at", "reason",
                "path", "bytes_done", "bytes_total", "attempts", "next_attempt", "updated_at", "absent_polls",
                "absent_since", "damage", "verified_at", "digest", "bytes_from_gateways",
            )
        },
        pulled=bool(row["pulled"]),
        left_out=tuple(_names(row["left_out"] or "[]")),
        remarks=tuple(_names(row["remarks"] or "[]")),
        proofs=_proofs(row["proofs"] or "{}"),
    )  # fmt: skip


def stamp_row(stamp: Stamp) -> tuple[int, int, int, int, int]:
    """The columns dev, ino, bytes, mtime_ns and ctime_ns."""
    kept = stored(stamp)
    return (_signed(kept.dev), _signed(kept.ino), kept.size, kept.mtime_ns, kept.ctime_ns)


def folded(number: int) -> int:
    """Limit a number to the range of a column: times may lie outside of the years 1677 to 2262."""
    return min(max(number, _SMALLEST), _LARGEST)


def stored(stamp: Stamp) -> Stamp:
    """A stamp as the ledger returns it."""
    return Stamp(stamp.dev, stamp.ino, folded(stamp.size), folded(stamp.mtime_ns), folded(stamp.ctime_ns))


def json_list(names: Iterable[str]) -> str | None:
    """Encode a list for a column; NULL for an empty one."""
    return json.dumps(listed) if (listed := list(names)) else None


def _repeated(text: str | None) -> RepeatedLines | None:
    if text is None:
        return None
    try:
        document = orjson.loads(text)
        return RepeatedLines(int(document["count"]), int(document["compared"]), tuple(map(int, document["first"])))
    except (KeyError, TypeError, ValueError):
        raise Misfit("repeated_lines") from None


def shape_column(shape: Shape | None) -> str | None:
    """Encode the shape of a dataset for a column; NULL when there is no shape."""
    return None if shape is None else orjson.dumps(shape).decode()


def _shape(text: str | None) -> Shape | None:
    if text is None:
        return None
    try:
        columns = orjson.loads(text)
        found = [fitting(ShapeFinding, **each) for each in columns["findings"]]
        return fitting(Shape, **columns | {"findings": tuple(found)})
    except (KeyError, TypeError, ValueError):
        raise Misfit("shape") from None


def _names(text: str) -> list[str]:
    try:
        names = orjson.loads(text)
    except (TypeError, ValueError):
        raise Misfit("left_out") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Misfit("left_out")
    return names


def json_counts(words: Iterable[str]) -> str:
    """Encode the number of times each word occurs, for a column."""
    return json.dumps(Counter(sorted(words)))


def _proofs(text: str) -> tuple[tuple[str, int], ...]:
    try:
        counts = orjson.loads(text)
    except (TypeError, ValueError):
        raise Misfit("proofs") from None
    if not isinstance(counts, dict) or not all(type(count) is int for count in counts.values()):
        raise Misfit("proofs")
    return tuple(counts.items())


def _stamp(row: Row) -> Stamp:
    dev, ino, size, mtime_ns, ctime_ns = row["dev"], row["ino"], row["bytes"], row["mtime_ns"], row["ctime_ns"]
    if not type(dev) is type(ino) is type(size) is type(mtime_ns) is type(ctime_ns) is int:
        raise Misfit("stamp")
    return Stamp(_unsigned(dev), _unsigned(ino), size, mtime_ns, ctime_ns)


def _signed(number: int) -> int:
    """Convert to a signed integer for SQLite: some filesystems have 64-bit inode numbers."""
    return number - (1 << 64) if 1 << 63 <= number < 1 << 64 else folded(number)


def _unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number
