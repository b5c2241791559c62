"""What a scan of the drop folder means, and whether a file has stopped changing. Pure: no I/O, time is an argument."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

from axomsync.core.records import Stamp, Upload, UploadState

FINISHED = frozenset({UploadState.UPLOADED, UploadState.DUPLICATE, UploadState.REJECTED})


@dataclass(slots=True)
class Meaning:
    """What follows from one scan. Paths are relative to the drop folder."""

    new: list[bytes] = field(default_factory=list)  # no row yet
    replaced: list[Upload] = field(default_factory=list)  # another file lies where a finished one lay
    changed: list[Upload] = field(default_factory=list)  # what was known of the content no longer holds
    settling: dict[bytes, Stamp] = field(default_factory=dict)  # to be watched until they stand still
    unfinished: list[Upload] = field(default_factory=list)  # checked or even uploaded, and still lying there
    touched: list[Upload] = field(default_factory=list)  # only the ctime is another: rights or owner, not the bytes
    doubtful: list[Upload] = field(default_factory=list)  # the same of files that stay when they are uploaded
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
        elif row.state in FINISHED and not same_file(stamp, row.stamp):
            meaning.replaced.append(row)
        elif _starts_over(row, stamp, max_put):
            meaning.changed.append(row)
        elif _looks_alike(stamp, row.stamp) and (seconds := left(row)) > 0:
            meaning.next_in = seconds if meaning.next_in is None else min(seconds, meaning.next_in)
        elif row.state in (UploadState.SETTLING, UploadState.CHECKING):
            meaning.settling[row.path] = stamp
        else:
            _add(meaning, row, stamp, keeps)
    meaning.new = list(unknown)
    return meaning


def same_file(one: Stamp, other: Stamp) -> bool:
    """Whether two looks saw the same bytes, as far as stamps can tell: what was read is proven by its digest.

    A change of rights, owner or links sets the ctime alone, and needs no new start. Some filesystems (FUSE, mergerfs) give
    another inode number at each look; a file that took the place of another would have another ctime as well.
    """
    if (one.dev, one.size, one.mtime_ns) != (other.dev, other.size, other.mtime_ns):
        return False
    return one.ino == other.ino or one.ctime_ns == other.ctime_ns


def _looks_alike(one: Stamp, other: Stamp) -> bool:
    """As `same_file`, and nobody touched it: new rights may be what it waited for."""
    return same_file(one, other) and one.ctime_ns == other.ctime_ns


def _add(meaning: Meaning, row: Upload, stamp: Stamp, keeps: bool) -> None:
    touched = stamp.ctime_ns != row.stamp.ctime_ns
    stays = keeps and row.state in (UploadState.UPLOADED, UploadState.DUPLICATE)
    if touched and stays and row.sha256 is not None:
        meaning.doubtful.append(row)
    elif touched and row.state not in FINISHED:
        meaning.touched.append(row)
    if _goes_on(row, keeps):
        meaning.unfinished.append(row)


def _starts_over(row: Upload, stamp: Stamp, max_put: float) -> bool:
    was_read = row.state is not UploadState.SETTLING
    return (was_read and not same_file(stamp, row.stamp)) or (row.state is UploadState.HELD and stamp.size <= max_put)


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
            path: (stamp, known[1] if (known := self._since.get(path)) and same_file(known[0], stamp) else now)
            for path, stamp in found.items()
        }
        still = [path for path, (_, since) in self._since.items() if since + self._settle <= now]
        return sorted(still, key=lambda path: (found[path].mtime_ns, path))

    def due_in(self, now: float) -> float | None:
        """Seconds until the next path can have settled, None when no more can."""
        ends = [end for _, since in self._since.values() if (end := since + self._settle) > now]
        return min(ends) - now if ends else None
