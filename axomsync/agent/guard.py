"""Runs work in such a way that a bug in it is told and does not end the agent.

Failures handled: a bug (told, the work is begun again after a pause that grows), a death that nothing can be done about
(told to who composed the agent, which ends).
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from axomsync.core.errors import AxomsyncError, LocalFault
from axomsync.core.policy import BACKOFF_BASE, BACKOFF_CAP
from axomsync.runtime.problems import Problems

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guard:
    """`ended()`: the agent stops. `died` is called with what ended work for good, `turned` at each end of work."""

    problems: Problems
    ended: Callable[[], bool]
    died: Callable[[BaseException], None]
    turned: Callable[[], None]

    def run(self, name: str, subject: str, work: Callable[[], None], stop: threading.Event | None = None) -> None:
        """Run `work`; what it trips is the problem `subject`, and it is begun again until `stop` is set.

        Without a `stop` its end is the end of the process: it was to work once.
        """
        try:
            pause = BACKOFF_BASE
            while not self._works(subject, work, stop, pause):
                if stop is not None and stop.wait(pause):
                    return
                pause = min(2 * pause, BACKOFF_CAP)
        except BaseException as death:
            if self.ended():  # what it works with is being closed
                log.debug("the %s worker ended with: %s", name, death)
                return
            log.critical("the %s worker died: %s", name, death, exc_info=not isinstance(death, AxomsyncError))
            self.died(death)
        finally:
            self.turned()  # a pass may be over

    def _works(self, subject: str, work: Callable[[], None], stop: threading.Event | None, pause: float) -> bool:
        """Whether it came to its end; if not, it is begun again after `pause` seconds."""
        try:
            work()
        except Exception as bug:
            if stop is None or stop.is_set() or self.ended():
                raise
            self.problems.report_bug(subject, bug, time.time() + pause)
            return False
        return True


def collect(subject: str, work: Callable[[], None], failures: dict[str, AxomsyncError]) -> None:
    """Run `work` once; what ends it is kept in `failures`."""
    try:
        work()
    except AxomsyncError as failure:
        failures[subject] = failure
    except Exception as bug:
        log.error("%s: a bug was met", subject, exc_info=bug)
        failures[subject] = LocalFault(f"unexpected {type(bug).__name__}: {bug}; please report it")
