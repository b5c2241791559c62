"""`uploads`: every file ever taken from the drop folder."""

import gc
from functools import partial

import click

from axomsync.cli.common import MOST_SHOWN, Among, config_option, json_option, load, uploads_of
from axomsync.cli.output import print_csv, print_documents
from axomsync.cli.times import time_of
from axomsync.core.records import UploadState

STATE = click.Choice([str(state) for state in UploadState])


@click.command()
@config_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a line for each object in storage.")
@click.option("--state", "states", multiple=True, type=STATE, help="Show only this state; can be given several times.")
@click.option("--since", metavar="TIME", help="Show only changes since then: 2h, 7d, 2027-01-31 or 2027-01-31T08:00.")
@click.option("--limit", type=click.IntRange(min=1, max=MOST_SHOWN), metavar="N", help="Show only the newest N.")
def uploads(
    config_file: str | None,
    as_json: bool,
    as_csv: bool,
    states: tuple[str, ...],
    since: str | None,
    limit: int | None,
) -> None:
    """List every file ever taken from the drop folder, by sub-folder."""
    from axomsync.cli import advice, tables
    from axomsync.drop import handover

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude one another")
    gc.disable()  # of a hundred thousand rows none is garbage, and looking for some takes as long as reading them
    loaded = load(config_file, "state")
    among = Among(frozenset(map(UploadState, states)), None if since is None else time_of("--since", since), limit)
    documents = uploads_of(loaded, among)
    if as_csv:
        print_csv(handover.COLUMNS, handover.objects(documents))
    else:
        drop, instance = loaded.settings.drop, loaded.settings.instance
        steps = partial(advice.of_uploads, drop=drop.folder, done_marker=drop.done_marker, instance=instance)
        print_documents(documents, as_json, tables.uploads, steps)
