"""What a scan of the drop folder means, and whether a file has stopped changing. Pure: no I/O, time is an argument."""

from collections.abc import Container, Iterable, Mapping
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
    vanished: list[bytes] = field(default_factory=list)  # row, but no file


def interpret(
    found: Mapping[bytes, Stamp], rows: Iterable[Upload], busy: Container[int], now: float, *, keeps: bool
) -> Meaning:
    """Compare a scan with the ledger's rows. `busy` uploads are left alone, those with a later `next_attempt` too.

    `keeps` says that finished files stay where they are.
    """
    meaning = Meaning()
    unknown = dict(found)
    for row in rows:
        stamp = unknown.pop(row.path, None)
        if row.id in busy:
            continue
        if stamp is None:
            meaning.vanished.append(row.path)
        elif row.state is UploadState.SETTLING:
            if row.next_attempt is None or row.next_attempt <= now:
                meaning.settling[row.path] = stamp
        elif stamp != row.stamp:
            (meaning.replaced if row.state in FINISHED else meaning.changed).append(row)
        elif _goes_on(row, now, keeps):
            meaning.unfinished.append(row)
    meaning.new = list(unknown)
    return meaning


def _goes_on(row: Upload, now: float, keeps: bool) -> bool:
    due = row.next_attempt is None or row.next_attempt <= now
    to_put_away = row.state in (UploadState.UPLOADED, UploadState.DUPLICATE) and not keeps
    return due and (row.state is UploadState.QUEUED or to_put_away)


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
        still = [path for path, (_, since) in self._since.items() if now - since >= self._settle]
        return sorted(still, key=lambda path: (found[path].mtime_ns, path))

    def due_in(self, now: float) -> float | None:
        """Seconds until the next path can have settled, None when none is observed."""
        waits = [self._settle - (now - since) for _, since in self._since.values()]
        return max(0.0, min(waits)) if waits else None
