"""`sync`: one pass, then the end."""

import sys

import click

from axomsync.cli.common import as_owner, config_option, json_option, load_and_log, status_of
from axomsync.cli.early_signals import end_at_a_signal
from axomsync.cli.output import print_json
from axomsync.core.errors import interrupted_by


@click.command()
@config_option
@json_option
def sync(config_file: str | None, as_json: bool) -> None:
    """Make one pass, then exit: upload every settled file, mirror every ready model."""
    end_at_a_signal(interrupted_by)
    from axomsync.agent import one_shot
    from axomsync.agent.agent import Agent, exit_now

    loaded = load_and_log(config_file)
    code = one_shot.sync(Agent(loaded, as_owner(loaded)))
    if as_json:
        print_json(status_of(loaded))
    sys.stdout.flush()
    exit_now(code)
