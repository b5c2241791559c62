"""Every failure that axomsync names, sorted by what to do next.

    AxomsyncError                  exit code
    ├── Transient           75     try again after a back-off, or after `retry_after`
    ├── UrlExpired          75     ask the console for a fresh URL, then try again at once
    ├── SourceChanged       75     what was being read is no longer what it was: start that file over
    ├── Rejected             1     the far side or the input has given its final answer: park it with the reason
    │   └── Refused          1     so said storage of one URL: where that was used before, a fresh one is worth a try
    ├── LocalFault           1     this machine is in the way (disk, permission): say path and need, try again later
    │   └── Denied           1     so say rights, or the sandbox of a unit: nothing but a person changes that
    ├── Stopping             0     the agent was asked to stop: leave everything so that it can be taken up again
    ├── Interrupted    128 + n     signal n ended what a person had asked for: asked again, it goes on from there
    └── Fatal               any    the process can't go on
        ├── KeyRefused       4
        ├── AlreadyRunning   3
        ├── BadConfig       78
        └── NewerLedger     78

Foreign exceptions are turned into these at one boundary each: `console` and `storage` for the network, `oserrors` for
the operating system. A message is one line, names the thing and what to do, and never holds a key or a signed URL.
"""

import copy
from collections.abc import Mapping
from typing import Self

# Scripts rely on these. Manual pages and docs/reference show the words.
EXIT_CODES: Mapping[int, str] = {
    0: "Done.",
    1: "Something failed or is parked.",
    2: "Wrong usage.",
    3: "Another agent holds the state folder.",
    4: "The console refuses the API key.",
    75: "Gave up for now; worth trying again.",
    78: "Bad configuration, a ledger of a newer version, or (run) a state folder that the agent's user may not use.",
    130: "Ended by Ctrl-C (SIGINT) before it was done; not with run, which ends with 0.",
    143: "Ended by SIGTERM before it was done; not with run, which ends with 0.",
}


class AxomsyncError(Exception):
    """Base of all expected failures; `exit_code` is what a command ends with when this one ends it."""

    exit_code = 1

    def about(self, subject: str) -> Self:
        """The same failure, with the file or model that it is about in front of its words."""
        failure = copy.copy(self)
        failure.args = (f"{subject}: {self}",)
        return failure


class Transient(AxomsyncError):
    """May well succeed later. `retry_after` is in seconds, as the far side asked, or None."""

    exit_code = 75

    def __init__(self, message: str, retry_after: float | None = None, *, congestion: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.congestion = congestion  # the far side asked for fewer requests (429, 503, SlowDown)


class UrlExpired(AxomsyncError):
    """Storage refused a signed URL (expired, revoked or of another method)."""

    exit_code = 75


class SourceChanged(AxomsyncError):
    """A local file or a remote object changed while it was being read."""

    exit_code = 75


class Rejected(AxomsyncError):
    """A final 'no': retrying the same thing can't help."""


class Refused(Rejected):
    """Storage refused one request for good: asking again the same way would not help."""


class LocalFault(AxomsyncError):
    """The local machine can't do it now: full disk, missing folder, no permission, I/O error."""


class Denied(LocalFault):
    """Rights, or the sandbox of a unit, keep this process out, and will do so until a person acts."""


class Stopping(AxomsyncError):
    """The agent was asked to stop."""

    exit_code = 0


class Interrupted(AxomsyncError):
    """A signal ended what was to come to an end of its own; the exit code is the one that shells use for that."""

    def __init__(self, signal: int) -> None:
        super().__init__("interrupted; asked again, it goes on from there")
        self.exit_code = interrupted_by(signal)


def interrupted_by(signal: int) -> int:
    """The exit code of a command that a signal ended."""
    return 128 + signal


class Fatal(AxomsyncError):
    """The process must end."""


class KeyRefused(Fatal):
    """401: the key is missing, wrong or revoked."""

    exit_code = 4


class AlreadyRunning(Fatal):
    """Another agent holds the state folder."""

    exit_code = 3


class BadConfig(Fatal):
    """The configuration can't be used; the message has one line per error."""

    exit_code = 78


class NewerLedger(Fatal):
    """The ledger is of a newer version: as with `BadConfig`, starting again can't help until a person has acted."""

    exit_code = 78
