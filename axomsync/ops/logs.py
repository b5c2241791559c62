"""Log lines: one format for people (with the date where no terminal shows it), one for the journal, one for machines.

Secrets are taken out of all of them.

The redaction works on the finished line, tracebacks included, so that no library and no careless message can leak the key
or a signed URL. Control characters are escaped there, too; what comes from outside is cleaned where it comes in.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

import orjson

from axomsync.core.signatures import without_queries

Format = Literal["auto", "console", "json", "journal"]

_SECRETS = (
    (re.compile(r"\baxom_[a-z]+_[A-Za-z0-9_-]+"), "axom_…"),
    (re.compile(r"(Bearer)\s+\S+", re.IGNORECASE), r"\1 …"),
)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # what moves a terminal's cursor, or begins a line
_NOISY = ("httpx", "httpcore", "apscheduler", "watchdog", "uvicorn", "asyncio")
_BEGUN_AGAIN = ("watchdog",)  # libraries whose threads somebody looks after: `drop/watch.py`
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def redact(text: str) -> str:
    """Return `text` without keys, signatures and the queries of URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return without_queries(text)


class _Console(logging.Formatter):
    """Lines for a terminal: the reader knows which day it is."""

    def format(self, record: logging.LogRecord) -> str:
        time = self._time(datetime.fromtimestamp(record.created).astimezone())
        return redact(f"{time} {record.levelname.lower():<7} {_message(self, record)}")

    def _time(self, at: datetime) -> str:
        return at.strftime("%H:%M:%S")


class _File(_Console):
    """Lines for a file: they are read later, perhaps elsewhere, so they have the date and the zone."""

    def _time(self, at: datetime) -> str:
        return at.isoformat(timespec="seconds")


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
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), record.getMessage())
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text.encode("utf-8", "backslashreplace").decode()


def set_up(form: Format, level: str, environ: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Send all log records to `stream` (standard error by default)."""
    stream = stream or sys.stderr
    if form == "auto":
        form = "journal" if _is_journal(stream, environ) else "console"
    handler = logging.StreamHandler(stream)
    people = _Console if stream.isatty() else _File
    handler.setFormatter({"console": people, "journal": _Journal, "json": _Json}[form]())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # watchdog calls it an error when an event comes while its thread is being stopped.
    logging.getLogger("watchdog.observers.inotify").addFilter(lambda record: "thread is inactive" not in record.getMessage())
    logging.raiseExceptions = False  # what a faulty message would print instead is not redacted
    sys.excepthook = lambda kind, error, trace: _log_death("the program", (kind, error, trace))
    threading.excepthook = _log_death_of_thread


def _log_death_of_thread(death: threading.ExceptHookArgs) -> None:
    error = death.exc_value or death.exc_type()
    library = type(death.thread).__module__.partition(".")[0]
    if library not in _BEGUN_AGAIN:
        name = death.thread.name if death.thread else "?"
        _log_death(f"thread {name}", (death.exc_type, error, death.exc_traceback))
        return
    log = logging.getLogger(__name__)
    log.warning("a thread of %s ended (%s: %s); it is begun again", library, death.exc_type.__name__, error)
    log.debug("that thread", exc_info=error)


def _log_death(what: str, death: tuple[type[BaseException], BaseException, TracebackType | None]) -> None:
    """Log an unexpected end; Python's own traceback would not be redacted."""
    if not issubclass(death[0], SystemExit):
        logging.getLogger(__name__).critical("%s ended unexpectedly: %s", what, death[1], exc_info=death)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return True if this stream leads to the journal; the variable alone is inherited by whole login sessions.

    Source: systemd.exec(5), `$JOURNAL_STREAM`.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
