"""What keeps the agent from its work: logged when it begins, changes and ends, never at each repeat; shown by `status`."""

import logging
import threading
from contextlib import suppress

from axomsync.errors import LocalFault
from axomsync.ledger import Ledger
from axomsync.policy import without_request

log = logging.getLogger(__name__)

# What can have a problem besides single files and models; also the label of a metric.
SUBJECTS = (
    "agent",
    "configuration",
    "console",
    "drop folder",
    "drop folder's filesystem",
    "hooks",
    "ledger",
    "list of models",
    "mirror folder",
    "status page",
    "steering",
    "upkeep",
    "watching the drop folder",
)


class Problems:
    """The problems that hold now, by subject."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._reasons: dict[str, str] = {}
        self._lock = threading.RLock()

    def report(self, subject: str, reason: str, next_attempt: float | None = None) -> None:
        """`subject` has a problem; says so once until the reason changes."""
        with self._lock:
            new = without_request(self._reasons.get(subject, "")) != without_request(reason)
            self._reasons[subject] = reason
        if new:
            log.warning("%s: %s", subject, reason)
        with suppress(LocalFault):  # the ledger itself may be what is in trouble
            self._ledger.show_problem(subject, reason, next_attempt)

    def keep(self, subject: str, reason: str, *, holds: bool) -> None:
        """`subject` has this problem as long as it `holds`, unless something else is known to be wrong with it."""
        with self._lock:
            known = self._reasons.get(subject)
            if holds and known is None:
                self.report(subject, reason)
            elif not holds and known == reason:
                self.clear(subject)

    def clear(self, subject: str) -> None:
        """`subject` works again, if it did not."""
        with self._lock:
            had = self._reasons.pop(subject, None)
        if had is not None:
            log.info("%s: works again", subject)
            with suppress(LocalFault):
                self._ledger.clear_problem(subject)
