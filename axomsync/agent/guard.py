"""Guards for work: a bug is reported and does not end the agent.

Failures handled: a bug (reported; the work starts again after a growing pause), a failure of a worker that was told to stop
(logged; it has ended), any other exception (passed to `died`, which ends the agent).
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from axomsync.core.errors import AxomsyncError, Bug
from axomsync.core.oserrors import unforeseen
from axomsync.core.policy import BACKOFF_BASE, BACKOFF_CAP
from axomsync.runtime.problems import Problems

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guard:
    """Callbacks: `ended()` is true during a stop; `died` takes a fatal exception; `turned` runs at each end of work."""

    problems: Problems
    ended: Callable[[], bool]
    died: Callable[[BaseException], None]
    turned: Callable[[], None]

    def run(self, name: str, subject: str, work: Callable[[], None], stop: threading.Event | None = None) -> None:
        """Run `work`; a bug becomes a problem of `subject`, and the work starts again until `stop` is set.

        Without `stop` the work is meant to run once, and its failure ends the agent.
        """
        try:
            pause = BACKOFF_BASE
            while not self._works(subject, work, stop, pause):
                if stop is not None and stop.wait(pause):
                    return
                pause = min(2 * pause, BACKOFF_CAP)
        except BaseException as death:
            if self.ended():  # its connections and ledger are being closed
                log.debug("the %s worker ended with: %s", name, death)
                return
            log.critical("the %s worker died: %s", name, death, exc_info=not isinstance(death, AxomsyncError))
            self.died(death)
        finally:
            self.turned()  # the pass may have ended

    def _works(self, subject: str, work: Callable[[], None], stop: threading.Event | None, pause: float) -> bool:
        """Run `work`; False after a bug before `stop`, which is reported with the next start in `pause` seconds."""
        try:
            work()
        except Exception as bug:
            if stop is None or self.ended():
                raise
            if stop.is_set():  # the next workers wait for its end alone
                failure = unforeseen(bug)
                log.warning("%s: ended with: %s", subject, failure, exc_info=bug if isinstance(failure, Bug) else None)
                return True
            self.problems.report_bug(subject, bug, time.time() + pause)
            return False
        return True


def collect(subject: str, work: Callable[[], None], failures: dict[str, AxomsyncError]) -> None:
    """Run `work` once and put its failure into `failures`."""
    try:
        work()
    except Exception as error:
        failures[subject] = failure = unforeseen(error)
        if isinstance(failure, Bug):
            log.error("%s: a bug was met", subject, exc_info=error)
