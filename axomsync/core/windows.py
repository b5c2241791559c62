"""Windows of the week in local time, in which `current` may move. Pure: time and zone are arguments.

A window begins on its days at a time of the wall clock, and may end after midnight. When the clock is set forward, a time in
the hour that is left out counts as the same minute of the next hour, and no window is lost. When the clock is set back, a
window holds for both passages of the hour.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Literal

DAY_MINUTES = 1440


@dataclass(frozen=True, slots=True)
class Window:
    """From `begin` to `end` (minutes of the day) on `days` (0 is Monday); an `end` not after `begin` is of the next day."""

    days: frozenset[int]
    begin: int
    end: int


Promotes = Literal["now", "manual"] | tuple[Window, ...]


def is_open(promotes: Promotes, now: float, zone: tzinfo | None = None) -> bool:
    """Whether `current` may move at `now` (seconds since the epoch); `zone` None is that of this machine."""
    if isinstance(promotes, str):
        return promotes == "now"
    return any(begin <= now < end for begin, end in _spans(promotes, now, zone))


def opening(promotes: Promotes, now: float, zone: tzinfo | None = None) -> float | None:
    """When `current` may move next: `now` itself while it may, None for "manual"."""
    if is_open(promotes, now, zone):
        return now
    if isinstance(promotes, str):
        return None
    return min((begin for begin, _ in _spans(promotes, now, zone) if begin > now), default=None)


def _spans(windows: tuple[Window, ...], now: float, zone: tzinfo | None) -> Iterator[tuple[float, float]]:
    """Beginning and end of every window of the days around `now`, a week ahead."""
    today = datetime.fromtimestamp(now, zone).date()
    for days in range(-2, 9):
        day = today + timedelta(days=days)
        for window in windows:
            if day.weekday() in window.days:
                yield _span(window, day, zone)


def _span(window: Window, day: date, zone: tzinfo | None) -> tuple[float, float]:
    length = (window.end - window.begin - 1) % DAY_MINUTES + 1
    begin = _moment(day, window.begin, zone, fold=0)
    end = max(_moment(day, window.begin + length, zone, fold=fold) for fold in (0, 1))
    return begin, end if end > begin else begin + length * 60


def _moment(day: date, minute: int, zone: tzinfo | None, *, fold: int) -> float:
    """The time when the wall clock shows a minute of `day`; of two such times, or of none, the one that `fold` means."""
    day += timedelta(days=minute // DAY_MINUTES)
    hour, minute = divmod(minute % DAY_MINUTES, 60)
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold).timestamp()
