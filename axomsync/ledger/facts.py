"""Names of the facts that an agent records in the ledger about itself, for other processes."""

PAUSE_ENDS = "pause_ends"  # end of the pause: seconds since the epoch, or "inf"
PAUSE_SECONDS = "pause_seconds"  # requested length of the pause
LAST_PRESIGN = "last_presign"  # when the console gave a signed URL for an upload last: seconds since the epoch
PUT_AWAY = "put_away"  # files and bytes in uploaded/ and in rejected/: JSON
CURRENTS_UNKNOWN = "currents_unknown"  # set by a migration until the links of an older version were read
LEFT_ALONE = "left_alone"  # files of the drop folder that are not taken, by rule: JSON
GATEWAYS = "gateways"  # gateways and how they do: JSON
VIEWS = "views"  # views that the agent keeps beside the mirror, one a line


def number_in(fact: str | None) -> float | None:
    """Convert a fact to a number; None if it is not a number."""
    try:
        return float(fact) if fact else None
    except ValueError:
        return None
