"""The check of the ledger. Failures handled: a file that is not the agent's, no file yet, a damaged database."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from axomsync.core.errors import AxomsyncError, LocalFault
from axomsync.core.paths import LEDGER_FILE
from axomsync.ledger import Reader, UnreadyLedger, check_ledger, read_only_uri
from axomsync.ops.doctor.findings import Finding, Verdict, of_fault
from axomsync.ops.doctor.installation import Installation


def sound_ledger(installation: Installation) -> Iterator[Finding]:
    """Check that the ledger is whole and can be read."""
    path = installation.settings.state.folder / LEDGER_FILE
    try:
        check_ledger(path)
    except LocalFault as fault:
        yield of_fault("ledger", fault)
        return
    if not os.path.exists(path):
        yield Finding("ledger", Verdict.OK, f"{path} is not there yet; the first start makes it")
        return
    damage = _damage(path)
    if damage is None:
        yield Finding("ledger", Verdict.OK, f"{path} is sound")
        return
    fix = "stop the agent and move the file away: the ledger is rebuilt from receipts and published models"
    yield Finding("ledger", Verdict.FAIL, f"{path}: {damage}", fix)


def _damage(path: Path) -> str | None:
    """Return what SQLite or the agent's own reading finds wrong with the ledger; None when it is whole."""
    try:
        with closing(sqlite3.connect(read_only_uri(path), uri=True)) as db:
            answer = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if answer != "ok":
            return answer
        with closing(Reader(path)) as ledger:
            ledger.uploads()
            ledger.all_shards()
            ledger.models()
    except UnreadyLedger:
        return None  # of an older version: the next start brings it up to date
    except (sqlite3.Error, AxomsyncError) as error:
        return str(error).removeprefix(f"{path}: ")
    return None
