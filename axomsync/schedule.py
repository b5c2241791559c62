"""Wakes workers at fixed intervals. The only user of APScheduler, whose jobs do nothing but set a flag.

Failures handled: runs that were missed while the machine slept (made up for once), a job that fails or piles up (told).
"""

import logging
from collections.abc import Callable

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger(__name__)


class Schedule:
    """Runs from its making until it is ended."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._scheduler.add_listener(_tell_trouble, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_ERROR)
        self._scheduler.start()

    def every(self, seconds: float, wake: Callable[[], None]) -> None:
        """Call `wake` at that interval, for the first time after one."""
        self._scheduler.add_job(wake, "interval", seconds=seconds)

    def end(self) -> None:
        """Wake nobody any more."""
        self._scheduler.shutdown(wait=False)


def _tell_trouble(event: JobExecutionEvent) -> None:
    log.warning("the scheduler had trouble with %s (event %d)", event.job_id, event.code)
