"""Log lines: one format for people, one for the journal, one for machines; secrets are taken out of all of them.

The redaction works on the finished line, tracebacks included, so that no library and no careless message can leak the key
or a signed URL.
"""

import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

Format = Literal["auto", "console", "json", "journal"]

_SECRETS = (
    (re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*"), r"\1?…"),
    (re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token))=[^&\s\"'<>]+", re.IGNORECASE), r"\1=…"),
    (re.compile(r"\baxom_[a-z]+_[A-Za-z0-9_-]+"), "axom_…"),
    (re.compile(r"(Bearer)\s+\S+", re.IGNORECASE), r"\1 …"),
)
_NOISY = ("httpx", "httpcore", "apscheduler", "watchdog", "uvicorn", "asyncio")
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def redact(text: str) -> str:
    """`text` without keys, signatures and the queries of URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        return redact(f"{time} {record.levelname.lower():<7} {_message(self, record)}")


class _Journal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITY.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in redact(_message(self, record)).splitlines())


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": redact(_message(self, record)),
        }
        return orjson.dumps(line).decode()


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text.encode("utf-8", "backslashreplace").decode()


def set_up(form: Format, level: str, environ: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Send all log records to `stream` (standard error by default)."""
    stream = stream or sys.stderr
    if form == "auto":
        form = "journal" if "JOURNAL_STREAM" in environ and not stream.isatty() else "console"
    handler = logging.StreamHandler(stream)
    handler.setFormatter({"console": _Console, "journal": _Journal, "json": _Json}[form]())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
