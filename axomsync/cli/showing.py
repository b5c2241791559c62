"""The verbs that say how things stand here: `status`, `uploads`."""

import click

from axomsync.cli.context import config_option, json_option, load, status_of, uploads_of
from axomsync.cli.output import print_csv, print_documents, print_json


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
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a line for each object in storage.")
def uploads(config_file: str | None, as_json: bool, as_csv: bool) -> None:
    """Every file ever taken from the drop folder, by sub-folder."""
    from axomsync import tables
    from axomsync.drop import handover

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude one another")
    documents = uploads_of(load(config_file))
    if as_csv:
        print_csv(handover.COLUMNS, handover.objects(documents))
    else:
        print_documents(documents, as_json, tables.uploads)
