"""The verbs that steer a running agent: `pause`, `resume`, `poll`, `retry`, `forget`.

Failures handled: no agent runs, or has ever run (what was asked takes effect when one starts), an agent that does not
answer in time.
"""

import time
from typing import TYPE_CHECKING, Any

import click

from axomsync.cli.context import config_option, json_option, load
from axomsync.cli.output import print_json
from axomsync.core.errors import AxomsyncError, LocalFault

if TYPE_CHECKING:
    from axomsync.config import Loaded

ANSWER_SECONDS = 10.0


@click.command()
@config_option
@json_option
@click.option("--for", "period", metavar="DURATION", help="Go on by itself after so long, such as 2h.")
def pause(config_file: str | None, as_json: bool, period: str | None) -> None:
    """Begin no transfer, and end those under way, keeping their bytes."""
    from axomsync.config.units import parse_duration

    try:
        parameters = {} if period is None else {"seconds": parse_duration(period)}
    except ValueError as error:
        raise click.UsageError(f"--for {period}: {error}") from None
    answer = steer(load(config_file), "pause", None, parameters)
    _tell(answer, as_json, lambda a: f"paused until {a['paused_until'] or '`axomsync resume`'}")


@click.command()
@config_option
@json_option
def resume(config_file: str | None, as_json: bool) -> None:
    """End a pause."""
    _tell(steer(load(config_file), "resume"), as_json, lambda _: "goes on")


@click.command()
@config_option
@json_option
def poll(config_file: str | None, as_json: bool) -> None:
    """Ask the console and look at the drop folder now."""
    _tell(steer(load(config_file), "poll"), as_json, lambda _: "looks now")


@click.command()
@config_option
@json_option
@click.argument("target", required=False)
def retry(config_file: str | None, as_json: bool, target: str | None) -> None:
    """Try now what waits or was parked: TARGET (a file, a model or an id), or everything."""
    _tell(steer(load(config_file), "retry", target), as_json, lambda a: _listed("tries now", a["retried"]))


@click.command()
@config_option
@json_option
@click.argument("target")
def forget(config_file: str | None, as_json: bool, target: str) -> None:
    """Forget TARGET, with all of the same content: whatever turns up again is new. Removes no file."""
    _tell(steer(load(config_file), "forget", target), as_json, lambda a: _listed("forgot", a["forgotten"]))


def steer(
    loaded: "Loaded",
    verb: str,
    argument: str | None = None,
    parameters: dict[str, Any] | None = None,
    patience: float = ANSWER_SECONDS,
) -> Any:
    """Ask the running agent for something; returns its answer, or None when no agent runs.

    Raises what the agent raised, `Transient` when there is no answer after `patience` seconds, and `LocalFault` when the
    ledger can't be written.
    """
    from axomsync.agent.requests import ask, wait_for
    from axomsync.core.errors import Transient
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import Ledger, Reader, UnreadyLedger, act_as_owner, holder

    folder = loaded.settings.state.folder
    ledger = folder / LEDGER_FILE
    act_as_owner(folder)
    try:
        request = ask(ledger, verb, argument, parameters)
    except UnreadyLedger:
        if holder(folder) is not None:
            raise
        try:
            Ledger(folder, time.time).close()  # as the next agent would make it, or bring it up to date
        except LocalFault as fault:
            raise LocalFault(
                f"no agent has started yet, and no word can be left for it: {fault}; or start it first"
            ) from None
        request = ask(ledger, verb, argument, parameters)
    if holder(folder) is None:
        return None
    reader = Reader(ledger)
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


def _tell(answer: Any, as_json: bool, line: Any) -> None:
    if as_json:
        print_json({"running": answer is not None, **(answer or {})})
    elif answer is None:
        click.echo("no agent runs; this takes effect when one starts, or at the next `axomsync sync`")
    else:
        click.echo(line(answer))


def _listed(what: str, names: list[str]) -> str:
    return "\n".join(f"{what}: {name}" for name in names) or "nothing waits"
