"""The digest of a published model: one text that stands for its files and their bytes.

Equal digests mean equal bytes. The reverse does not hold: a box that received a file in other pieces has other segments.
Failures handled: values in the ledger that this program never writes (`Misfit`).
"""

import json
from collections.abc import Iterable

from blake3 import blake3
from sqlite_utils import Database

from axomsync.core.records import DurableSegment, ModelFile
from axomsync.ledger.rows import fitting


def digest_of(files: Iterable[ModelFile]) -> str:
    """BLAKE3 of the JSON `[[rel,size,[digest,…]],…]`, ASCII without blanks: files by path, segments by their place."""
    listed = [
        [file.rel, file.size, [part.blake3 for part in sorted(file.segments, key=lambda part: (part.start, part.end))]]
        for file in sorted(files, key=lambda file: file.rel)
    ]
    return blake3(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


def digest_in_ledger(db: Database, model_id: str) -> str:
    """The digest of a model's recorded files. Raises `Misfit`."""
    found = []
    for row, rel, size, etag in db.execute("SELECT id, rel, size, etag FROM files WHERE model = ?", [model_id]).fetchall():
        parts = db.execute('SELECT start, "end", blake3 FROM segments WHERE file = ?', [row]).fetchall()
        segments = tuple(
            fitting(DurableSegment, start=start, end=end, blake3=blake, gateway=None) for start, end, blake in parts
        )
        found.append(fitting(ModelFile, rel=rel, size=size, etag=etag, segments=segments))
    return digest_of(found)
