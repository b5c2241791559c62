"""The verbs that say how things stand here: `status`, `uploads`."""

import click

from axomsync.cli.context import config_option, json_option, load, open_ledger, status_of
from axomsync.cli.output import print_documents, print_json


@click.command()
@config_option
@json_option
def status(config_file: str | None, as_json: bool) -> None:
    """One screen: agent, console, drop folder, mirror, transfers, problems."""
    from axomsync import tables

    document = status_of(load(config_file))
    if as_json:
        print_json(document)
        return
    screen = tables.screen()
    for part in tables.status(document):
        screen.print(part)


@click.command()
@config_option
@json_option
def uploads(config_file: str | None, as_json: bool) -> None:
    """Every file ever taken from the drop folder."""
    from axomsync import tables
    from axomsync.report import upload_document

    with open_ledger(load(config_file)) as ledger:
        shards = ledger.all_shards() if ledger else {}
        documents = [upload_document(upload, shards.get(upload.id, ())) for upload in ledger.uploads()] if ledger else []
    print_documents(documents, as_json, tables.uploads)
