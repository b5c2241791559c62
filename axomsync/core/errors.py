"""All expected failures, sorted by what to do next.

    AxomsyncError                  exit code
    ├── Transient           75     try again after a back-off, or after `retry_after`
    │   ├── Bug              1     nobody foresaw it: log its traceback once, try again later
    │   └── GatewayFault    75     a gateway can't: ask the next one, or storage itself
    ├── UrlExpired          75     ask the console for a fresh URL, then try again at once
    ├── SourceChanged       75     the source changed while it was read: start that file over
    ├── Rejected             1     final: the far side or the input won't change; park it with the reason
    │   └── Refused          1     storage refused one URL: try a fresh one if this one was used before
    ├── LocalFault           1     this machine can't (disk, permission): name path and remedy, try again later
    │   └── Denied           1     rights, or a unit's sandbox, keep this process out: a person must act
    ├── Forgotten            1     `axomsync forget` struck the file or model meanwhile: end its work, and note nothing
    ├── Stopping             0     the agent was asked to stop: leave everything so that work can resume
    ├── Interrupted    128 + n     signal n ended a command: run again, it resumes
    └── Fatal               any    the process must end
        ├── KeyRefused       4
        ├── AlreadyRunning   3
        ├── BadConfig       78
        └── NewerLedger     78

Foreign exceptions are mapped to these at one boundary each: `console` and `storage` for the network, `oserrors` for the
operating system. A message is one line, names the thing and the remedy, and never holds a key or a signed URL.
"""

from collections.abc import Mapping
from typing import Self

# Scripts rely on these codes. Manual pages and docs/reference show the words.
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
    """Base of all expected failures; a command that ends with this failure exits with `exit_code`."""

    exit_code = 1

    def about(self, subject: str) -> Self:
        """The same failure with its file or model in front of the message."""
        failure = type(self).__new__(type(self))  # `copy` would call `__init__` with the message alone
        vars(failure).update(vars(self))
        failure.args = (f"{subject}: {self}",)
        return failure


class Transient(AxomsyncError):
    """The same try may succeed later. `retry_after`: seconds that the far side asked for, or None."""

    exit_code = 75

    def __init__(
        self, message: str, retry_after: float | None = None, *, congestion: bool = False, unsent: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.congestion = congestion  # the far side asked for fewer requests (429, 503, SlowDown)
        self.unsent = unsent  # no connection was made, so nothing reached the far side


class Bug(Transient):
    """Nobody foresaw this failure: the log has its traceback, and a person may report it."""

    exit_code = 1


class GatewayFault(Transient):
    """A gateway gave no usable answer.

    `is_storage`: it says that it gets none from storage; `is_refusal`: it does not serve this host of storage;
    `is_contradicted`: storage itself says another thing.
    """

    def __init__(
        self, message: str, *, is_storage: bool = False, is_refusal: bool = False, is_contradicted: bool = False
    ) -> None:
        super().__init__(message)
        self.is_storage, self.is_refusal, self.is_contradicted = is_storage, is_refusal, is_contradicted


class UrlExpired(AxomsyncError):
    """Storage refused a signed URL: expired, revoked or signed for another method."""

    exit_code = 75


class SourceChanged(AxomsyncError):
    """A local file or a remote object changed while it was being read."""

    exit_code = 75


class Rejected(AxomsyncError):
    """Final: the same try can't succeed later."""


class Refused(Rejected):
    """Storage refused one request for good; the same request would be refused again."""


class LocalFault(AxomsyncError):
    """The local machine can't do it now: full disk, missing folder, missing permission, I/O error."""


class Denied(LocalFault):
    """Rights, or the sandbox of a unit, keep this process out, and will do so until a person acts."""


class Forgotten(AxomsyncError):
    """A person had the agent forget the file or model at which it works."""

    def __init__(self, row: str) -> None:
        super().__init__(f"{row}: it was forgotten meanwhile (`axomsync forget`)")


class Stopping(AxomsyncError):
    """The agent was asked to stop."""

    exit_code = 0


class Interrupted(AxomsyncError):
    """A signal ended a command before its end; the exit code is 128 + signal, as in shells."""

    def __init__(self, signal: int) -> None:
        super().__init__("interrupted; run it again to resume")
        self.exit_code = interrupted_by(signal)


def interrupted_by(signal: int) -> int:
    """Exit code of a command that a signal ended."""
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
    """A newer version wrote the ledger; like `BadConfig`, a restart can't help until a person acts."""

    exit_code = 78
