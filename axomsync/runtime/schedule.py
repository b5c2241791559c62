"""Wakes workers at fixed intervals. The only user of APScheduler, whose jobs do nothing but set a flag.

Its timer follows the wall clock, which somebody may set: whoever is woken knows by itself what is due, by a clock that
nobody sets, and looks at least every few seconds.

Failures handled: runs that were missed while the machine slept or as the clock was set forward (made up for once, and not
counted one by one), a job that fails (told). One that is still waiting for its thread when it is due again is the same
wake-up.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

log = logging.getLogger(__name__)


class Schedule:
    """Runs from its making until it is ended."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._scheduler.add_listener(_tell_trouble, EVENT_JOB_MISSED | EVENT_JOB_ERROR)
        self._scheduler.start()

    def every(self, seconds: float, wake: Callable[[], None]) -> None:
        """Call `wake` at that interval, for the first time after one."""
        self._scheduler.add_job(wake, _Every(seconds))

    def end(self) -> None:
        """Wake nobody any more."""
        self._scheduler.shutdown(wait=False)


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """APScheduler's own interval goes through all runs that were missed: a year of them is a minute of work."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """One interval from now."""
        return now + self._interval


def _tell_trouble(event: JobExecutionEvent) -> None:
    log.warning("the scheduler had trouble with %s (event %d)", event.job_id, event.code)
