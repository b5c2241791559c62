"""The name that the console is told for a dropped file. Pure."""

import hashlib
import posixpath
from urllib.parse import quote

NAME_LIMIT = 255


def console_name(path: bytes) -> str:
    """The file name that the console is told: the last component, with what is not printable UTF-8 percent-encoded.

    So are backslashes, which some stores take for slashes. The name has at most 255 bytes, as the name of a file has; a
    longer one ends in a mark that keeps it apart from its like.
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
