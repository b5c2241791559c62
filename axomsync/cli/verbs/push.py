"""`push`: upload files now, whether or not an agent runs.

Failures handled: an agent that runs already (it does the work), one that ends before it has answered (`Transient`), and one
that ends after that (the next one goes on with the files, or this process does).
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from axomsync.cli.common import Among, as_owner, config_option, json_option, load_and_log, uploads_of
from axomsync.cli.output import print_documents
from axomsync.core.errors import AlreadyRunning, Interrupted, Transient

if TYPE_CHECKING:
    from axomsync.cli.progress import Bars
    from axomsync.config import Loaded

ANSWER_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.25


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@config_option
@json_option
def push(files: tuple[Path, ...], config_file: str | None, as_json: bool) -> None:
    """Upload these files now, whether or not an agent runs. They stay where they are."""
    from axomsync.agent import one_shot
    from axomsync.agent.agent import Agent
    from axomsync.cli import tables
    from axomsync.cli.progress import Bars
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.core.records import UploadState
    from axomsync.drop.settle import FINISHED
    from axomsync.ledger import Reader

    loaded = load_and_log(config_file, level="warning")
    ended_by: int | None = None
    ledger, environ = loaded.settings.state.folder / LEDGER_FILE, as_owner(loaded)
    rows: list[int] | None = None
    while rows is None:
        try:
            agent = Agent(loaded, environ)
        except AlreadyRunning:
            with Bars(Reader(ledger)) as bars:
                rows = _push_by_agent(loaded, files, bars)
        else:
            with Bars(Reader(ledger)) as bars:
                rows = one_shot.push(agent, files, bars.show)
            ended_by = agent.ended_by
    documents = uploads_of(loaded, Among(ids=rows))
    print_documents(documents, as_json, tables.uploads)
    states = {document["state"] for document in documents}
    if ended_by is not None and states - FINISHED:
        raise Interrupted(ended_by)
    if not documents or states & {UploadState.REJECTED, UploadState.FAILED, UploadState.HELD}:
        sys.exit(1)
    if states - {UploadState.UPLOADED, UploadState.DUPLICATE}:
        sys.exit(Transient.exit_code)


def _push_by_agent(loaded: "Loaded", files: Sequence[Path], bars: "Bars") -> list[int] | None:
    """Have the running agent upload these files, and wait until it has; None when it ended before, and no other began."""
    from axomsync.cli.control import RESTART_SECONDS, steer
    from axomsync.ledger import holder

    paths = [os.path.realpath(file) for file in files]
    rows: list[int] | None = steer(loaded, "push", None, {"paths": paths}, ANSWER_SECONDS)
    if rows is None:
        raise Transient("the agent has just ended; the files are uploaded when it starts again")
    held_at = time.monotonic()
    while bars.show(rows):
        if holder(loaded.settings.state.folder) is not None:
            held_at = time.monotonic()
        elif time.monotonic() - held_at >= RESTART_SECONDS:
            return None
        time.sleep(LOOK_AGAIN_SECONDS)
    return rows
