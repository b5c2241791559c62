"""Rows of the ledger as lines of JSON, for support: without signed URLs, and from a damaged file as far as it can be read.

Failures handled: a file that is no ledger, damaged tables (the others are read), a locked file, a table that takes too long.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from axomsync.ledger.database import read_only_uri

SECRET_TABLES = frozenset({"signed_urls", "signed_shard_urls"})
BUSY_SECONDS = 1.0
STEPS_A_LOOK = 10_000  # of SQLite's machine, between two looks at the clock


def extract(path: Path, most_rows: int, seconds: float) -> Iterator[tuple[str, str]]:
    """Yield each table's name and its newest `most_rows` rows, one object a line; or the reason why it can't be read.

    All of it takes at most `seconds`. Raises `sqlite3.Error` if the file can't be opened as a ledger.
    """
    ends = time.monotonic() + seconds
    with closing(_opened(path)) as connection:
        connection.text_factory = lambda data: data.decode(errors="replace")
        connection.set_progress_handler(lambda: int(time.monotonic() > ends), STEPS_A_LOOK)
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        yield "schema", "\n".join(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql > ''"))
        for (name,) in names:
            if name not in SECRET_TABLES:
                try:
                    yield name, _rows(connection, name, most_rows)
                except sqlite3.Error as error:
                    yield name, f"can't be read: {error}\n"


def last_migration(path: Path) -> str | None:
    """Return the name of the schema that a ledger has; None when it has none. Raises `sqlite3.Error`."""
    with closing(_opened(path)) as connection:
        (name,) = connection.execute("SELECT max(name) FROM _sqlite_migrations").fetchone()
        return None if name is None else str(name)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(read_only_uri(path), uri=True, timeout=BUSY_SECONDS)


def _rows(connection: sqlite3.Connection, table: str, most: int) -> str:
    quoted = table.replace('"', '""')
    cursor = connection.execute(f'SELECT * FROM "{quoted}" ORDER BY rowid DESC LIMIT ?', (most,))  # noqa: S608  # quoted
    columns = [column[0] for column in cursor.description]
    lines = [orjson.dumps(dict(zip(columns, map(_plain, row), strict=True))).decode() + "\n" for row in cursor]
    return "".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value) if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64 else value
