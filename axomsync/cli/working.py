"""The verbs that transfer: `run`, `sync` and `push`.

Failures handled: a signal while still starting, an agent that runs already (`push` leaves the work to it), a state folder
that the agent may not use (a service manager must not start it again until a person has acted)."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from axomsync.cli.context import Among, as_owner, config_option, json_option, load_and_log, status_of, uploads_of
from axomsync.cli.output import print_documents, print_json
from axomsync.core.confinement import hidden
from axomsync.core.errors import AlreadyRunning, BadConfig, Denied, Interrupted, LocalFault, Transient, interrupted_by

if TYPE_CHECKING:
    from axomsync.cli.progress import Bars

ANSWER_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.25


@click.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the agent in the foreground (what systemd starts)."""
    _end_at_a_signal(lambda _: 0)
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
    """Whether it may appear by itself, as its disk may not be mounted yet."""
    try:
        folder.stat()
    except FileNotFoundError:
        return hidden(str(folder), written=False) is None
    except OSError:
        return False
    return False


@click.command()
@config_option
@json_option
def sync(config_file: str | None, as_json: bool) -> None:
    """One pass, then exit: upload every settled file, mirror every ready model."""
    _end_at_a_signal(interrupted_by)
    from axomsync.agent import one_shot
    from axomsync.agent.agent import Agent, exit_now

    loaded = load_and_log(config_file)
    code = one_shot.sync(Agent(loaded, as_owner(loaded)))
    if as_json:
        print_json(status_of(loaded))
    sys.stdout.flush()
    exit_now(code)


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
    ledger = loaded.settings.state.folder / LEDGER_FILE
    try:
        agent = Agent(loaded, as_owner(loaded))
    except AlreadyRunning:
        with Bars(Reader(ledger)) as bars:
            rows = _push_by_agent(ledger, files, bars)
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


def _push_by_agent(ledger: Path, files: Sequence[Path], bars: "Bars") -> list[int]:
    """Have the running agent upload them, and wait until it has."""
    from axomsync.agent.requests import ask, wait_for
    from axomsync.ledger import Reader

    reader = Reader(ledger)
    request = ask(ledger, "push", None, {"paths": [os.path.realpath(file) for file in files]})
    outcome = wait_for(reader, request, ANSWER_SECONDS)
    if outcome is None:
        raise Transient("the agent does not answer; what was asked is done when it does")
    if outcome.error:
        failure = LocalFault(outcome.error)
        failure.exit_code = outcome.exit_code
        raise failure
    rows: list[int] = outcome.answer
    while bars.show(rows):
        time.sleep(LOOK_AGAIN_SECONDS)
    return rows


def _end_at_a_signal(code: Callable[[int], int]) -> None:
    """Until the agent listens itself: a stop that comes while it is still starting is a clean one too."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(code(number)))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
