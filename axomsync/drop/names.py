"""The file name that the console receives for a dropped file, and the names of compressed files. Pure."""

import hashlib
import posixpath
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import quote

NAME_LIMIT = 255


class Packing(StrEnum):
    """How a file is compressed. The words are a contract: they appear in receipts."""

    GZIP = "gzip"
    ZSTD = "zstd"


ENDINGS = {b".gz": Packing.GZIP, b".zst": Packing.ZSTD}


def packing_of(path: bytes) -> Packing | None:
    """How a file is compressed, by the ending of its name in any case; None for a file that is uploaded as it is."""
    stem, ending = posixpath.splitext(posixpath.basename(path))
    return ENDINGS.get(ending.lower()) if stem else None


def names_packed(include: Iterable[str]) -> bool:
    """Check whether these globs name compressed files."""
    return any(glob.lower().endswith(tuple(ending.decode() for ending in ENDINGS)) for glob in include)


def console_name(path: bytes) -> str:
    """Make the console's file name: the last component of the path; bytes that are not printable UTF-8 are percent-encoded.

    Backslashes are encoded too, since some stores treat them as slashes. The name has at most 255 bytes, as on disk; a
    longer one is cut and ends with a mark that distinguishes it from similar names. A compressed file is uploaded as what it
    holds, so its name loses the ending.
    """
    name = posixpath.basename(path)
    if packing_of(path) is not None:
        name = posixpath.splitext(name)[0]
    try:
        told = "".join(c if c.isprintable() and c != "\\" else quote(c) for c in name.decode("utf-8"))
    except UnicodeDecodeError:
        told = quote(name)
    if len(told.encode()) <= NAME_LIMIT:
        return told
    stem, extension = posixpath.splitext(told)
    mark = f"--{hashlib.sha256(name).hexdigest()[:8]}{extension[-16:]}"
    return stem.encode()[: NAME_LIMIT - len(mark.encode())].decode("utf-8", "ignore") + mark
