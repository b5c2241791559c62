"""`poll`: ask the console now."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import print_answer, steer


@click.command()
@config_option
@json_option
def poll(config_file: str | None, as_json: bool) -> None:
    """Make the agent ask the console for models and scan the drop folder now."""
    print_answer(steer(load(config_file, "state"), "poll"), as_json, lambda _: "the agent looks now")
