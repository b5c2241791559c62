"""The versions that wait for `current`, and those on trial, for `status`, the page and `explain`.

Reads the ledger for the versions, and the links on disk, so it works without an agent. Failures handled: a name whose links
can't be read now, or whose folder is not there (left out).
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.records import Published
from axomsync.core.text import iso
from axomsync.core.windows import Promotes
from axomsync.ledger import Reader
from axomsync.mirror.layout import age
from axomsync.mirror.promotion import waiting
from axomsync.mirror.publish import current
from axomsync.status.documents import Document


def waiting_documents(ledger: Reader, promotes: Promotes, now: float) -> list[Document]:
    """Return the versions that wait, newest first of each name; `until` is None when a person has to promote them."""
    return [] if promotes == "now" else list(_waiting(ledger.published(), promotes, now))


def _waiting(published: list[Published], promotes: Promotes, now: float) -> Iterator[Document]:
    names: dict[Path, dict[str, Published]] = {}
    for row in sorted(published, key=lambda row: age(row.created_at, row.id), reverse=True):
        names.setdefault(Path(row.path).parent, {})[Path(row.path).name] = row
    for parent, rows in sorted(names.items()):
        if not parent.is_dir():
            continue
        with suppress(LocalFault):
            for each in waiting(current.place(parent, rows), promotes, now):
                row = rows[each.version]
                yield {"name": row.name, "version": row.version, "id": row.id, "until": iso(each.until)}


def trial_documents(ledger: Reader) -> list[Document]:
    """Return the versions on trial; `until` is None before the first check, `previous` without a version to go back to."""
    published = {row.id: row for row in ledger.published()} if (trials := ledger.trials()) else {}
    return [
        {
            "name": published[trial.model].name,
            "version": published[trial.model].version,
            "id": trial.model,
            "previous": published[trial.previous].version if trial.previous in published else None,
            "since": iso(trial.began_at),
            "until": iso(trial.ends_at),
            "checks": trial.checks,
            "reason": trial.reason,
        }
        for trial in trials
        if trial.verdict is None and trial.model in published
    ]
