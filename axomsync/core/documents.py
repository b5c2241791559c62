"""JSON documents in folders that others may write into: receipts, records, claims. Their content is never trusted.

Failures handled, all as `NotADocument` with the reason in words: a link, FIFO, device or folder in the document's place;
more bytes than `LARGEST`; no UTF-8 or no JSON (also: nested too deep, infinite numbers, lone surrogates); a document that
would take far more memory than its bytes; another form than was asked for; another user as owner or with the right to
write, where that matters. A disk that can't be read is an `OSError`: it says nothing about the document.
"""

import errno
import os
import re
import stat
from typing import TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from axomsync.core.folders import Folder
from axomsync.core.text import printable

T = TypeVar("T")

LARGEST = 64 * 1024 * 1024  # bytes; the record of a model with 100,000 segments has about 10 MB
# With these limits 64 MiB of JSON take less than 220 MiB: a value takes up to about 120 bytes, and text beyond ASCII four
# times its size.
MOST_VALUES = 1_500_000  # a list of 100,000 models has about 1,200,000
KEYS_OF_AN_OBJECT = 12  # counted by colons; URLs and times have some too
MOST_WIDE_TEXT = 16 * 1024 * 1024  # bytes
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)

_FOREIGN = frozenset({errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EISDIR, errno.ENOTDIR, errno.ENODEV})
_OF_OTHERS = "another user has made it or may write to it; it proves nothing"


class NotADocument(Exception):  # the caller reports it: the consequences differ
    """The file is not a usable document; the message gives the reason, not the path."""


def read_document(
    folder: Folder, name: bytes, shape: TypeAdapter[T], largest: int = LARGEST, *, ours: bool = False
) -> T | None:
    """Read the document `name` in `folder`; None when nothing has that name. Raises `NotADocument`, `OSError`.

    `ours`: the owner must be this process's user or root, and nobody else may write to the file.
    """
    try:
        seen = folder.status(name) if ours else None
        if seen is not None and stat.S_ISREG(seen.st_mode) and not is_ours(seen):
            raise NotADocument(_OF_OTHERS)  # before reading, so its size does not matter
        text, status = folder.read_and_look(name, largest + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _FOREIGN:
            raise NotADocument("it is no regular file") from None
        raise
    if ours and not is_ours(status):
        raise NotADocument(_OF_OTHERS)
    return parse_document(text, shape, largest)


def is_ours(status: os.stat_result) -> bool:
    """Check that this process's user or root owns a file and nobody else may write to it; the mode also bounds ACLs."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def parse_document(text: bytes, shape: TypeAdapter[T], largest: int = LARGEST) -> T:
    """Parse bytes that were read already. Raises `NotADocument`."""
    if len(text) > largest:
        raise NotADocument(f"it has more than {largest} bytes")
    try:
        return shape.validate_python(decode(text))
    except ValidationError as failure:
        first = failure.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise NotADocument(f"{printable(place)[:100]}: {printable(first['msg'])[:300]}") from None


def decode(text: bytes | bytearray) -> object:
    """Parse any JSON in bounded memory. Raises `NotADocument`."""
    if not text or text.isspace():
        raise NotADocument("it is empty")
    if _most_values(text) > MOST_VALUES:
        raise NotADocument(f"it has more than {MOST_VALUES} values")
    if len(text) > MOST_WIDE_TEXT and _wide_text(text) > MOST_WIDE_TEXT:
        raise NotADocument(f"it has more than {MOST_WIDE_TEXT >> 20} MiB of text beyond ASCII")
    try:
        # orjson refuses what Python's own parser accepts: Infinity, lone surrogates, ever deeper nesting.
        decoded: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotADocument(f"it is no JSON ({error})") from None
    return decoded


def _most_values(text: bytes | bytearray) -> int:
    """An upper bound. The known number of keys in each object costs nothing; each further key counts as a value."""
    objects = text.count(b"{")
    keys = max(0, text.count(b":") - KEYS_OF_AN_OBJECT * objects)
    return 2 * objects + text.count(b"[") + text.count(b",") + keys


def _wide_text(text: bytes | bytearray) -> int:
    if text.isascii() and b"\\u" not in text:
        return 0
    found = (match[0] for match in _TEXT.finditer(text))
    return sum(len(piece) for piece in found if not piece.isascii() or b"\\u" in piece)
