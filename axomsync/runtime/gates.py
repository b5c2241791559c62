"""Gates: commands of the user that judge a checked file before it is sent, and a verified model before it appears.

Only exit code 0 is a yes. A gate that could not judge is asked again later; any other end is a no, with the last line of
what it said as the reason. That the bytes it saw are those that are used is the caller's part.

Failures handled: a gate that is not there, takes too long, is killed, or says that it can't judge now (`Transient`), that
says no (`NotPassed`), the end of the agent while a gate looks (it is killed: `Stopping`).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from axomsync.core.errors import Rejected, Stopping, Transient
from axomsync.core.records import Model, Upload
from axomsync.core.text import printable
from axomsync.runtime.heartbeat import Beat
from axomsync.runtime.programs import Ending, run

LONGEST_REASON = 500  # characters
# It failed for now (sysexits.h), or a shell could not run (126) or find (127) what it should have run.
NOT_JUDGED = frozenset({75, 126, 127})
OF_A_SIGNAL = range(129, 193)  # a shell's codes for a command that a signal ended


class NotPassed(Rejected):
    """A gate said no."""


@dataclass(frozen=True)
class Gate:
    """One gate. `describe` makes the document for it, of the row and the path to look at."""

    key: str = ""  # in `[hooks]`
    command: tuple[str, ...] = ()
    timeout: float = 60.0
    environ: Mapping[str, str] = field(default_factory=dict)
    describe: Callable[[Model | Upload, str], Mapping[str, Any]] = lambda _row, _path: {}

    @property
    def is_there(self) -> bool:
        """Whether anybody is to be asked."""
        return bool(self.command)

    def ask(
        self, row: Model | Upload, path: str, stop: threading.Event, beat: Beat, descriptors: Sequence[int] = ()
    ) -> None:
        """Return if the gate says yes. Raises `NotPassed`, `Transient`, `Stopping`."""
        document = self.describe(row, path)
        ending = run(self.command, self.environ, document, self.timeout, stop, beat, descriptors=descriptors)
        if ending.code == 0:
            return
        if stop.is_set():
            raise Stopping("the agent is stopping")
        subject, said = f"[hooks] {self.key}", last_line(ending.output)
        if (why := _why_not_judged(ending)) is not None:
            words = f"{subject}: {printable(self.command[0])} {why}"
            raise Transient(words + (f"; it said: {said}" if said else ""))
        raise NotPassed(f"{subject}: {said or f'{printable(self.command[0])} ended with {ending.code}'}")


def _why_not_judged(ending: Ending) -> str | None:
    """Why the end of a gate is no judgement; None if it is a no."""
    if ending.code is None:
        return ending.failure
    if ending.code < 0:
        return f"was ended by signal {-ending.code}"
    if ending.code in NOT_JUDGED or ending.code in OF_A_SIGNAL:
        return f"ended with {ending.code}, and so did not judge"
    return None


def last_line(output: str) -> str:
    """The last line that is not blank, for people."""
    lines = [line for line in map(str.strip, output.splitlines()) if line]
    return printable(lines[-1])[:LONGEST_REASON] if lines else ""


@dataclass(frozen=True)
class Gates:
    """All gates of one configuration."""

    before_upload: Gate = field(default_factory=Gate)
    before_publish: Gate = field(default_factory=Gate)
