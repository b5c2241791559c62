"""Meaning of a scan of the drop folder, and detection of files that no longer change. Pure: no I/O, time is an argument."""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

from axomsync.core.records import Stamp, Upload, UploadState

LEAST_MORE = 8  # a held compressed file is tried again when there is an eighth more room than it needed so far

FINISHED = frozenset({UploadState.UPLOADED, UploadState.DUPLICATE, UploadState.REJECTED})


@dataclass(slots=True)
class Meaning:
    """Consequences of one scan. Paths are relative to the drop folder."""

    new: list[bytes] = field(default_factory=list)  # no row yet
    replaced: list[Upload] = field(default_factory=list)  # another file has the name of a finished one
    changed: list[Upload] = field(default_factory=list)  # the recorded content is no longer valid
    settling: dict[bytes, Stamp] = field(default_factory=dict)  # to be watched until they no longer change
    unfinished: list[Upload] = field(default_factory=list)  # checked or even uploaded, and still in the folder
    touched: list[Upload] = field(default_factory=list)  # only the ctime differs: rights or owner, not the bytes
    doubtful: list[Upload] = field(default_factory=list)  # the same for uploaded files that stay in the folder
    vanished: list[Upload] = field(default_factory=list)  # row, but no file
    next_in: float | None = None  # seconds until the first waiting row is due


def interpret(
    found: Mapping[bytes, Stamp],
    rows: Iterable[Upload],
    busy: Container[int],
    left: Callable[[Upload], float],
    *,
    keeps: bool,
    max_put: float,
    room: float = math.inf,
) -> Meaning:
    """Compare a scan with the ledger's rows. Rows in `busy`, and rows that still wait for `left` seconds, are left alone.

    `keeps`: finished files stay in their place. Held files that `max_put` (bytes) allows are taken again, compressed
    ones if there is also `room` for what they hold.
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
        elif _starts_over(row, stamp, max_put, room):
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
    """Check that two stamps show the same bytes, as far as stamps can; the digest proves the bytes that were read.

    A change of rights, owner or links sets only the ctime, and needs no new start. Some filesystems (FUSE, mergerfs) give
    another inode number at each look; a file that replaced another would also have another ctime. Others (Btrfs, NFS, all
    without a disk of their own) may have another device number at each mount; inode number and ctime are the same then.
    """
    if (one.size, one.mtime_ns) != (other.size, other.mtime_ns):
        return False
    same_ino, same_ctime = one.ino == other.ino, one.ctime_ns == other.ctime_ns
    return same_ino or same_ctime if one.dev == other.dev else same_ino and same_ctime


def _looks_alike(one: Stamp, other: Stamp) -> bool:
    """`same_file` and the same ctime; another ctime may mean new rights, for which the file waited."""
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


def _starts_over(row: Upload, stamp: Stamp, max_put: float, room: float) -> bool:
    was_read = row.state is not UploadState.SETTLING
    fits = row.state is UploadState.HELD and _fits(row, stamp, max_put, room)
    return (was_read and not same_file(stamp, row.stamp)) or fits


def _fits(row: Upload, stamp: Stamp, max_put: float, room: float) -> bool:
    if row.unpacked is None:
        return stamp.size <= max_put
    # How much more it holds is unknown: with little more room each time, it would be unpacked again and again.
    return row.unpacked <= max_put and row.unpacked + row.unpacked // LEAST_MORE <= room


def _goes_on(row: Upload, keeps: bool) -> bool:
    # A row can be uploading without a carrier: the ledger could not be written when its carrier gave up.
    to_deliver = row.state in (UploadState.QUEUED, UploadState.UPLOADING)
    to_put_away = row.state in (UploadState.UPLOADED, UploadState.DUPLICATE) and not keeps
    return to_deliver or to_put_away or row.state is UploadState.REJECTED


class Settler:
    """Remembers for each path the time since when its stamp is unchanged. `settle` and all times are monotonic seconds."""

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._since: dict[bytes, tuple[Stamp, float]] = {}

    def observe(self, found: Mapping[bytes, Stamp], now: float) -> list[bytes]:
        """Take one scan; returns the paths that were unchanged for `settle`, oldest modification first.

        Missing paths are forgotten; a path with another stamp starts again.
        """
        self._since = {
            path: (stamp, known[1] if (known := self._since.get(path)) and same_file(known[0], stamp) else now)
            for path, stamp in found.items()
        }
        still = [path for path, (_, since) in self._since.items() if since + self._settle <= now]
        return sorted(still, key=lambda path: (found[path].mtime_ns, path))

    def due_in(self, now: float) -> float | None:
        """Seconds until the next path can be settled; None if no path waits."""
        ends = [end for _, since in self._since.values() if (end := since + self._settle) > now]
        return min(ends) - now if ends else None
