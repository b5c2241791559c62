"""Durations, sizes, rates, timetables and windows, read from text and written back. Pure."""

import re
from collections.abc import Mapping
from decimal import Decimal

from axomsync.core.policy import BandwidthRule
from axomsync.core.text import printable
from axomsync.core.windows import DAY_MINUTES, Promotes, Window

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "B": 1,
    **{prefix + "B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), 1)},
    **{prefix + "iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)},
    "KB": 1000,
}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
API_KEY = re.compile(r"axom_[a-z]+_[A-Za-z0-9_-]+")
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")
_LONGEST_SECONDS = 366 * 86400.0  # the operating system's timers have a limit beyond that
_LARGEST_BYTES = 1 << 62


def parse_duration(value: object) -> float:
    """Return the seconds in `"90s"`, `"5m"`, `"2h"`, `"1d"` or `"500ms"`."""
    amount = _amount(value, _DURATION_UNITS)
    if amount is None:
        raise ValueError(f'{shown(value)} is not a duration; write it like "90s", "5m" or "2h"')
    if amount > _LONGEST_SECONDS:
        raise ValueError(f"{shown(value)} is longer than a year")
    return amount


def show_duration(seconds: float) -> str:
    """Write seconds as `parse_duration` reads them, in the largest unit that needs no fraction."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / _DURATION_UNITS[unit]
        if seconds and count == int(count):
            return f"{int(count)}{unit}"
    return f"{Decimal(repr(seconds)):f}s" if seconds else "0s"


def parse_size(value: object) -> int:
    """Return the bytes in `"64MiB"` or `"5GB"`."""
    amount = _amount(value, _SIZE_UNITS)
    if amount is None:
        raise ValueError(f'{shown(value)} is not a size; write it like "64MiB" or "5GB"')
    if amount > _LARGEST_BYTES:
        raise ValueError(f"{shown(value)} is more than any disk holds")
    return int(amount)


def show_size(count: float) -> str:
    """Write bytes as `parse_size` reads them, in the unit that needs the fewest digits without a fraction."""
    whole = [f"{int(count) // size}{unit}" for unit, size in _SIZE_UNITS.items() if unit != "KB" and count % size == 0]
    return min(whole, key=len) if count and whole else f"{Decimal(repr(count)):f}B"


def parse_bandwidth(value: object) -> tuple[BandwidthRule, ...]:
    """Read `"100MB/s"`, `""` (no limit) or a timetable such as `["Mon-Fri 08:00 50MB/s", "20:00 off"]`."""
    if value == "":
        return ()
    if isinstance(value, str):
        return (BandwidthRule(frozenset(range(7)), 0, _rate(value)),)
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError('give a rate like "100MB/s" or a list like ["Mon-Fri 08:00 50MB/s", "20:00 off"]')
    return tuple(_bandwidth_rule(line) for line in value)


def _bandwidth_rule(line: str) -> BandwidthRule:
    match = re.fullmatch(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))?\s+)?(\d\d?):(\d\d)\s+(\S+)", line.strip())
    if not match or int(match[3]) > 23 or int(match[4]) > 59:
        raise ValueError(f'{line!r} is not a line of a timetable; write it like "Mon-Fri 08:00 50MB/s"')
    return BandwidthRule(_days(line, match), int(match[3]) * 60 + int(match[4]), _rate(match[5]))


def _days(line: str, match: re.Match[str]) -> frozenset[int]:
    """Return the days that the first two groups name; all without them."""
    first, last = (match[1] or "mon").lower(), (match[2] or match[1] or "sun").lower()
    if first not in _DAYS or last not in _DAYS:
        raise ValueError(f"{line!r} names an unknown day; days are Mon Tue Wed Thu Fri Sat Sun")
    begin = _DAYS.index(first)
    return frozenset((begin + n) % 7 for n in range((_DAYS.index(last) - begin) % 7 + 1))


def parse_promote(value: object) -> Promotes:
    """Read `"now"`, `"manual"` or windows such as `["Sat 02:00-05:00"]`."""
    if value == "now" or value == "manual":
        return value
    if not isinstance(value, list) or not value or not all(isinstance(line, str) for line in value):
        raise ValueError('give "now", "manual", or windows like ["Sat 02:00-05:00"]')
    return tuple(_window(line) for line in value)


def _window(line: str) -> Window:
    match = re.fullmatch(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))?\s+)?(\d\d?):(\d\d)-(\d\d?):(\d\d)", line.strip())
    begin, end = (int(match[3]) * 60 + int(match[4]), int(match[5]) * 60 + int(match[6])) if match else (0, 0)
    clock = match is not None and int(match[4]) < 60 and int(match[6]) < 60
    if match is None or not clock or begin >= DAY_MINUTES or end > DAY_MINUTES or begin == end:
        raise ValueError(f'{line!r} is not a window; write it like "Sat 02:00-05:00" or "22:00-04:00"')
    return Window(_days(line, match), begin, end)


def show_promote(promotes: Promotes) -> str | list[str]:
    """Write what `parse_promote` reads."""
    if isinstance(promotes, str):
        return promotes
    return [f"{_show_days(window.days)}{_show_time(window.begin)}-{_show_time(window.end)}" for window in promotes]


def _show_time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def show_bandwidth(rules: tuple[BandwidthRule, ...]) -> str | list[str]:
    """Write rules as `parse_bandwidth` reads them."""
    if len(rules) == 1 and len(rules[0].days) == 7 and rules[0].minute == 0 and rules[0].rate is not None:
        return _show_rate(rules[0].rate)
    return [f"{_show_days(rule.days)}{_show_time(rule.minute)} {_show_rate(rule.rate)}" for rule in rules]


def _show_days(days: frozenset[int]) -> str:
    if len(days) == 7:
        return ""
    first = next(day for day in days if (day - 1) % 7 not in days)
    last = next(day for day in days if (day + 1) % 7 not in days)
    names = [_DAYS[day].capitalize() for day in (first, last)]
    return f"{names[0]} " if first == last else f"{'-'.join(names)} "


def _show_rate(rate: float | None) -> str:
    return "off" if rate is None else f"{show_size(rate)}/s"


def _rate(text: str) -> float | None:
    if text == "off":
        return None
    amount = _amount(text.removesuffix("/s"), _SIZE_UNITS) if text.endswith("/s") else None
    if not amount or amount > _LARGEST_BYTES:
        raise ValueError(f'{text!r} is not a rate; write it like "100MB/s", or "off" for no limit')
    return amount


def _amount(value: object, units: Mapping[str, float]) -> float | None:
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if not match or match[2] not in units or len(match[1]) > 30:
        return None
    exact = Decimal(match[1]) * Decimal(repr(units[match[2]]))
    return int(exact) if exact == int(exact) else float(exact)


def shown(value: object) -> str:
    """Return a value as the file spells it, without an API key that stands in the wrong place."""
    text = API_KEY.sub("axom_…", str(value))
    return f'"{printable(text)}"' if isinstance(value, str) else printable(text)
