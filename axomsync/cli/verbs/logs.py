"""`logs`: what the agent has logged, wherever that is: the journal of its unit, or the file that its errors go to.

Failures handled: a journal that the caller may not read, no journal, no unit and no agent, a log that goes to a terminal.
"""

import sys

import click

from axomsync.cli.common import MOST_SHOWN, config_option, load
from axomsync.cli.times import time_of


@click.command()
@config_option
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option("--since", metavar="TIME", help="Show only lines since then: 2h, 7d, 2027-01-31 or 2027-01-31T08:00.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0, max=MOST_SHOWN),
    metavar="N",
    help="Show only the last N lines; 200 without --since.",
)
def logs(config_file: str | None, follow: bool, since: str | None, lines: int | None) -> None:
    """Print what the agent has logged: from the journal of its unit, or from its log file."""
    from axomsync.ops.log_sources import Wanted, source_of

    begin = None if since is None else time_of("--since", since)
    wanted = Wanted(begin, lines if lines is not None or since is not None else 200, follow)
    if code := source_of(load(config_file, "state")).show(wanted):
        sys.exit(code)
