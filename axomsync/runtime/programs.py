"""Programs of the user, run to their end: argument lists, no shell, a document on standard input, a part of the output kept.

Each gets a session of its own, so that it can be ended with all that it started. Its end is only believed when this process
saw it: no other thread may reap it, and the exit code of a process that somebody else reaped is unknown, not 0.

Failures handled: a command that is not there, that runs too long or ignores what it is told (ended), output without end (its
last part is kept), processes that it leaves behind (ended, if nothing may be left), orphans (reaped).
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from axomsync.runtime.heartbeat import Beat
from axomsync.transport.proxies import with_loopback_excepted

OUTPUT_LIMIT = 4096  # bytes of what a program says that are kept
JOIN_SECONDS = 1.0
SHORTEST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.0005, 0.05
SECRETS = ("AXOM_KEY", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY")

_children_lock = threading.Lock()
_children: set[int] = set()  # that `run` waits for


@dataclass(frozen=True)
class Ending:
    """How a program ended: by `code`, which is negative for a signal, or by a `failure` that kept it from its own end."""

    code: int | None
    failure: str | None
    output: str  # the last part
    began: bool = True


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for programs: without the agent's secrets, and with this machine's servers excepted from proxies."""
    return with_loopback_excepted({name: value for name, value in environ.items() if name not in SECRETS})


def variables(document: Mapping[str, Any]) -> dict[str, str]:
    """Return `AXOMSYNC_EVENT`, and each plain fact of its row as `AXOMSYNC_<NAME>`; unknown facts are left out."""
    row: Mapping[str, Any] = document.get("model") or document.get("upload") or {}
    facts = {name: fact for name, fact in row.items() if isinstance(fact, str | int)}
    facts |= {name: document[name] for name in ("event", "file") if name in document}
    return {f"AXOMSYNC_{name.upper()}": str(fact).replace("\0", "") for name, fact in facts.items()}


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    document: Mapping[str, Any],
    timeout: float,
    stop: threading.Event,
    beat: Beat,
    *,
    grace: float = 0.0,
    leaves: bool = False,
    descriptors: Sequence[int] = (),
) -> Ending:
    """Run a command. `grace`: seconds that it still has once `stop` is set; `leaves`: what it started may go on after it.

    `descriptors` stay open in it, under the same numbers.
    """
    try:
        with _children_lock:
            process = subprocess.Popen(
                command,
                env={**environ, **variables(document)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=descriptors,
            )
            _children.add(process.pid)
    except (OSError, ValueError) as error:
        return Ending(None, f"can't be run: {getattr(error, 'strerror', None) or error}", "", began=False)
    output = bytearray()
    threads = [
        threading.Thread(target=_feed, args=(process.stdin, json.dumps(document).encode()), daemon=True),
        threading.Thread(target=_collect, args=(process.stdout, output), daemon=True),
    ]
    for thread in threads:
        thread.start()
    failure: str | None = "was interrupted"
    try:
        failure = _wait_for_end(process.pid, timeout, stop, beat, grace)
    finally:
        if failure is not None or not leaves:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
        code = process.wait()
        with _children_lock:
            _children.discard(process.pid)
        for thread in threads:
            thread.join(JOIN_SECONDS)  # what it left running may keep its end open
    return Ending(None if failure else code, failure, bytes(output).decode("utf-8", "replace"))


def _wait_for_end(child: int, timeout: float, stop: threading.Event, beat: Beat, grace: float) -> str | None:
    """Wait until the process has ended; returns what speaks against its exit code, None if nothing does."""
    deadline, pause, stopping = time.monotonic() + timeout, SHORTEST_LOOK_SECONDS, False
    while True:
        beat()
        try:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return None
        except ChildProcessError:
            return "ended, but its exit code is not known"
        if stop.is_set() and not stopping:
            stopping, deadline = True, min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline:
            return f"took longer than {timeout:g} s"
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_LOOK_SECONDS)


def reap_orphans() -> None:
    """Reap ended processes that programs left behind: as the first process of a container, this one inherits them.

    They are in sessions of their own. Other children of this process, which it waits for, are in its session, or known.
    """
    own = os.getsid(0)
    with _children_lock:
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if dead is None or dead.si_pid in _children or os.getsid(dead.si_pid) == own:
                    return
                os.waitpid(dead.si_pid, os.WNOHANG)
            except (ChildProcessError, ProcessLookupError):
                return


def _feed(pipe: IO[bytes], document: bytes) -> None:
    with suppress(OSError), pipe:  # it need not listen
        pipe.write(document)


def _collect(pipe: IO[bytes], output: bytearray) -> None:
    with suppress(OSError), pipe:
        while chunk := os.read(pipe.fileno(), OUTPUT_LIMIT):
            output += chunk
            del output[:-OUTPUT_LIMIT]
