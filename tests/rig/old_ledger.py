"""A ledger as the first version left it: what every later one must bring up to date."""

import sqlite3
from contextlib import closing
from pathlib import Path

OLD_DUMP = (Path(__file__).parents[1] / "data" / "ledger_of_schema_1.sql").read_text(encoding="utf-8")


def old_ledger(folder: Path, dump: str = OLD_DUMP) -> None:
    """Put it into a state folder that is made for it."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "state.db")) as database:
        database.executescript(dump)
