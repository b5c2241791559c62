"""The verbs that say how things stand here: `status`, `uploads`, `explain`."""

import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from axomsync.cli.context import Among, config_option, json_option, load, open_ledger, status_of, uploads_of
from axomsync.cli.output import print_csv, print_documents, print_json, print_json_line
from axomsync.core.errors import Rejected
from axomsync.core.records import UploadState
from axomsync.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from axomsync.config import Loaded

WATCH_SECONDS = 1.0
STATE = click.Choice([str(state) for state in UploadState])


@click.command()
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C; with --json a line each.")
def status(config_file: str | None, as_json: bool, watch: bool) -> None:
    """One screen: agent, console, drop folder, mirror, transfers, problems."""
    loaded = load(config_file)
    if watch:
        _watch(loaded, as_json)
    elif as_json:
        print_json(status_of(loaded))
    else:
        _show(loaded)


@click.command()
@config_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a line for each object in storage.")
@click.option("--state", "states", multiple=True, type=STATE, help="Show only this state; can be given several times.")
@click.option("--since", metavar="TIME", help="Only what has changed since then: 2h, 7d, 2027-01-31 or 2027-01-31T08:00.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show only the newest N.")
def uploads(
    config_file: str | None,
    as_json: bool,
    as_csv: bool,
    states: tuple[str, ...],
    since: str | None,
    limit: int | None,
) -> None:
    """Every file ever taken from the drop folder, by sub-folder."""
    from axomsync.cli import advice, tables
    from axomsync.drop import handover

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude one another")
    gc.disable()  # of a hundred thousand rows none is garbage, and looking for some takes as long as reading them
    loaded = load(config_file)
    among = Among(frozenset(map(UploadState, states)), None if since is None else _time_of(since), limit)
    documents = uploads_of(loaded, among)
    if as_csv:
        print_csv(handover.COLUMNS, handover.objects(documents))
    else:
        print_documents(
            documents, as_json, tables.uploads, lambda rows: advice.of_uploads(rows, loaded.settings.drop.folder)
        )


def _time_of(told: str) -> float:
    """A duration back from now, or a local date or time, as seconds since the epoch."""
    from datetime import datetime

    from axomsync.config.units import parse_duration

    with suppress(ValueError):
        return time.time() - parse_duration(told)
    try:
        return datetime.fromisoformat(told).timestamp()
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"--since {told}: neither a duration nor a time; write it like 2h, 7d, 2027-01-31 or 2027-01-31T08:00"
        ) from None


@click.command()
@config_option
@json_option
@click.argument("target")
def explain(config_file: str | None, as_json: bool, target: str) -> None:
    """Where TARGET (a path, a model or an id) stands, why it is not further, when it is tried next."""
    from axomsync.cli import tables
    from axomsync.drop.rules import Selection
    from axomsync.status.explain import explain as explain_targets
    from axomsync.status.explain import explain_file
    from axomsync.status.targets import find

    loaded = load(config_file)
    settings, agent = loaded.settings, status_of(loaded)["agent"]
    drop = settings.drop
    file = explain_file(drop.folder, target, Selection(drop.include, drop.exclude, os.fsencode(drop.done_marker)))
    with open_ledger(loaded) as ledger:
        if ledger is None and file is None:
            raise Rejected(f"{printable(target)}: nothing is known yet, since no agent has run; `axomsync run` begins")
        documents = []
        if ledger is not None:
            try:
                targets = find(ledger, target, drop.folder, settings.mirror.folder)
                documents = explain_targets(ledger, targets, running=agent["running"], paused=agent["paused"])
            except Rejected:
                if file is None:
                    raise
    if file is not None and (file["facts"]["rule"] is not None or not documents):
        documents.insert(0, file)
    if as_json:
        print_json(documents)
        return
    for document in documents:
        for line in tables.explanation(document):
            tables.screen().print(line)


def _show(loaded: "Loaded") -> None:
    from axomsync.cli import tables

    screen = tables.screen()
    for part in _parts(loaded):
        screen.print(part)


def _parts(loaded: "Loaded") -> list[Any]:
    """What is drawn of `status`: how things stand, and what to do about it."""
    from axomsync.cli import advice, tables

    document = status_of(loaded)
    return [*tables.status(document), *tables.steps(advice.of_status(document))]


def _watch(loaded: "Loaded", as_json: bool) -> None:
    """Until Ctrl-C, which is how one leaves it and no failure."""
    from axomsync.cli.tables import screen

    with suppress(KeyboardInterrupt):
        if as_json:
            _repeat(lambda: print_json_line(status_of(loaded)))
        else:
            _watch_on(screen(), loaded)


def _watch_on(screen: "Console", loaded: "Loaded") -> None:
    from rich.live import Live

    from axomsync.cli import tables

    if not screen.is_terminal or screen.is_dumb_terminal:  # nothing that was written can be written over
        _repeat(lambda: _show(loaded))
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        _repeat(lambda: live.update(tables.fitting(_parts(loaded), screen), refresh=True))


def _repeat(show: Callable[[], None]) -> NoReturn:
    while True:
        show()
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)
