"""`run`: the agent in the foreground.

Failures handled: a signal while still starting, a state folder that the agent may not use (a service manager must not start
it again until a person has acted).
"""

from pathlib import Path

import click

from axomsync.cli.common import as_owner, config_option, load_and_log
from axomsync.cli.early_signals import end_at_a_signal
from axomsync.core.confinement import hidden
from axomsync.core.errors import BadConfig, Denied


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the agent in the foreground, as systemd does."""
    end_at_a_signal(lambda _: 0)
    from axomsync.agent.agent import Agent, exit_now

    loaded = load_and_log(config_file)
    try:
        agent = Agent(loaded, as_owner(loaded))
    except Denied as denied:
        if _is_missing(loaded.settings.state.folder):
            raise
        raise BadConfig(f"{denied}; then start the agent again") from None
    exit_now(agent.run())


def _is_missing(folder: Path) -> bool:
    """Return True if the folder is not there and may appear by itself: its disk may not be mounted yet."""
    try:
        folder.stat()
    except FileNotFoundError:
        return hidden(str(folder), written=False) is None
    except OSError:
        return False
    return False
