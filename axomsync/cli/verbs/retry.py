"""`retry`: try again now."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import named, print_answer, steer


@click.command()
@config_option
@json_option
@click.argument("target", required=False)
def retry(config_file: str | None, as_json: bool, target: str | None) -> None:
    """Retry now: TARGET (a file, a model or an id), or everything that waits or is parked."""
    print_answer(steer(load(config_file, "state"), "retry", target), as_json, lambda a: named("tries now", a["retried"]))
