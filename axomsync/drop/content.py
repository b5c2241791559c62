"""The bytes that are uploaded for a file while it is carried: those of the file itself, or what a compressed file holds.

A compressed file is unpacked into the spool when its bytes are first needed, and stays there while this carrier works on it:
check, digests and every quick try read the same unpacked bytes. A later try unpacks again, so that files which wait take no
room; the same bytes must come out.

Failures handled: a file that can't be unpacked (`BrokenArchive`), that holds more than one PUT takes (`TooLarge`, before the
rest is unpacked) or more than there is room for (`NoRoom`), that changes while it is unpacked, or whose content is not the
checked one (`SourceChanged`), a stop in the middle (`Stopping`, of `step`).
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from axomsync.core.errors import AxomsyncError, SourceChanged
from axomsync.core.locks import held
from axomsync.core.records import Stamp, Upload
from axomsync.drop import source
from axomsync.drop.names import Packing, packing_of
from axomsync.drop.settle import same_file
from axomsync.drop.spool import Spool, SpoolFile
from axomsync.drop.unpacking import BrokenArchive, Unpacked

FRAMES_AT_ONCE = 2  # a zstd frame may need 128 MiB of memory

Step = Callable[[], None]


class TooLarge(AxomsyncError):
    """A compressed file holds `needed` bytes or more, and storage does not take so many in one PUT."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes to upload: the first `size` of the descriptor `file`."""

    file: int
    size: int
    packed_sha256: str | None = None  # of the dropped file, when it is compressed


@dataclass(frozen=True, slots=True)
class _Spooled:
    file: SpoolFile
    stamp: Stamp
    packed_sha256: str


class Contents:
    """Opens contents, from any thread. `most`: the largest content; a compressed file that holds more is given up early."""

    def __init__(self, root: Path, spool: Spool, most: float) -> None:
        self.root, self.spool, self.most = root, spool, most
        self._frames = threading.BoundedSemaphore(FRAMES_AT_ONCE)

    def of(self, upload: Upload) -> "Content":
        """The content of one upload, to be closed when its carrier ends."""
        return Content(self, upload.path)

    def may_unpack(self, packing: Packing, step: Step) -> AbstractContextManager[None]:
        """Wait until memory for the unpacking is there."""
        return held(self._frames, step) if packing is Packing.ZSTD else nullcontext()


class Content:
    """The content of one upload, for one carrier."""

    def __init__(self, contents: Contents, path: bytes) -> None:
        self._contents, self._path = contents, path
        self._packing = packing_of(path)
        self._lock = threading.Lock()
        self._spooled: _Spooled | None = None

    def close(self) -> None:
        """Give up the unpacked bytes."""
        if self._spooled is not None:
            self._spooled.file.close()
            self._spooled = None

    @contextmanager
    def opened(self) -> Iterator[tuple[int, Stamp]]:
        """Open the dropped file, as `source.opened` does."""
        with source.opened(self._contents.root, self._path) as (file, stamp):
            yield file, stamp

    def body(self, file: int, stamp: Stamp, step: Step, checked: Upload | None = None) -> Body:
        """Return the bytes of the opened file, unpacked if it is compressed; `step` is called meanwhile.

        `checked` is the row, if these must be the checked bytes.
        """
        if self._packing is None:
            return Body(file, stamp.size)
        spooled = self._unpacked(self._packing, file, stamp, step, checked)
        return Body(spooled.file.descriptor, spooled.file.size, spooled.packed_sha256)

    def _unpacked(self, packing: Packing, file: int, stamp: Stamp, step: Step, checked: Upload | None) -> _Spooled:
        with self._lock:  # shards are sent at the same time
            return self._unpack_once(packing, file, stamp, step, checked)

    def _unpack_once(self, packing: Packing, file: int, stamp: Stamp, step: Step, checked: Upload | None) -> _Spooled:
        known = self._spooled
        if known is not None and same_file(known.stamp, stamp):
            return known
        self.close()
        try:
            self._spooled = spooled = self._unpack(packing, file, stamp, step, checked)
        except BrokenArchive as broken:
            if checked is None:
                raise
            raise SourceChanged(f"it was unpacked before, and can't be now: {broken}") from None
        if checked is not None and (spooled.packed_sha256, spooled.file.size) != (checked.file_sha256, checked.size):
            raise SourceChanged("the file's content changed after it was checked")
        return spooled

    def _unpack(self, packing: Packing, file: int, stamp: Stamp, step: Step, checked: Upload | None) -> _Spooled:
        offset = 0

        def take(most: int) -> bytes:
            nonlocal offset
            step()
            piece = os.pread(file, most, offset)
            offset += len(piece)
            return piece

        root, name = self._contents.root, os.fsdecode(os.path.basename(self._path))
        unpacked = Unpacked(take, packing, name)
        expected = stamp.size if checked is None else checked.size
        spooled = self._contents.spool.open(expected)
        try:
            with self._contents.may_unpack(packing, step):
                while piece := unpacked.read():
                    self._demand_size(stamp.size, spooled.size + len(piece), checked)
                    spooled.write(piece)
                    step()
            source.demand_unchanged(root, self._path, file, stamp)
        except BaseException as failure:
            spooled.close()
            if isinstance(failure, BrokenArchive):  # while it changes, anything may be read
                source.demand_unchanged(root, self._path, file, stamp)
            raise
        return _Spooled(spooled, stamp, unpacked.sha256)

    def _demand_size(self, packed: int, size: int, checked: Upload | None) -> None:
        if checked is not None:
            if size > checked.size:
                raise SourceChanged("the file's content changed after it was checked")
        elif size > self._contents.most:
            raise TooLarge(f"its {packed} bytes hold {size} bytes or more unpacked; these", size)
