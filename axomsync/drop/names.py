"""The file name that the console receives for a dropped file. Pure."""

import hashlib
import posixpath
from urllib.parse import quote

NAME_LIMIT = 255


def console_name(path: bytes) -> str:
    """Make the console's file name: the last component of the path; bytes that are not printable UTF-8 are percent-encoded.

    Backslashes are encoded too, since some stores treat them as slashes. The name has at most 255 bytes, as on disk; a
    longer one is cut and ends with a mark that distinguishes it from similar names.
    """
    name = posixpath.basename(path)
    try:
        told = "".join(c if c.isprintable() and c != "\\" else quote(c) for c in name.decode("utf-8"))
    except UnicodeDecodeError:
        told = quote(name)
    if len(told.encode()) <= NAME_LIMIT:
        return told
    stem, extension = posixpath.splitext(told)
    mark = f"--{hashlib.sha256(name).hexdigest()[:8]}{extension[-16:]}"
    return stem.encode()[: NAME_LIMIT - len(mark.encode())].decode("utf-8", "ignore") + mark
