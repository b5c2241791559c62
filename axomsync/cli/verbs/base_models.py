"""`base-models`: the console's base models."""

import click

from axomsync.cli.common import config_option, console_of, json_option, load
from axomsync.cli.output import print_documents

COLUMNS = ("family", "name", "version", "params", "precision", "id")


@click.command("base-models")
@config_option
@json_option
def base_models(config_file: str | None, as_json: bool) -> None:
    """List the console's base models."""
    from axomsync.cli import tables
    from axomsync.status.documents import base_model_document

    documents = [base_model_document(model) for model in console_of(load(config_file)).base_models()]
    heads = [column.upper() for column in COLUMNS]
    print_documents(documents, as_json, lambda rows: tables.table(heads, ([row[c] for c in COLUMNS] for row in rows)))
