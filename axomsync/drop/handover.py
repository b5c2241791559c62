"""Lists for the person who registers uploads as datasets: objects by folder, and batches that became datasets. Pure.

One sub-folder of the drop folder becomes one dataset; so does a file outside of all sub-folders. The console does not say
which uploads a dataset has: they are found by the number of its shards, their bytes and its creation time.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from axomsync.core.policy import made_at
from axomsync.core.records import Dataset

Document = Mapping[str, Any]

COLUMNS = (
    "folder", "path", "state", "filename", "bytes", "upload_id", "key", "etag", "shard", "sha256", "lines", "reason",
    "created_at", "updated_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Uploads that will be one dataset. `since`: when the first of them was dropped (ISO-8601 UTC)."""

    place: str  # sub-folder, or path of a file in no sub-folder
    objects: int
    bytes: int
    since: str


def objects(uploads: Iterable[Document]) -> list[dict[str, Any]]:
    """Make a row of `COLUMNS` for each object, by folder; a file in shards has one row for each shard."""
    rows = []
    for upload in sorted(uploads, key=lambda upload: (upload["folder"], upload["path"])):
        of_file = {name: upload.get(name) for name in COLUMNS}
        if not upload["shards"]:
            rows.append(of_file)
        rows += [of_file | shard | {"shard": number} for number, shard in enumerate(upload["shards"], 1)]
    return rows


def batches(uploads: Iterable[Document]) -> list[Batch]:
    """Group the stored objects by their future dataset; an upload and its duplicates in one folder count once."""
    found: dict[str, dict[tuple[str, ...], Document]] = {}
    for upload in sorted(uploads, key=lambda upload: str(upload["created_at"])):
        if upload["state"] in ("uploaded", "duplicate"):
            found.setdefault(upload["folder"] or upload["path"], {}).setdefault(_stored_as(upload), upload)
    return [
        Batch(
            place,
            sum(len(upload["shards"]) or 1 for upload in contents.values()),
            sum(upload["bytes"] for upload in contents.values()),
            min(upload["created_at"] for upload in contents.values()),
        )
        for place, contents in sorted(found.items())
    ]


def _stored_as(upload: Document) -> tuple[str, ...]:
    """Ids of the objects, which a duplicate shares with its original: equal contents can be several objects."""
    ids = [stored["upload_id"] for stored in (upload, *upload["shards"]) if stored["upload_id"]]
    return tuple(ids or [upload["sha256"]])  # a duplicate whose original was forgotten may have no ids


def appeared(found: Iterable[Batch], datasets: Iterable[Dataset]) -> dict[str, str]:
    """Match batches with datasets; returns the place by dataset id. Each matches once, the oldest first."""
    left = sorted(found, key=lambda batch: batch.since)
    places = {}
    for dataset in sorted(datasets, key=lambda dataset: made_at(dataset.created_at)):
        fitting = [batch for batch in left if _fits(batch, dataset)]
        if fitting:
            chosen = next((batch for batch in fitting if _is_named(batch, dataset)), fitting[0])
            places[dataset.id] = chosen.place
            left.remove(chosen)
    return places


def _fits(batch: Batch, dataset: Dataset) -> bool:
    # The console may write no fraction of a second.
    later = (made_at(dataset.created_at) or math.inf) >= math.floor(made_at(batch.since))
    return later and (dataset.shard_count, dataset.bytes) == (batch.objects, batch.bytes)


def _is_named(batch: Batch, dataset: Dataset) -> bool:
    last = batch.place.rpartition("/")[2]
    return dataset.name in (last, last.partition(".")[0])
