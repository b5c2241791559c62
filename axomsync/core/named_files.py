"""Files that a person, the configuration or a variable names: read whole, up to a limit, or their beginning; never waiting.

Failures handled: a pipe, device or folder of that name, more bytes than `LARGEST` (`OSError`, in words).
"""

import errno
import os
import stat
from pathlib import Path

from axomsync.core.oserrors import InWords

LARGEST = 16 * 1024 * 1024  # bytes; the certificate authorities of a whole system take 0.25 MB

PIECE = 256 * 1024


def read_named(path: Path | str) -> bytes:
    """Read a regular file. Raises `OSError`."""
    text = beginning_of(path, LARGEST + 1)
    if len(text) > LARGEST:
        raise InWords(errno.EFBIG, f"it has more than {LARGEST >> 20} MiB; name the right file", str(path))
    return text


def beginning_of(path: Path | str, most: int) -> bytes:
    """Read at most the first `most` bytes of a regular file. Raises `OSError`."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise InWords(errno.EINVAL, "it is no regular file; name one", str(path))
        text = b""
        while len(text) < most and (
            piece := os.read(file, min(PIECE, most - len(text)))
        ):  # read() allocates what it may give
            text += piece
    finally:
        os.close(file)
    return text
