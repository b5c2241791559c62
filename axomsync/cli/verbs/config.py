"""`config check` and `config show`: the configuration."""

import os

import click

from axomsync.cli.common import ca_file_of, config_option, json_option, load
from axomsync.cli.output import print_documents, print_json


@click.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@config_option
@json_option
def check(config_file: str | None, as_json: bool) -> None:
    """Validate the configuration: every error at once, with its key and line."""
    from axomsync.config import misspelt
    from axomsync.status.documents import configuration_document
    from axomsync.transport.authorities import tls_context
    from axomsync.transport.proxies import Proxies

    loaded = load(config_file)
    tls_context(ca_file_of(loaded))
    remarks = [*misspelt(os.environ), *Proxies.of(os.environ).warnings]
    if as_json:
        print_json(configuration_document(loaded.path, remarks))
        return
    for line in remarks:
        click.echo(line)
    click.echo(f"{loaded.path}: good")


@config.command()
@config_option
@json_option
def show(config_file: str | None, as_json: bool) -> None:
    """Show the effective values, and the origin of each."""
    from axomsync.cli import tables
    from axomsync.config import as_toml, effective

    rows = effective(load(config_file))
    heads = ("KEY", "VALUE", "FROM")
    print_documents(
        rows, as_json, lambda rows: tables.table(heads, ((r["key"], as_toml(r["value"]), r["from"]) for r in rows))
    )
