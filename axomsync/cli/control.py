"""The only way to have an agent do something: a request in the ledger, and its answer.

Failures handled: no agent runs, or has ever run (the request takes effect when one starts), an agent that does not answer in
time or ends meanwhile (`Transient`; a request that it has not begun is taken back, or it is told that this failed), an error
of the agent (raised here, with its exit code).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from axomsync.cli.output import print_json
from axomsync.core.errors import AlreadyRunning, AxomsyncError, LocalFault, Transient

if TYPE_CHECKING:
    from pathlib import Path

    from axomsync.agent.requests import Outcome
    from axomsync.config import Loaded

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 1.0
START_SECONDS = 3.0  # an agent that starts has its ledger by then
RESTART_SECONDS = 15.0  # a service manager has started an agent again by then (RestartSec=5, and its loading)
LONG_SECONDS = 7 * 86400.0  # as long as a terabyte over a slow line may take


class _NotBegun(Transient):
    """No agent has begun with the request in time."""


def steer(
    loaded: "Loaded",
    verb: str,
    argument: str | None = None,
    parameters: dict[str, Any] | None = None,
    patience: float = ANSWER_SECONDS,
) -> Any:
    """Ask the running agent to do `verb`. Returns its answer, or None when no agent runs or it ends meanwhile.

    Raises the agent's error, `Transient` when there is no answer after `patience` seconds, and `LocalFault` when the
    ledger can't be written.
    """
    from axomsync.ledger import act_as_owner

    folder = loaded.settings.state.folder
    act_as_owner(folder)
    outcome = _wait_or_withdraw(folder, _ask(folder, verb, argument, parameters), patience)
    return None if outcome is None else _answer(outcome)


def _wait_or_withdraw(folder: "Path", request: int, patience: float) -> "Outcome | None":
    """Do `_wait`. Who gives up waiting wants it no more: it is taken back. What an agent has begun goes on.

    Raises `Transient`, which tells whether it was taken back.
    """
    from axomsync.agent.requests import withdraw
    from axomsync.core.paths import LEDGER_FILE

    try:
        return _wait(folder, request, patience)
    except _NotBegun as late:
        try:
            is_taken_back = withdraw(folder / LEDGER_FILE, request)
        except LocalFault as fault:
            raise Transient(f"{late}; it can't be taken back, so it may still be done when one begins: {fault}") from None
        if not is_taken_back:
            raise Transient(_unended(patience)) from None
        raise Transient(
            f"{late}, so it was taken back: `axomsync status` says what the agent does; and a command such as `pull`, which "
            "works without one, takes no requests"
        ) from None
    except BaseException:
        with suppress(LocalFault):
            withdraw(folder / LEDGER_FILE, request)
        raise


def _wait(folder: "Path", request: int, patience: float) -> "Outcome | None":
    """Wait for the outcome of a request; None when no agent runs, or none any more. Raises `Transient`.

    An agent that has begun with it and ends is perhaps being restarted: the next one goes on with it.
    """
    from axomsync.agent.requests import wait_for
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import Reader, holder

    deadline = time.monotonic() + patience
    reader = Reader(folder / LEDGER_FILE)
    try:
        begun, seen = False, time.monotonic()
        while (held := holder(folder) is not None) or (begun and time.monotonic() - seen < RESTART_SECONDS):
            seen = time.monotonic() if held else seen
            begun = begun or ((row := reader.request(request)) is not None and row["begun_at"] is not None)
            left = deadline - time.monotonic()
            if (outcome := wait_for(reader, request, min(left, LOOK_SECONDS))) is not None:
                return outcome
            if left <= 0 and begun:
                raise Transient(_unended(patience))
            if left <= 0:
                raise _NotBegun(f"no agent has begun with it within {patience:g} s")
        return wait_for(reader, request, 0.0)  # its last answer
    finally:
        reader.close()


def _unended(patience: float) -> str:
    return f"the agent has begun with it, and not ended within {patience:g} s; `axomsync status` says what it does"


def _answer(outcome: "Outcome") -> Any:
    """The answer of an agent; raises its error."""
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

    ledger, deadline = folder / LEDGER_FILE, time.monotonic() + START_SECONDS
    while True:
        try:
            return ask(ledger, verb, argument, parameters)
        except UnreadyLedger:
            if holder(folder) is None:
                break
            if time.monotonic() >= deadline:
                raise
            time.sleep(LOOK_SECONDS / 10)  # one that has just started makes it
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
) -> Any:
    """Have the running agent do `verb` (see `Commands`), or do it here when no agent runs; returns the answer.

    What holds the state folder may be another command that does such work: it takes no requests, but it ends. Raises the
    errors of `verb`, and `Transient` when there is no answer for `patience` seconds.
    """
    from axomsync.agent.agent import Agent
    from axomsync.agent.one_shot import errand as do_now
    from axomsync.agent.requests import withdraw
    from axomsync.cli.common import as_owner
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import holder
    from axomsync.ops import logs

    environ, folder = as_owner(loaded), loaded.settings.state.folder
    while True:
        if holder(folder) is not None:
            request = _ask(folder, verb, argument, parameters)
            while (outcome := _wait_or_withdraw(folder, request, patience)) is None:  # that agent is gone
                # A new one may have begun with it: then it is waited for, and not done here a second time.
                if withdraw(folder / LEDGER_FILE, request) or holder(folder) is None:
                    break
            if outcome is not None:
                return _answer(outcome)
        try:
            agent = Agent(loaded, environ)
        except AlreadyRunning:
            continue  # another one was faster
        logs.set_up(loaded.settings.log.format, "warning")
        return do_now(agent, verb, argument, parameters or {})


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
