"""`status`: one screen, or a live one, or a line for each agent of the machine."""

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from axomsync.cli.common import config_option, json_option, load, parked_in, status_of
from axomsync.cli.output import print_documents, print_json, print_json_line
from axomsync.core.errors import Bug
from axomsync.core.oserrors import local_fault, unforeseen

if TYPE_CHECKING:
    from rich.console import Console

    from axomsync.config import Loaded

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0


@click.command()
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C; with --json print a line each time.")
@click.option("--all", "everyone", is_flag=True, help="A line for each agent of this machine.")
def status(config_file: str | None, as_json: bool, watch: bool, everyone: bool) -> None:
    """Show one screen: agent, console, drop folder, mirror, transfers, problems."""
    if everyone and watch:
        raise click.UsageError("--all and --watch don't go together; try: watch axomsync status --all")
    if everyone:
        _show_all(config_file, as_json)
        return
    loaded = load(config_file)
    if watch:
        _watch(loaded, as_json)
    elif as_json:
        print_json(status_of(loaded))
    else:
        _show(loaded)


def _show_all(config_file: str | None, as_json: bool) -> None:
    """Show every agent; one whose configuration or ledger can't be used has its error in its line, and the exit code."""
    from axomsync import config
    from axomsync.cli import tables

    documents, worst = [], 0
    for path, loaded in config.everyone(config_file, os.environ).items():
        document: dict[str, Any] = {"config": str(path), "instance": config.instance_of(path, os.environ), "error": None}
        try:
            if not isinstance(loaded, config.Loaded):
                raise loaded
            document |= status_of(loaded)
        except Exception as failure:  # the others are shown
            fault = local_fault(failure) if isinstance(failure, OSError) else unforeseen(failure)
            if isinstance(fault, Bug):
                log.exception("%s: its state could not be found out", path)
            document["error"], worst = str(fault), max(worst, fault.exit_code)
        documents.append(document)
    print_documents(documents, as_json, tables.agents)
    if worst:
        sys.exit(worst)


def _show(loaded: "Loaded") -> None:
    from axomsync.cli import tables

    screen = tables.screen()
    for part in _parts(loaded):
        screen.print(part)


def _parts(loaded: "Loaded") -> list[Any]:
    """Return the parts of the screen: the state of everything, and the next steps."""
    from axomsync.cli import advice, tables

    document = status_of(loaded)
    return [
        *tables.status(document),
        *tables.steps(advice.of_status(document, parked_in(loaded), loaded.settings.drop.done_marker)),
    ]


def _watch(loaded: "Loaded", as_json: bool) -> None:
    """Show it again and again until Ctrl-C, which is no failure."""
    from axomsync.cli.tables import screen

    with suppress(KeyboardInterrupt):
        if as_json:
            _repeat(lambda: print_json_line(status_of(loaded)))
        else:
            _watch_on(screen(), loaded)


def _watch_on(screen: "Console", loaded: "Loaded") -> None:
    from rich.live import Live

    from axomsync.cli import tables

    if not screen.is_terminal or screen.is_dumb_terminal:  # printed lines can't be written over
        _repeat(lambda: _show(loaded))
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(tables.fitting(_parts(loaded), screen), refresh=True))


def _repeat(show: Callable[[], None]) -> NoReturn:
    while True:
        show()
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
