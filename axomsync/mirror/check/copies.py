"""Second copies of files that came through gateways: a cache does not check its own disk, and nothing else would.

A file that storage's checksum proves is what storage has, whatever way it came. Another one is fetched again, through the
next gateway of each block, and compared; two caches do not rot in the same bit. When they differ, storage's own copy counts.
So what nothing can prove costs storage two copies for all boxes together, not one for each box.

Failures handled: wrong bytes of a gateway (it is held out, and named), an object that was replaced between two copies (they
are not compared), a file that can't be read (`LocalFault`).
"""

import os
from collections.abc import Callable

from blake3 import blake3

from axomsync.core.oserrors import local_fault
from axomsync.core.records import DurableSegment, ModelFile, Proof
from axomsync.core.text import printable
from axomsync.mirror.check.integrity import Corrupt
from axomsync.mirror.fetch.hashing import READ_SIZE
from axomsync.mirror.fetch.partial import PartialFile
from axomsync.runtime.ring import Ring

Step = Callable[[], None]


class Unproven(Corrupt):
    """Nothing is known to be wrong, and nothing proves these bytes: another copy has to agree."""


class Copies:
    """Judges complete files by the copies of them that were discarded before."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def doubt(self, file: PartialFile, recorded: ModelFile, proof: Proof, step: Step) -> Corrupt | None:
        """The reason to fetch a file once more; None when these bytes may be published. Gateways are blamed here."""
        came = any(part.gateway is not None for part in recorded.segments)
        earlier = file.copies if file.copies_etag == file.etag else []
        if proof is not Proof.SIZE:
            self._blame(file, _differing(file, earlier, step))
            file.copies = []
            return None
        if file.agreed or not (came or earlier):
            return None
        if not earlier:
            return Unproven("it came through a gateway, and nothing proves it; a copy that came another way has to agree")
        differing = _differing(file, earlier, step)
        if differing and came:
            return Corrupt("copies that came through two gateways differ; storage's own counts")
        self._blame(file, differing)
        file.copies, file.agreed = [], True
        return None

    def _blame(self, file: PartialFile, wrong: list[DurableSegment]) -> None:
        for part in wrong:
            self._ring.count("wrong", part.end - part.start)
        for gateway in dict.fromkeys(part.gateway for part in wrong):
            self._ring.gave_wrong_bytes(gateway or "", f"{printable(file.rel)} ({printable(file.job.gauge.name)})")


def _differing(file: PartialFile, parts: list[DurableSegment], step: Step) -> list[DurableSegment]:
    """Those `parts` of an earlier copy that have other bytes than the file has now."""
    if not parts:
        return []
    try:
        with file.path.open("rb", buffering=0) as opened:
            return [part for part in parts if _digest(opened.fileno(), part.start, part.end, step) != part.blake3]
    except OSError as error:
        raise local_fault(error, str(file.path)) from None


def _digest(descriptor: int, position: int, end: int, step: Step) -> str:
    digest = blake3()
    while position < end and (piece := os.pread(descriptor, min(READ_SIZE, end - position), position)):
        digest.update(piece)
        position += len(piece)
        step()
    return digest.hexdigest()
