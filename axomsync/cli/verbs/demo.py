"""`demo`: the tour against an embedded sandbox."""

import sys

import click

from axomsync.cli.extras import sandbox_packages


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running afterwards.")
def demo(keep: bool) -> None:
    """Run a tour against an embedded sandbox: upload, download, crash, resume."""
    with sandbox_packages():
        from axomsync.sandbox.demo.tour import tour
    sys.exit(tour(keep=keep))
