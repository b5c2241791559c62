"""`datasets`: the console's datasets, and uploads that are not registered."""

import click

from axomsync.cli.common import config_option, console_of, json_option, load, uploads_of
from axomsync.cli.output import print_documents

COLUMNS = ("name", "version", "status", "shard_count", "bytes", "uploaded_from", "created_at", "id")


@click.command()
@config_option
@json_option
def datasets(config_file: str | None, as_json: bool) -> None:
    """List the console's datasets, the origin of those uploaded from here, and uploads that are not registered yet."""
    from axomsync.cli import tables
    from axomsync.drop import handover
    from axomsync.status.documents import dataset_documents

    loaded = load(config_file, "state")
    documents = dataset_documents(console_of(loaded).datasets(), handover.batches(uploads_of(loaded)))
    heads = [column.replace("_", " ").upper() for column in COLUMNS]
    print_documents(documents, as_json, lambda rows: tables.table(heads, ([row[c] for c in COLUMNS] for row in rows)))
