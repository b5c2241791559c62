"""One thing, then the end: one pass (`sync`), one command (`pull`, `prune`, …), or one push.

Failures handled: the failure of one direction (it sets the exit code; the other direction goes on), a failure after a
command (told; the command is done), a pause, a signal.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from axomsync.agent.agent import Agent
from axomsync.agent.guard import collect
from axomsync.agent.outcome import Undone, undone
from axomsync.agent.requests import Request
from axomsync.config import MirrorSettings
from axomsync.core.errors import AxomsyncError, Bug, Interrupted, LocalFault, Stopping, Transient, interrupted_by
from axomsync.ledger import Trouble, ledger_fault
from axomsync.runtime.problems import LEDGER

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
NO_MIRROR = MirrorSettings(enabled=False)
# With these, writes succeed, though late; what a lock has kept from being written shows in the rows.
BEARABLE = frozenset({Trouble.SLOW, Trouble.HELD, Trouble.LOCKED})


def sync(agent: Agent) -> int:
    """Run one pass of both directions; returns the exit code."""
    with agent:
        agent.begin(agent.settings, PATIENCE_SECONDS)
        before = agent.ledger.read.rejections()
        agent.steer()
        failures = {} if agent.pause.is_on else _pass(agent)
        interrupted = agent.ended
        agent.end_workers()
        left = [] if interrupted else _left(agent, failures, before)
        if agent.ended_by is not None:
            code = interrupted_by(agent.ended_by)
        elif agent.pause.is_on:
            log.warning("paused; run `axomsync resume` to end the pause")
            code = Transient.exit_code
        else:
            code = _told(left)
    return code or agent.exit_code


def _pass(agent: Agent) -> dict[str, AxomsyncError]:
    workers = agent.workers
    if workers.promotion is not None:
        collect("promotion", workers.promotion.look, {})  # what was moved before this pass
    failures = workers.begin_pass()
    while (workers.working or agent.is_asked) and not agent.ended:
        agent.tick()
        agent.steer()
        if agent.pause.is_on:
            workers.end()
    return failures | _follow_up(agent, agent.steer)


def _follow_up(agent: Agent, steer: Callable[[], None] = lambda: None) -> dict[str, AxomsyncError]:
    """Tell of moves and run hooks, unless a signal came; one that comes meanwhile ends that. Returns the failures."""
    if agent.ended:
        return {}
    failures = agent.workers.begin_follow_up()
    while (agent.workers.working or agent.is_asked) and not agent.ended:
        agent.tick()
        steer()
    return failures


def _left(agent: Agent, by_folder: Mapping[str, AxomsyncError], before: set[tuple[int, float]]) -> list[Undone]:
    """What the pass left undone. Failures become problems; rejections `before` the pass don't count."""
    failures = [
        (folder if isinstance(failure, LocalFault | Bug) else "console", failure) for folder, failure in by_folder.items()
    ]
    for subject, failure in failures:
        agent.problems.report(subject, str(failure))
    agent.watch.turn()  # report the ledger's problems before the end
    read, trouble = agent.ledger.read, agent.watch.told
    if trouble is not None and trouble not in BEARABLE:  # then what it says of uploads and models may be old
        failures.append((LEDGER, ledger_fault(agent.ledger.path, trouble)))
    try:
        rejected = bool(read.rejections() - before)
        return undone(failures, agent.problems.all(), read.uploads_in_drop(), read.models(), rejected=rejected)
    except LocalFault as fault:
        return [Undone(fault.exit_code, str(fault))]


def _told(left: Sequence[Undone]) -> int:
    """The exit code, told with its reason: perhaps an earlier pass told that, and this one had nothing new to say of it."""
    if not left:
        return 0
    first, *others = left
    listed = sum(one.is_listed for one in others)
    more = f" (and {listed} more, see `axomsync uploads` and `axomsync models`)" if listed else ""
    log.warning("ends with %d: %s%s", first.code, first.words, more)
    return first.code


def errand(agent: Agent, verb: str, argument: str | None, parameters: Mapping[str, Any]) -> Any:
    """Do the command of `verb` in this process; returns its answer. Raises the command's failures."""
    with agent:
        agent.begin(agent.settings, PATIENCE_SECONDS)
        agent.workers.paused = agent.pause.is_on
        answers: list[Any] = []

        def do() -> None:
            answers.append(agent.commands.verbs()[verb].do(Request(0, verb, argument, parameters), lambda: None))

        failures = agent.workers.begin_errand(verb, do)
        while agent.workers.working and not agent.ended:
            agent.tick()
        for subject, missed in _follow_up(agent).items():
            agent.problems.report(subject, str(missed))
        agent.end_workers()
    if answers:
        return answers[0]
    if agent.ended_by is not None:
        raise Interrupted(agent.ended_by)
    failure = failures.get(verb)
    if failure is None or isinstance(failure, Stopping):
        raise Transient("it did not finish; run it again to resume")
    raise failure


def push(agent: Agent, files: Iterable[Path], show: Callable[[Sequence[int]], object]) -> list[int]:
    """Upload these files and return their rows; `show` gets the rows every half second and at the end.

    Raises the failure that stopped it.
    """
    drop = agent.settings.drop.model_copy(update={"enabled": True})
    with agent:
        agent.begin(agent.settings.model_copy(update={"drop": drop, "mirror": NO_MIRROR}), PATIENCE_SECONDS)
        assert agent.workers.intake is not None  # noqa: S101  # for mypy: it was enabled above
        rows = agent.workers.intake.push(files)
        failures = agent.workers.begin_push(rows)
        while agent.workers.working and not agent.ended:
            show(rows)
            agent.tick()
        agent.end_workers()
        show(rows)  # the final states
    for failure in failures.values():
        raise failure
    return rows
