"""The JSON documents that users rely on, from the records that they show: the fields of every `--json`, hook and page.

The document of `status` is made in `report`, those of `explain` in `explain`. Pure, but for `current`, which the disk says.
"""

import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from axomsync.core.errors import Transient
from axomsync.core.paths import CURRENT
from axomsync.core.policy import made_at
from axomsync.core.records import BaseModel, Checked, Dataset, Event, Happening, Model, ModelState, Shard, Transfer, Upload
from axomsync.core.text import iso, printable
from axomsync.drop.documents import packed_document, repeated_document, shape_document, shard_document
from axomsync.drop.handover import Batch, appeared
from axomsync.mirror.layout import labels_at
from axomsync.mirror.publish.current import is_led_to

if TYPE_CHECKING:
    from axomsync.drop.jsonl import Fault
    from axomsync.mirror.catalog import Change
    from axomsync.mirror.imports import Arrival
    from axomsync.mirror.publish.record import Record

Document = dict[str, Any]


def upload_document(upload: Upload, shards: Iterable[Shard] = (), orphans: Iterable[str] = ()) -> Document:
    """Return one row of `axomsync uploads --json`. `orphans` are keys that storage may have and that no user was given."""
    return {
        "path": printable(os.fsdecode(upload.path)),
        "folder": printable(os.fsdecode(os.path.dirname(upload.path))),
        "filename": upload.filename,
        "bytes": upload.size,
        "sha256": upload.sha256,
        "packed": packed_document(upload),
        "lines": upload.lines,
        "repeated_lines": repeated_document(upload.repeated),
        "shape": shape_document(upload.shape),
        "state": str(upload.state),
        "reason": upload.reason,
        "upload_id": upload.upload_id,
        "key": upload.key,
        "etag": upload.etag,
        "shards": [shard_document(shard) for shard in shards],
        "orphans": list(orphans),
        "created_at": iso(upload.created_at),
        "updated_at": iso(upload.updated_at),
    }


def checked_document(name: str, checked: Checked | None, faults: Sequence["Fault"] = (), total: int = 0) -> Document:
    """Return one row of `axomsync check --json`. A file without `checked` would be rejected for these first `faults`."""
    return {
        "path": printable(name),
        "good": checked is not None,
        "bytes": checked and checked.bytes,
        "sha256": checked and checked.sha256,
        "lines": checked and checked.lines,
        "repeated_lines": repeated_document(checked.repeated if checked is not None else None),
        "shape": shape_document(checked.shape if checked is not None else None),
        "problems": [{"line": each.line, "column": each.column, "reason": each.reason} for each in faults],
        "problems_total": total,
    }


def model_document(model: Model, led: Container[str | None] | None = None) -> Document:
    """Return one row of `axomsync models --json`. `led` are the paths that `current` leads to, if they are known."""
    total = model.bytes_total
    return {
        "id": model.id,
        "name": model.name,
        "version": model.version,
        "params": model.params,
        "remote_status": model.remote_status,
        "state": str(model.state),
        "reason": model.reason,
        "bytes_done": model.bytes_done if total is None else min(model.bytes_done, total),
        "bytes_total": total,
        "path": model.path,
        "current": is_led_to(model.path) if led is None else model.path in led,
        "digest": model.digest if model.state is ModelState.PUBLISHED else None,
        "created_at": model.created_at,
        "damage": model.damage,
        "verified_at": iso(model.verified_at),
        "pulled": model.pulled,
        "proofs": dict(model.proofs),
        "bytes_from_gateways": model.bytes_from_gateways,
    }


def model_documents(known: Iterable[Model], changes: "Iterable[Change]") -> list[Document]:
    """Return the rows of `axomsync models --json`, newest first: `known` models as they are after these `changes`.

    A model that only the changes name is one that no agent has seen yet.
    """
    pending = {change.model.id: change for change in changes}
    rows = [_changed(row, pending.pop(row.id, None)) for row in known]
    rows += (Model.listed(change.model, change.state, change.reason) for change in pending.values())
    documents = map(model_document, rows)
    return sorted(documents, key=lambda document: (made_at(document["created_at"]), document["id"]), reverse=True)


def _changed(row: Model, change: "Change | None") -> Model:
    if change is None:
        return row
    return replace(row, state=change.state, reason=change.reason, remote_status=change.model.status)


def verified_document(folder: Path, record: "Record", damages: Iterable[object], *, repaired: bool) -> Document:
    """Return one row of `axomsync verify --json`; `damages` are those that the last reading found."""
    from axomsync.mirror.publish.record import file_documents

    return {
        "id": record.model.id,
        "name": record.model.name,
        "version": record.model.version,
        "path": str(folder),
        "bytes": sum(file.size for file in record.files),
        "files": file_documents(record),
        "damage": list(map(str, damages)),
        "repaired": repaired,
    }


def arrival_document(arrival: "Arrival") -> Document:
    """Return one row of `axomsync import --json`; `again`: another try may succeed."""
    model, failure = arrival.model, arrival.failure
    return {
        "source": str(arrival.source),
        "id": model and model.id,
        "name": model and model.name,
        "version": model and model.version,
        "outcome": arrival.outcome,
        "reason": arrival.remark if failure is None else str(failure),
        "again": failure is not None and failure.exit_code == Transient.exit_code,
        "path": arrival.path,
        "bytes": arrival.size,
    }


def current_document(parent: Path, version: str | None, *, pinned: bool) -> Document:
    """Return what `pin`, `unpin`, `rollback` and `promote` print: the version that `current` below `parent` leads to."""
    return {"path": str(parent / CURRENT), "version": version, "pinned": pinned}


def base_model_document(model: BaseModel) -> Document:
    """Return one row of `axomsync base-models --json`."""
    return asdict(model)


def dataset_documents(listed: Sequence[Dataset], batches: Sequence[Batch]) -> list[Document]:
    """Return the rows of `axomsync datasets --json`: the console's datasets, then `batches` that none was made of."""
    places = appeared(batches, listed)
    documents = [{**asdict(dataset), "uploaded_from": places.get(dataset.id)} for dataset in listed]
    unknown = dict.fromkeys([*(field.name for field in fields(Dataset)), "uploaded_from"])
    documents += [
        {**unknown, "status": "not registered", "uploaded_from": b.place, "shard_count": b.objects, "bytes": b.bytes}
        for b in batches
        if b.place not in places.values()
    ]
    return documents


def transfer_document(transfer: Transfer) -> Document:
    """Return one transfer in flight."""
    return {
        "direction": transfer.direction,
        "name": transfer.name,
        "bytes_done": transfer.bytes_done,
        "bytes_received": transfer.bytes_received,
        "bytes_total": transfer.bytes_total,
        "rate": transfer.rate,
        "eta": transfer.eta,
    }


def gateway_documents(configured: Iterable[str], fact: str | None) -> list[Document]:
    """Return the gateways as the agent that runs has told; without one, nothing is known of them."""
    try:
        told = orjson.loads(fact or "null")
    except ValueError:
        told = None
    if not isinstance(told, list):
        return [{"gateway": gateway, "up": None, "reason": None} for gateway in configured]
    return told


def event_document(event: Happening) -> Document:
    """Return one line of the history."""
    return {
        "at": iso(event.at),
        "kind": event.kind,
        "subject": event.subject,
        "state": event.state,
        "reason": event.reason,
    }


def hook_document(event: Event, row: Model | Upload, shards: Iterable[Shard] = ()) -> Document:
    """Return what a hook gets on standard input: the event, and the row as `--json` shows it.

    A model that left its folder is told with the name that this folder had: by that, engines know it.
    """
    head = {"event": event.kind, "at": iso(event.at)}
    if isinstance(row, Model):
        if event.path is not None:
            name, version = labels_at(event.path, row.id)
            row = replace(row, name=name, version=version, path=event.path)
        return {**head, "model": model_document(row)}
    return {**head, "upload": upload_document(row, shards)}


def gate_document(kind: str, at: float, row: Model | Upload, path: str) -> Document:
    """Return what a gate gets on standard input: as a hook, with the path at which the model or the bytes are now."""
    head = {"event": kind, "at": iso(at)}
    if isinstance(row, Model):
        return {**head, "model": model_document(replace(row, path=path))}
    return {**head, "file": path, "upload": upload_document(row)}


def answer_document(answer: Document | None) -> Document:
    """Return what `pause`, `resume`, `poll`, `retry` and `forget` print; `answer` is None when no agent runs."""
    return {"running": answer is not None, **(answer or {})}


def configuration_document(path: Path, remarks: Sequence[str]) -> Document:
    """Return what `axomsync config check --json` prints; `remarks` are about the environment."""
    return {"path": str(path), "remarks": list(remarks)}
