"""`run`: the agent in the foreground."""

import click

from axomsync.cli.common import as_owner, config_option, load_and_log
from axomsync.cli.early_signals import end_at_a_signal


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the agent in the foreground, as systemd does."""
    end_at_a_signal(lambda _: 0)
    from axomsync.agent.agent import Agent, exit_now

    loaded = load_and_log(config_file)
    exit_now(Agent(loaded, as_owner(loaded)).run())
