"""What the receipts in `uploaded/` tell a ledger that was lost, or that has never seen this folder.

Failures handled: receipts that can't be read or were changed by somebody into something else (left out, and told).
"""

import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from axomsync.drop.archive import RECEIPT
from axomsync.drop.watch import ARCHIVE
from axomsync.errors import printable

log = logging.getLogger(__name__)

Receipt = dict[str, Any]


def receipts(root: Path) -> Iterator[tuple[bytes, Receipt]]:
    """Every receipt below the archive, with the path that its file had in the drop folder; originals before duplicates."""
    top = os.path.join(os.fsencode(root), ARCHIVE)
    found = []
    for folder, _, names in os.walk(top):
        for name in names:
            if name.endswith(RECEIPT):
                found.append(os.path.join(folder, name))
    duplicates = []
    for file in sorted(found):
        receipt = _read(file)
        if receipt is not None:
            entry = (_path(os.path.relpath(file, top), receipt), receipt)
            if receipt["duplicate"]:
                duplicates.append(entry)
            else:
                yield entry
    yield from duplicates


def _read(file: bytes) -> Receipt | None:
    try:
        with open(file, encoding="utf-8") as text:
            receipt = json.load(text)
        receipt["updated_at"] = datetime.fromisoformat(receipt["time"]).timestamp()
        known = (("path", str), ("filename", str), ("sha256", str), ("bytes", int), ("duplicate", bool), ("shards", list))
        if all(isinstance(receipt[name], kind) for name, kind in known):
            return dict(receipt)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    log.warning("%s: can't be read as a receipt; it is left out of the ledger", printable(os.fsdecode(file)))
    return None


def _path(place: bytes, receipt: Receipt) -> bytes:
    """Where the file lay. A name that had to be escaped for the receipt is taken from where the file was put away."""
    path: str = receipt["path"]
    return os.fsencode(path) if "\\" not in path else place.removesuffix(RECEIPT)
