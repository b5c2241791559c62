"""`pull`: mirror one model now."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import LONG_SECONDS, errand
from axomsync.cli.published import print_published, wait_until_published


@click.command()
@config_option
@json_option
@click.argument("model")
def pull(config_file: str | None, as_json: bool, model: str) -> None:
    """Mirror MODEL (name, name/version or id) now, even if the selection leaves it out, and print its path."""
    from axomsync.cli.progress import show_downloads

    loaded = load(config_file, "state", "mirror")
    with show_downloads(loaded):
        answer = errand(loaded, "pull", model, patience=LONG_SECONDS)
    print_published(wait_until_published(loaded, answer["id"], 0.0), as_json)
