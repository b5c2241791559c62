"""The only way to have an agent do something: a request in the ledger, and its answer.

Failures handled: no agent runs, or has ever run (the request takes effect when one starts), an agent that does not answer in
time or ends meanwhile (`Transient`), an error of the agent (raised here, with its exit code).
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from axomsync.cli.output import print_json
from axomsync.core.errors import AxomsyncError, LocalFault

if TYPE_CHECKING:
    from pathlib import Path

    from axomsync.config import Loaded

ANSWER_SECONDS = 10.0
LONG_SECONDS = 7 * 86400.0  # as long as a terabyte over a slow line may take


def steer(
    loaded: "Loaded",
    verb: str,
    argument: str | None = None,
    parameters: dict[str, Any] | None = None,
    patience: float = ANSWER_SECONDS,
) -> Any:
    """Ask the running agent to do `verb`. Returns its answer, or None when no agent runs.

    Raises the agent's error, `Transient` when there is no answer after `patience` seconds, and `LocalFault` when the
    ledger can't be written.
    """
    from axomsync.agent.requests import wait_for
    from axomsync.core.errors import Transient
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import Reader, act_as_owner, holder

    folder = loaded.settings.state.folder
    act_as_owner(folder)
    request = _ask(folder, verb, argument, parameters)
    if holder(folder) is None:
        return None
    reader = Reader(folder / LEDGER_FILE)
    try:
        outcome = wait_for(reader, request, patience)
    finally:
        reader.close()
    if outcome is None:
        raise Transient(f"the agent has not answered within {patience:g} s; `axomsync status` says what it does")
    if outcome.error is not None:
        failure = AxomsyncError(outcome.error)
        failure.exit_code = outcome.exit_code
        raise failure
    return outcome.answer


def _ask(folder: "Path", verb: str, argument: str | None, parameters: dict[str, Any] | None) -> int:
    """Put a request into the ledger, making one if no agent has ever run. Returns its id. Raises `LocalFault`."""
    from axomsync.agent.requests import ask
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import Ledger, UnreadyLedger, holder

    ledger = folder / LEDGER_FILE
    try:
        return ask(ledger, verb, argument, parameters)
    except UnreadyLedger:
        if holder(folder) is not None:
            raise
        try:
            Ledger(folder, time.time).close()  # as the next agent would make it, or bring it up to date
        except LocalFault as fault:
            raise LocalFault(
                f"the request can't be queued, as no agent has run here yet: {fault}; or start the agent first"
            ) from None
        return ask(ledger, verb, argument, parameters)


def errand(
    loaded: "Loaded",
    verb: str,
    argument: str | None,
    parameters: dict[str, Any] | None = None,
    *,
    patience: float,
) -> dict[str, Any]:
    """Have the running agent do `verb` (see `Commands`), or do it here when no agent runs; returns the answer.

    Raises the errors of `verb`, and `Transient` when a running agent gives no answer for `patience` seconds.
    """
    from axomsync.agent.agent import Agent
    from axomsync.agent.one_shot import errand as do_now
    from axomsync.cli.common import as_owner
    from axomsync.ledger import holder
    from axomsync.ops import logs

    environ = as_owner(loaded)
    if holder(loaded.settings.state.folder) is not None:
        answer: dict[str, Any] | None = steer(loaded, verb, argument, parameters, patience)
        if answer is not None:
            return answer
    logs.set_up(loaded.settings.log.format, "warning")
    return do_now(Agent(loaded, environ), verb, argument, parameters or {})


def print_answer(answer: dict[str, Any] | None, as_json: bool, line: Callable[[dict[str, Any]], str]) -> None:
    """Print the answer of `steer`: as JSON, or as the text that `line` makes of it."""
    from axomsync.status.documents import answer_document

    if as_json:
        print_json(answer_document(answer))
    elif answer is None:
        click.echo("no agent runs; this takes effect when one starts, or at the next `axomsync sync`")
    else:
        click.echo(line(answer))


def named(done: str, names: list[str]) -> str:
    """Return one line for each name, such as `forgot: a.jsonl`."""
    return "\n".join(f"{done}: {name}" for name in names) or "nothing waits"
