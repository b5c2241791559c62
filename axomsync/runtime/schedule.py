"""Wake-ups at fixed intervals. Only this module uses APScheduler, whose jobs do nothing but set a flag.

Its timer follows the wall clock, which can be set; so a worker that is woken decides by the monotonic clock which work is
due, and also looks by itself every few seconds.

Failures handled: runs missed while the machine slept or the clock was set forward (made up for once, not one by one), a
job that fails (logged). A job that still waits for its thread when it is due again counts once.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

log = logging.getLogger(__name__)


class Schedule:
    """Runs from its construction until `end`."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._scheduler.add_listener(_tell_trouble, EVENT_JOB_MISSED | EVENT_JOB_ERROR)
        self._scheduler.start()

    def every(self, seconds: float, wake: Callable[[], None]) -> None:
        """Call `wake` every `seconds`, for the first time after one interval."""
        self._scheduler.add_job(wake, _Every(seconds))

    def end(self) -> None:
        """Stop all wake-ups."""
        self._scheduler.shutdown(wait=False)


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """An interval without catching up: APScheduler's own walks through all missed runs, a minute of work for a year."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """One interval after now."""
        return now + self._interval


def _tell_trouble(event: JobExecutionEvent) -> None:
    log.warning("scheduler: job %s failed or was missed (event %d)", event.job_id, event.code)
