"""Times as people give them to options: back from now, or a local date or time.

Failures handled: text that is neither (wrong usage, with examples).
"""

import time
from contextlib import suppress

import click


def time_of(option: str, text: str) -> float:
    """Return seconds since the epoch for a duration back from now, or for a local date or time."""
    from datetime import datetime

    from axomsync.config.units import parse_duration

    with suppress(ValueError):
        return time.time() - parse_duration(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"{option} {text}: neither a duration nor a time; write it like 2h, 7d, 2027-01-31 or 2027-01-31T08:00"
        ) from None
