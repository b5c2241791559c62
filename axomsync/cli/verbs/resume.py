"""`resume`: end a pause."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import print_answer, steer


@click.command()
@config_option
@json_option
def resume(config_file: str | None, as_json: bool) -> None:
    """End a pause."""
    print_answer(steer(load(config_file, "state"), "resume"), as_json, lambda _: "goes on")
