"""Requests from other processes to a running agent: they are rows of the ledger, and the agent reads them at every turn of
its main thread. A caller rings, so that it takes that turn at once.

There is no port and no socket: the right to write the ledger is the right to steer. A request made while no agent runs
waits for the next one. A request is a verb, an argument and parameters; its answer is any JSON.

Failures handled: a user who may not write the ledger, a request that fails (its caller gets message and exit code), a verb
that this version does not know, workers that end during a long request (the next ones start it again), an agent that
crashes during a request (the request fails, or it could crash the next agent too), unreadable requests and answers (they
fail), a ledger that does not take an answer (it is written later).
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from axomsync.core.errors import Bug, LocalFault, Stopping
from axomsync.core.oserrors import unforeseen
from axomsync.core.text import printable
from axomsync.ledger import Ledger, Reader, doorbell, request_transaction
from axomsync.runtime.heartbeat import Beat, Liveness
from axomsync.runtime.owed_writes import OwedWrites

log = logging.getLogger(__name__)

LONG_REQUESTS_AT_ONCE = 2
KEPT_SECONDS = 24 * 3600.0  # for callers that still wait; no caller waits longer
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 0.1  # before the answer is looked for again: most come at once
NAMED_MOST = 20  # forgotten or retried rows named in the log
_EXACT = "argument"  # parameter with an argument that is not printable: SQLite's text holds no bytes that are no UTF-8


@dataclass(frozen=True)
class Request:
    """One request of another process."""

    id: int
    verb: str
    argument: str | None
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.verb} {printable(self.argument)}" if self.argument else self.verb


@dataclass(frozen=True)
class Verb:
    """The implementation of a verb.

    `do` gets the request and a beat, which it must call like any worker. It returns JSON or raises `AxomsyncError`;
    `Stopping` leaves the request to the next workers, or the next agent. Unless it is `long`, it runs on the agent's main
    thread and must return within milliseconds.
    """

    do: Callable[[Request, Beat], Any]
    long: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a request."""

    answer: Any
    error: str | None = None
    exit_code: int = 0


# The caller's side


def ask(ledger: Path, verb: str, argument: str | None = None, parameters: Mapping[str, Any] | None = None) -> int:
    """Put a request into the ledger (the path of its file); returns its id. Raises `LocalFault`."""
    shown = None if argument is None else printable(argument)
    exact = {} if argument == shown else {_EXACT: argument}
    with request_transaction(ledger) as connection:
        row = connection.execute(
            "INSERT INTO requests (verb, argument, parameters, asked_at) VALUES (?, ?, ?, ?)",
            (verb, shown, json.dumps({**(parameters or {}), **exact}), time.time()),
        ).lastrowid
    assert row is not None  # noqa: S101  # for mypy: an INSERT has one
    doorbell.ring(ledger.parent)
    return row


def withdraw(ledger: Path, request: int) -> bool:
    """Take a request back; False when an agent has begun with it. Raises `LocalFault`."""
    with request_transaction(ledger) as connection:
        taken = connection.execute("DELETE FROM requests WHERE id = ? AND begun_at IS NULL", (request,)).rowcount
    return taken > 0


def wait_for(ledger: Reader, request: int, seconds: float) -> Outcome | None:
    """Wait for the result of a request; None when there is none after `seconds`."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while (row := ledger.request(request)) is None or row["outcome"] is None:
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return read_outcome(row["outcome"])


def read_outcome(text: str) -> Outcome:
    """Read a result as the agent wrote it. Raises `LocalFault`."""
    outcome = _object_in(text) or {}
    try:
        return Outcome(outcome["answer"], outcome.get("error"), int(outcome.get("exit_code", 0)))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise LocalFault("the agent's answer can't be read; ask again") from None


# The agent's side


@dataclass
class Steering:
    """Executes the requests to an agent. `look` is called at every turn, by one thread.

    Long ones wait while `is_ready()` is false: the workers that would do them are ending.
    """

    ledger: Ledger
    verbs: Mapping[str, Verb]
    liveness: Liveness
    is_ready: Callable[[], bool] = lambda: True
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(LONG_REQUESTS_AT_ONCE, thread_name_prefix="request")
    )
    _long: list[Future[None]] = field(default_factory=list)
    _owed: OwedWrites = field(default_factory=OwedWrites)  # answers, and requests for the next workers

    def __post_init__(self) -> None:
        self.ledger.recover_requests(json.dumps(_failed("the agent ended in the middle of it; ask again")), KEPT_SECONDS)

    def look(self) -> None:
        """Start all new requests. Raises `LocalFault` when the ledger can't be written."""
        self._owed.catch_up()
        for row in self.ledger.read.new_requests():
            verb = self.verbs.get(row["verb"])
            if verb is not None and verb.long and not self.is_ready():
                continue
            parameters = _object_in(row["parameters"])
            argument = (parameters or {}).pop(_EXACT, row["argument"])
            request = Request(row["id"], row["verb"], argument, parameters or {})
            if not self.ledger.begin_request(request.id):
                continue  # its caller has just taken it back
            log.info("request: %s", request)
            if parameters is None:
                self._end(request, _failed("the request can't be read; ask again"))
            elif verb is None:
                self._end(request, _failed(f"this agent does not know how to {request.verb}"))
            elif verb.long:
                self._long = [other for other in self._long if not other.done()]
                self._long.append(self._pool.submit(self._do_for_long, request, verb))
            else:
                self._do(request, verb, lambda: None)

    @property
    def works(self) -> bool:
        """True while a long request is not done."""
        return any(not request.done() for request in self._long)

    def close(self) -> None:
        """Start no more requests; running ones end with the workers that they use."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with suppress(LocalFault):
            self._owed.catch_up()

    def _do_for_long(self, request: Request, verb: Verb) -> None:
        with self.liveness.worker(f"request to {request}") as beat:
            self._do(request, verb, beat)

    def _do(self, request: Request, verb: Verb, beat: Beat) -> None:
        try:
            outcome = {"answer": verb.do(request, beat)}
        except Stopping:
            self._write(request, partial(self.ledger.set_request_back, request.id))
            return
        except Exception as error:  # one request must not end the agent
            failure = unforeseen(error)
            if isinstance(failure, Bug):
                log.exception("request %s: unexpected failure", request)
            outcome = _failed(str(failure), failure.exit_code)
        self._end(request, outcome)

    def _end(self, request: Request, outcome: Mapping[str, Any]) -> None:
        if outcome.get("error"):
            log.warning("request %s failed: %s", request, outcome["error"])
        answer = outcome.get("answer")
        lists = [answer.get(key, ()) for key in ("forgotten", "retried")] if isinstance(answer, dict) else []
        if named := [name for names in lists for name in names]:  # the caller may be gone, so the log names them
            more = f" and {len(named) - NAMED_MOST} more" * (len(named) > NAMED_MOST)
            log.info("request %s done: %s%s", request, ", ".join(map(str, named[:NAMED_MOST])), more)
        self._write(request, partial(self.ledger.end_request, request.id, json.dumps(outcome)))

    def _write(self, request: Request, write: Callable[[], None]) -> None:
        try:
            self._owed.add(write)
        except LocalFault as fault:
            log.warning("request %s: its outcome is written later: %s", request, fault)


def _object_in(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None when it is none."""
    try:
        document = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _failed(error: str, exit_code: int = 1) -> dict[str, Any]:
    return {"answer": None, "error": error, "exit_code": exit_code}
