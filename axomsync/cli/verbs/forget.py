"""`forget`: remove a file or a model from the ledger."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import named, print_answer, steer


@click.command()
@config_option
@json_option
@click.argument("target")
def forget(config_file: str | None, as_json: bool, target: str) -> None:
    """Forget TARGET and every upload of the same content: if they turn up again, they are new. Removes no file."""
    print_answer(steer(load(config_file, "state"), "forget", target), as_json, lambda a: named("forgot", a["forgotten"]))
