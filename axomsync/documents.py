"""JSON documents in folders that others may write into: receipts, records, claims. Any content is a document or is none.

Failures handled: a link, FIFO, device or folder of the document's name, more bytes than `LARGEST`, what is no UTF-8 or no
JSON (nested deeper than the parser goes, numbers without end, lone surrogates), what has another form than is asked for,
what somebody else made or may change where that matters (all `NotADocument`, with the reason in words); a disk that does
not give it (`OSError`: that is no word on the document).
"""

import errno
import os
import stat
from typing import TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from axomsync.folders import Folder

T = TypeVar("T")

LARGEST = 64 * 1024 * 1024  # bytes; the record of a model with 100,000 segments has about 10 MB
_FOREIGN = frozenset({errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EISDIR, errno.ENOTDIR, errno.ENODEV})
_OF_OTHERS = "another user has made it or may write to it; it proves nothing"


class NotADocument(Exception):  # for the caller to tell: what follows from it differs
    """What has the document's name is none; the message says why, and not where."""


def read_document(
    folder: Folder, name: bytes, shape: TypeAdapter[T], largest: int = LARGEST, *, ours: bool = False
) -> T | None:
    """The document `name` in `folder`, None when nothing has that name. Raises `NotADocument`, `OSError`.

    `ours` wants one that this process's user or root has made, and that nobody else may write to.
    """
    try:
        seen = folder.status(name) if ours else None
        if seen is not None and stat.S_ISREG(seen.st_mode) and not is_ours(seen):
            raise NotADocument(_OF_OTHERS)  # without a look at how much it is
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
    """Whether this process's user or root has made a file, and nobody else may write to it: by mode, which bounds ACLs."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def parse_document(text: bytes, shape: TypeAdapter[T], largest: int = LARGEST) -> T:
    """As `read_document`, of bytes that were read."""
    if not text.strip():
        raise NotADocument("it is empty")
    if len(text) > largest:
        raise NotADocument(f"it has more than {largest} bytes")
    try:
        # orjson refuses what Python's own parser lets through: Infinity, lone surrogates, ever deeper nesting.
        return shape.validate_python(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise NotADocument(f"it is no JSON ({error})") from None
    except ValidationError as failure:
        first = failure.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise NotADocument(f"{place[:100]}: {first['msg']}") from None
