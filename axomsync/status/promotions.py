"""The versions that wait for `current`, and those on trial, for `status`, the page and `explain`.

Reads the ledger for the versions, and the links on disk, so it works without an agent. Failures handled: a name whose links
can't be read now, or whose folder is not there (left out).
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from axomsync.core.disks import Disk
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
    return [] if promotes == "now" else waiting_among(ledger.published(), promotes, now)


def waiting_among(
    published: Iterable[Published], promotes: Promotes, now: float, mirror: Disk | None = None
) -> list[Document]:
    """Like `waiting_documents`, of models that were read before: only the disk is asked, in a question to `mirror`."""
    names: dict[Path, dict[str, Published]] = {}
    for row in sorted(published, key=lambda row: age(row.created_at, row.id), reverse=True):
        names.setdefault(Path(row.path).parent, {})[Path(row.path).name] = row
    documents, in_order = [], sorted(names.items())
    for parent, rows in in_order if mirror is None else mirror.each(in_order):
        if not os.path.isdir(parent):
            continue
        with suppress(LocalFault):
            for each in waiting(current.place(parent, rows), promotes, now):
                row = rows[each.version]
                documents.append({"name": row.name, "version": row.version, "id": row.id, "until": iso(each.until)})
    return documents


def led_among(paths: Collection[str], mirror: Disk, what: str) -> frozenset[str]:
    """Those of `paths` that `current` leads to; while the mirror's disk does not answer, the last ones that `what` got."""
    return mirror.ask_or_remember(
        f"led: {what}", lambda: frozenset(path for path in mirror.each(paths) if current.is_led_to(path)), frozenset()
    )


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
