"""The verbs that say what the console has: `models`, `datasets`, `base-models`."""

from typing import Any

import click

from axomsync.cli.context import config_option, console_of, json_option, load, open_ledger, uploads_of
from axomsync.cli.output import print_documents
from axomsync.core.errors import AxomsyncError

DATASET_COLUMNS = ("name", "version", "status", "shard_count", "bytes", "uploaded_from", "created_at", "id")


@click.command()
@config_option
@json_option
def models(config_file: str | None, as_json: bool) -> None:
    """The console's models, with the local state and path of each."""
    from axomsync.cli import advice, tables
    from axomsync.mirror.catalog import Selection, reconcile
    from axomsync.status.report import model_document, unseen_model_document

    loaded = load(config_file)
    with open_ledger(loaded) as ledger:
        known = ledger.models() if ledger else []
    documents = [model_document(model) for model in known]
    refusal: AxomsyncError | None = None
    try:
        wanted = loaded.settings.mirror
        selection = Selection(wanted.include, wanted.exclude, wanted.keep, wanted.max_size, wanted.files)
        changes = reconcile(console_of(loaded).models(), known, selection, lambda row: True)
        changed = {change.model.id: change for change in changes}
        documents = [d | _news(changed.pop(d["id"], None)) for d in documents]
        documents += [unseen_model_document(c.model, c.state, c.reason) for c in changed.values()]
        documents.sort(key=lambda d: (d["created_at"] or "", d["id"]), reverse=True)
    except AxomsyncError as failure:
        refusal = failure
    print_documents(documents, as_json, tables.models, advice.of_models)
    if refusal is not None:
        refusal.args = (f"{refusal}; what is listed is what the ledger knows",)
        raise refusal


@click.command()
@config_option
@json_option
def datasets(config_file: str | None, as_json: bool) -> None:
    """The console's datasets, which of them were uploaded from here, and what was uploaded and is none yet."""
    from dataclasses import asdict

    from axomsync.cli import tables
    from axomsync.drop import handover

    loaded = load(config_file)
    listed, batches = console_of(loaded).datasets(), handover.batches(uploads_of(loaded))
    places = handover.appeared(batches, listed)
    documents = [asdict(dataset) | {"uploaded_from": places.get(dataset.id)} for dataset in listed]
    documents += [
        dict.fromkeys(documents[0] if documents else DATASET_COLUMNS)
        | {"status": "not registered", "uploaded_from": b.place, "shard_count": b.objects, "bytes": b.bytes}
        for b in batches
        if b.place not in places.values()
    ]
    heads = [column.replace("_", " ").upper() for column in DATASET_COLUMNS]
    rows = [[document[column] for column in DATASET_COLUMNS] for document in documents]
    print_documents(documents, as_json, lambda _: tables.table(heads, rows))


@click.command("base-models")
@config_option
@json_option
def base_models(config_file: str | None, as_json: bool) -> None:
    """The console's base models."""
    from dataclasses import asdict

    from axomsync.cli import tables

    columns = ("family", "name", "version", "params", "precision", "id")
    documents = [asdict(record) for record in console_of(load(config_file)).base_models()]
    heads = [column.upper() for column in columns]
    print_documents(documents, as_json, lambda rows: tables.table(heads, ([row[c] for c in columns] for row in rows)))


def _news(change: Any) -> dict[str, Any]:
    if change is None:
        return {}
    return {"state": str(change.state), "reason": change.reason, "remote_status": change.model.status}
