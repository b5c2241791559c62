"""What a scan of the drop folder means, and whether a file has stopped changing. Pure: no I/O, time is an argument."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

from axomsync.records import Stamp, Upload, UploadState

FINISHED = frozenset({UploadState.UPLOADED, UploadState.DUPLICATE, UploadState.REJECTED})


@dataclass(slots=True)
class Meaning:
    """What follows from one scan. Paths are relative to the drop folder."""

    new: list[bytes] = field(default_factory=list)  # no row yet
    replaced: list[Upload] = field(default_factory=list)  # another file lies where a finished one lay
    changed: list[Upload] = field(default_factory=list)  # what was known of the content no longer holds
    settling: dict[bytes, Stamp] = field(default_factory=dict)  # to be watched until they stand still
    unfinished: list[Upload] = field(default_factory=list)  # checked or even uploaded, and still lying there
    vanished: list[Upload] = field(default_factory=list)  # row, but no file
    next_in: float | None = None  # seconds until the first of those comes that wait for a time


def interpret(
    found: Mapping[bytes, Stamp],
    rows: Iterable[Upload],
    busy: Container[int],
    left: Callable[[Upload], float],
    *,
    keeps: bool,
    max_put: float,
) -> Meaning:
    """Compare a scan with the ledger's rows. `busy` uploads are left alone, those that still wait for `left` seconds
    too.

    `keeps` says that finished files stay where they are. Held files that `max_put` (bytes) allows are taken up again.
    """
    meaning = Meaning()
    unknown = dict(found)
    for row in rows:
        stamp = unknown.pop(row.path, None)
        if row.id in busy:
            continue
        if stamp is None:
            meaning.vanished.append(row)
        elif row.state in FINISHED and stamp != row.stamp:
            meaning.replaced.append(row)
        elif _starts_over(row, stamp, max_put):
            meaning.changed.append(row)
        elif stamp == row.stamp and (seconds := left(row)) > 0:
            meaning.next_in = seconds if meaning.next_in is None else min(seconds, meaning.next_in)
        elif row.state in (UploadState.SETTLING, UploadState.CHECKING):
            meaning.settling[row.path] = stamp
        elif _goes_on(row, keeps):
            meaning.unfinished.append(row)
    meaning.new = list(unknown)
    return meaning


def _starts_over(row: Upload, stamp: Stamp, max_put: float) -> bool:
    was_read = row.state is not UploadState.SETTLING
    return (was_read and stamp != row.stamp) or (row.state is UploadState.HELD and stamp.size <= max_put)


def _goes_on(row: Upload, keeps: bool) -> bool:
    # Uploading although nobody is busy with it: the ledger could not be written when its carrier gave up.
    to_deliver = row.state in (UploadState.QUEUED, UploadState.UPLOADING)
    to_put_away = row.state in (UploadState.UPLOADED, UploadState.DUPLICATE) and not keeps
    return to_deliver or to_put_away or row.state is UploadState.REJECTED


class Settler:
    """Remembers since when each path has carried its stamp. `settle` and all times are monotonic seconds."""

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._since: dict[bytes, tuple[Stamp, float]] = {}

    def observe(self, found: Mapping[bytes, Stamp], now: float) -> list[bytes]:
        """Take in one scan and return the paths that have stood still for `settle`, oldest modification first.

        Paths that are no longer found are forgotten; a path whose stamp differs starts anew.
        """
        self._since = {
            path: (stamp, known[1] if (known := self._since.get(path)) and known[0] == stamp else now)
            for path, stamp in found.items()
        }
        still = [path for path, (_, since) in self._since.items() if since + self._settle <= now]
        return sorted(still, key=lambda path: (found[path].mtime_ns, path))

    def due_in(self, now: float) -> float | None:
        """Seconds until the next path can have settled, None when no more can."""
        ends = [end for _, since in self._since.values() if (end := since + self._settle) > now]
        return min(ends) - now if ends else None
