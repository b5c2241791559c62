"""Text of unknown origin and times, made safe to show. Pure."""

import re
from datetime import UTC, datetime

_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of surrogate pairs that stand for no undecodable byte


def printable(text: str) -> str:
    """Put `text` on one line: undecodable bytes, line breaks and control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogateescape").decode() for c in _whole(text))


def _whole(text: str) -> str:
    text = _LONE.sub(lambda half: half[0].encode("unicode_escape").decode(), text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_utf8(text: str) -> bool:
    """Check that `text` can be written down: in the ledger, in JSON, in a file. It can't with bytes that were no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def iso(seconds: float | None) -> str | None:
    """Format seconds since the epoch as ISO-8601 UTC; None for None and for times outside the calendar."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
