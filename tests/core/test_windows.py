"""Windows in which `current` may move: when they open and close, also where the clock is changed."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter, ValidationError

from axomsync.config import Promote
from axomsync.core.windows import Promotes, is_open, opening

BERLIN = ZoneInfo("Europe/Berlin")
PROMOTE: TypeAdapter[Promotes] = TypeAdapter(Promote)


def at(text: str) -> float:
    """A time in Berlin; of the two that one has in October, the offset says which."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=BERLIN)).timestamp()


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        (["Sat 02:00-05:00"], "2026-11-28T01:59:59", "2026-11-28T02:00:00"),
        (["Sat 02:00-05:00"], "2026-11-28T02:00:00", None),
        (["Sat 02:00-05:00"], "2026-11-28T04:59:59", None),
        (["Sat 02:00-05:00"], "2026-11-28T05:00:00", "2026-12-05T02:00:00"),
        (["Fri 22:00-04:00"], "2026-11-27T21:00:00", "2026-11-27T22:00:00"),
        (["Fri 22:00-04:00"], "2026-11-28T03:59:59", None),  # after midnight it is still Friday's
        (["Fri 22:00-04:00"], "2026-11-27T03:00:00", "2026-11-27T22:00:00"),
        (["Fri 22:00-24:00"], "2026-11-27T23:59:59", None),
        (["Fri 22:00-24:00"], "2026-11-28T00:00:00", "2026-12-04T22:00:00"),
        (["Sat-Mon 01:00-02:00", "12:00-12:01"], "2026-11-27T12:01:00", "2026-11-28T01:00:00"),
        (["Sat-Mon 01:00-02:00", "12:00-12:01"], "2026-11-30T01:30:00", None),
        # On 28 March 2027 the hour from 2 to 3 is left out.
        (["Sun 02:00-05:00"], "2027-03-28T01:59:59", "2027-03-28T03:00:00+02:00"),
        (["Sun 02:00-05:00"], "2027-03-28T03:00:00+02:00", None),
        (["Sun 02:00-05:00"], "2027-03-28T05:00:00+02:00", "2027-04-04T02:00:00"),
        (["Sun 02:00-02:45"], "2027-03-28T01:59:59", "2027-03-28T03:00:00+02:00"),
        (["Sun 02:00-02:45"], "2027-03-28T03:44:59+02:00", None),
        (["Sun 02:00-02:45"], "2027-03-28T03:45:00+02:00", "2027-04-04T02:00:00"),
        (["Sat 23:00-02:30"], "2027-03-28T01:59:59+01:00", None),
        (["Sat 23:00-02:30"], "2027-03-28T03:30:00+02:00", "2027-04-03T23:00:00"),
        (["Sun 02:30-03:15"], "2027-03-28T03:29:59+02:00", "2027-03-28T03:30:00+02:00"),
        (["Sun 02:30-03:15"], "2027-03-28T03:45:00+02:00", None),
        # On 31 October 2027 the hour from 2 to 3 comes twice.
        (["Sun 02:00-03:00"], "2027-10-31T01:59:59+02:00", "2027-10-31T02:00:00+02:00"),
        (["Sun 02:00-03:00"], "2027-10-31T02:30:00+02:00", None),
        (["Sun 02:00-03:00"], "2027-10-31T02:59:59+01:00", None),
        (["Sun 02:00-03:00"], "2027-10-31T03:00:00+01:00", "2027-11-07T02:00:00"),
        (["Sun 01:00-02:30"], "2027-10-31T02:29:59+01:00", None),
        (["Sun 01:00-02:30"], "2027-10-31T02:30:00+01:00", "2027-11-07T01:00:00"),
    ],
)
def test_a_window_opens_by_the_clock_on_the_wall(windows: list[str], now: str, opens: str | None) -> None:
    """`opens` is when it opens next; None while it is open."""
    promotes, moment = PROMOTE.validate_python(windows), at(now)
    assert is_open(promotes, moment, BERLIN) == (opens is None)
    assert opening(promotes, moment, BERLIN) == (moment if opens is None else at(opens))


def test_a_window_opens_once_in_each_of_the_weeks_of_a_year() -> None:
    promotes = PROMOTE.validate_python(["Sun 02:00-03:00"])
    begin, hours = at("2027-01-01T00:00"), 0.0
    for quarter in range(4 * 24 * 365):
        hours += is_open(promotes, begin + quarter * 900, BERLIN) / 4
    assert hours == 53  # 52 Sundays, and in October the hour comes twice


def test_without_windows_it_is_always_open_or_never() -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC).timestamp()
    assert (is_open("now", now), opening("now", now)) == (True, now)
    assert (is_open("manual", now), opening("manual", now)) == (False, None)


@pytest.mark.parametrize("text", ["now", "manual", ["Sat 02:00-05:00"], ["22:00-04:00", "Fri-Mon 00:00-24:00"]])
def test_what_is_read_is_written_back(text: Any) -> None:
    promotes = PROMOTE.validate_python(text)
    assert PROMOTE.dump_python(promotes) == text
    assert PROMOTE.validate_python(PROMOTE.dump_python(promotes)) == promotes


@pytest.mark.parametrize(
    "text",
    ["", "later", [], [1], "02:00-03:00", ["02:00"], ["Sat 02:00-02:00"], ["24:00-01:00"], ["01:00-24:01"], ["01:60-02:00"],
     ["Sam 02:00-05:00"], ["Sat,Sun 02:00-05:00"], ["Sat 02:00-05:00 50MB/s"], True, None],
)  # fmt: skip
def test_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match=r"is not a window; write it like|give .now., .manual.|names an unknown day"):
        PROMOTE.validate_python(text)
