"""Hooks: commands of the user that run after an event. Argument lists, no shell, one at a time, beside transfers.

The ledger notes an event together with the transition itself, so a hook runs at least once, whatever crashes. It gets
`AXOMSYNC_*` in its environment and the same and more as a JSON document on standard input; it does not get the API key, and
can't read it in the agent's own environment or memory either (`shield_memory`). After them, the health checks that are due
(`health`).

Failures handled: a command that is not there, fails or runs too long (tried again with back-off, then given up, told in
`status`), output without end (its last part is kept), a row that is no longer there (nothing to tell), a ledger that can't
be written (tried again), an event that trips a bug (told, the others go on).
"""

import ctypes
import json
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from axomsync.config import HookSettings
from axomsync.core.errors import LocalFault
from axomsync.core.policy import backoff
from axomsync.core.records import Event
from axomsync.core.text import printable
from axomsync.ops.health import NOT_YET, Health
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.waits import Waits
from axomsync.runtime.worker import WorkerContext
from axomsync.status.documents import Document, hook_document
from axomsync.transport.proxies import with_loopback_excepted

log = logging.getLogger(__name__)

TRIES = 20  # with the back-off between them: about half an hour
OUTPUT_LIMIT = 4096  # bytes of what a hook says that are kept
LOOK_SECONDS = 1.0
GRACE_SECONDS = 5.0  # that a hook still has when the agent stops
KEPT_SECONDS = 30 * 86400.0
PR_SET_DUMPABLE = 4  # prctl(2)
SECRETS = ("AXOM_KEY", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY")


def shield_memory() -> None:
    """Keep other processes of the same user, hooks first, from `/proc/PID/environ` and the memory of this one.

    Taking the key out of `os.environ` would leave it where the kernel shows it. Not for root, who may read everything.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass(frozen=True)
class Outcome:
    """What became of a command: `failure` is None when it ended with 0. `early`: it may succeed when it runs again."""

    failure: str | None
    said: str = ""  # the end of its output
    early: bool = False


class Hooks:
    """Runs the hooks for the events in the ledger. `run` is the thread, `run_due` one pass for `sync`."""

    name = subject = "hooks"

    def __init__(self, settings: HookSettings, context: WorkerContext, environ: Mapping[str, str]) -> None:
        self._settings, self._ledger, self._problems = settings, context.ledger, context.problems
        self._liveness, self._stop, self._random, self._now = context.liveness, context.stop, context.random, context.now
        self._waits = Waits(context.now, context.clock)
        environ = {name: value for name, value in environ.items() if name not in SECRETS}
        self._environ = with_loopback_excepted(environ)  # hooks talk to servers of this machine
        self._health = Health(settings, context, self._execute)

    def run(self) -> None:
        """Work until the agent stops."""
        with self._liveness.worker(self.name) as beat:
            self._ledger.drop_events((), self._now() - KEPT_SECONDS)
            while not self._stop.wait(LOOK_SECONDS):
                beat()
                reap_orphans()
                try:
                    self.run_due(beat)
                except LocalFault as fault:
                    self._problems.report(self.subject, str(fault))
                else:
                    self._problems.clear(self.subject)

    def run_due(self, beat: Beat = lambda: None) -> None:
        """Run the hooks that are due, one after the other. Raises `LocalFault` for the ledger."""
        undone = self._ledger.read.events_due(math.inf)
        due = [event for event in undone if self._waits.left(event.id, event.next_attempt) == 0]
        if unwanted := {event.kind for event in due if not self._command(event)}:
            self._ledger.drop_events(unwanted, self._now() - KEPT_SECONDS)
        for event in due:
            if event.kind in unwanted or self._stop.is_set():
                continue
            try:
                self._run_for(event, beat)
            except LocalFault:
                raise
            except Exception as bug:  # noqa: BLE001  # the others go on
                again = self._waits.begin(event.id, backoff(event.attempts + 1, self._random))
                self._problems.report_bug(self.subject, bug, again)
                self._ledger.record_hook(event.id, f"unexpected {type(bug).__name__}", again)
        self._health.run_due(beat)

    def _run_for(self, event: Event, beat: Beat) -> None:
        document = self._document(event)
        if document is None:
            self._ledger.record_hook(event.id, "", None)
            return
        outcome = self._execute(self._command(event), document, beat)
        failure, output = outcome.failure, outcome.said
        if self._stop.is_set() and failure is not None:
            return  # it was ended by our own stop; the next start runs it again
        subject = f"hook {event.kind}"
        if failure is None:
            log.info("%s: done%s", subject, f": {output}" if output else "")
            self._problems.clear(subject)
            self._ledger.record_hook(event.id, output, None)
            return
        attempts = event.attempts + 1
        again = self._waits.begin(event.id, backoff(attempts, self._random)) if attempts < TRIES else None
        reason = f"{printable(self._command(event)[0])} {failure}" + (f"; it said: {output}" if output else "")
        self._problems.report(subject, reason if again is not None else f"{reason}; given up after {TRIES} tries", again)
        self._ledger.record_hook(event.id, f"{failure}: {output}", again)

    def _command(self, event: Event) -> tuple[str, ...]:
        command: tuple[str, ...] = getattr(self._settings, event.kind)
        return command

    def _document(self, event: Event) -> Document | None:
        """Read the row of an event and return the document for the hook; None when the row is gone."""
        read = self._ledger.read
        if event.table == "models":
            model = next((row for row in read.models() if row.id == event.subject), None)
            return hook_document(event, model) if model else None
        upload = next(iter(read.uploads_among([int(event.subject)])), None)
        return hook_document(event, upload, read.shards(upload.id)) if upload else None

    def _execute(self, command: tuple[str, ...], document: Document, beat: Beat) -> Outcome:
        """Run a command."""
        environment = {**self._environ, **_variables(document)}
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Outcome(f"can't be run: {getattr(error, 'strerror', None) or error}", early=True)
        output = bytearray()
        threads = [
            threading.Thread(target=_feed, args=(process.stdin, json.dumps(document).encode()), daemon=True),
            threading.Thread(target=_collect, args=(process.stdout, output), daemon=True),
        ]
        for thread in threads:
            thread.start()
        code = self._wait_for(process, beat)
        for thread in threads:
            thread.join(LOOK_SECONDS)  # what the hook left running may keep its end open
        text = printable(bytes(output).decode("utf-8", "replace").strip().replace("\n", " · "))
        if code is None:
            return Outcome(f"took longer than {self._settings.timeout:g} s", text)
        return Outcome(None if code == 0 else f"ended with {code}", text, early=code == NOT_YET)

    def _wait_for(self, process: "subprocess.Popen[bytes]", beat: Beat) -> int | None:
        """Return the exit code; None when the command had to be ended, with all that it started."""
        deadline = time.monotonic() + self._settings.timeout
        while (left := deadline - time.monotonic()) > 0:
            beat()
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(left, LOOK_SECONDS))
            if self._stop.is_set():
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS - LOOK_SECONDS)
                break
        with suppress(subprocess.TimeoutExpired):
            return process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def reap_orphans() -> None:
    """Reap ended processes that hooks left behind: as the first process of a container, this one inherits them.

    They are in sessions of their own. Other children of this process, which it waits for, are in its session. Called while
    no hook runs.
    """
    own = os.getsid(0)
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None or os.getsid(dead.si_pid) == own:
                return
            os.waitpid(dead.si_pid, os.WNOHANG)
        except (ChildProcessError, ProcessLookupError):
            return


def _variables(document: Document) -> dict[str, str]:
    """Return `AXOMSYNC_EVENT`, and each plain fact of the row as `AXOMSYNC_<NAME>`; unknown facts are left out."""
    row: Mapping[str, Any] = document.get("model") or document.get("upload") or {}
    facts = {"event": document["event"], **{name: fact for name, fact in row.items() if isinstance(fact, str | int)}}
    return {f"AXOMSYNC_{name.upper()}": str(fact).replace("\0", "") for name, fact in facts.items()}


def _feed(pipe: IO[bytes], document: bytes) -> None:
    with suppress(OSError), pipe:  # it need not listen
        pipe.write(document)


def _collect(pipe: IO[bytes], output: bytearray) -> None:
    with suppress(OSError), pipe:
        while chunk := os.read(pipe.fileno(), OUTPUT_LIMIT):
            output += chunk
            del output[:-OUTPUT_LIMIT]
