"""`version`: the version of this program."""

import click

from axomsync import __version__
from axomsync.cli.common import json_option
from axomsync.cli.output import print_json


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of this program."""
    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(f"axomsync, version {__version__}")
