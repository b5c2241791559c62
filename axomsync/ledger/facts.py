"""The names of what an agent notes in the ledger about itself, and other processes show."""

PAUSE_ENDS = "pause_ends"  # until when it is paused: seconds since the epoch, or "inf"
PAUSE_SECONDS = "pause_seconds"  # for how long that was asked
PUT_AWAY = "put_away"  # files and bytes in uploaded/ and in rejected/: JSON
LEFT_ALONE = "left_alone"  # which files of the drop folder are not taken, by rule: JSON


def number_in(fact: str | None) -> float | None:
    """A fact of the ledger that is a number, None when it is none."""
    try:
        return float(fact) if fact else None
    except ValueError:
        return None
