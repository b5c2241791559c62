"""Files that a person, the configuration or a variable names: read whole, up to a limit, never waiting.

Failures handled: a pipe, device or folder of that name, more bytes than `LARGEST` (`OSError`, in words).
"""

import errno
import os
import stat
from pathlib import Path

LARGEST = 16 * 1024 * 1024  # bytes; the certificate authorities of a whole system take 0.25 MB

PIECE = 256 * 1024


def read_named(path: Path | str) -> bytes:
    """Read a regular file. Raises `OSError`."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file; name one", str(path))
        text = b""
        while len(text) <= LARGEST and (piece := os.read(file, PIECE)):  # read() allocates all that it may give
            text += piece
    finally:
        os.close(file)
    if len(text) > LARGEST:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST >> 20} MiB; name the right file", str(path))
    return text
