"""`wait`: block until a model is published."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.published import print_published, wait_until_published


@click.command()
@config_option
@json_option
@click.argument("model")
@click.option("--timeout", metavar="DURATION", help="Give up after so long, such as 10m, with exit code 75.")
def wait(config_file: str | None, as_json: bool, model: str, timeout: str | None) -> None:
    """Block until MODEL (name, name/version or id) is published, and print its path."""
    from axomsync.config.units import parse_duration

    try:
        seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout {timeout}: {error}") from None
    print_published(wait_until_published(load(config_file, "state", "mirror"), model, seconds), as_json)
