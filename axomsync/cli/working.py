"""The verbs that transfer: `run` and `sync`.

Failures handled: a signal while still starting."""

import os
import sys

import click

from axomsync.cli.context import config_option, json_option, load_and_log, status_of
from axomsync.cli.output import print_json


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the agent in the foreground (what systemd starts)."""
    _stop_at_a_signal()
    from axomsync.agent import Agent, exit_now

    exit_now(Agent(load_and_log(config_file), os.environ).run())


@click.command()
@config_option
@json_option
def sync(config_file: str | None, as_json: bool) -> None:
    """One pass, then exit: upload every settled file, mirror every ready model."""
    _stop_at_a_signal()
    from axomsync.agent import Agent, exit_now

    loaded = load_and_log(config_file)
    agent = Agent(loaded, os.environ)
    code = agent.sync()
    if as_json:
        print_json(status_of(loaded))
    sys.stdout.flush()
    exit_now(code)


def _stop_at_a_signal() -> None:
    """Until the agent listens itself: a stop that comes while it is still starting is a clean stop too."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
