"""What a compressed file holds, unpacked while it is read, in constant memory.

Several gzip members or zstd frames in one file give what they hold one after the other, as `gunzip` and `unzstd` do; zero
bytes after the last gzip member are padding. The checksums inside are compared.

Failures handled (`BrokenArchive`, with the remedy): a file that is empty, that ends early, that is damaged, that goes on
with other bytes, that is compressed in another way or not at all, zstd frames that need a dictionary or too much memory.
"""

import hashlib
import sys
import zlib
from collections.abc import Callable

from axomsync.core.text import printable
from axomsync.drop.foreign import kind_of
from axomsync.drop.names import Packing

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

TAKEN = 64 * 1024  # compressed bytes that are read at once; the rest after a member is copied, so it must be short
GIVEN = 256 * 1024  # unpacked bytes that are given at once
HEAD = 4096  # bytes by which other kinds are known
WINDOW_LOG = 27  # 128 MiB, as of `zstd --ultra --long`; a frame may ask for 2 GiB and more
GZIP_BITS = 31  # of zlib: a gzip header, and the largest window

_MAGIC = {Packing.GZIP: (b"\x1f\x8b",), Packing.ZSTD: (b"\x28\xb5\x2f\xfd",)}
_SKIPPABLE = tuple(bytes((0x50 + number, 0x2A, 0x4D, 0x18)) for number in range(16))  # zstd frames that hold nothing


class BrokenArchive(Exception):
    """A compressed file that can't be unpacked, with the reason and the remedy; the same file never can."""


class _Member:
    """One gzip member."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(GZIP_BITS)

    def take(self, piece: bytes, most: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail or piece, most)

    @property
    def hungry(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data


class _Frame:
    """One zstd frame."""

    def __init__(self) -> None:
        self._decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})

    def take(self, piece: bytes, most: int) -> bytes:
        return self._decompressor.decompress(piece, most)

    @property
    def hungry(self) -> bool:
        return self._decompressor.needs_input

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data


class Unpacked:
    """The content of a compressed stream. `take` gives at most so many of its bytes, and none at its end.

    `sha256` and `bytes` are those of the compressed bytes taken so far: of all when `read` has given nothing.
    """

    def __init__(self, take: Callable[[int], bytes], packing: Packing, name: str) -> None:
        self._take, self._packing, self._name = take, packing, name
        self._magic = _MAGIC[packing] + (_SKIPPABLE if packing is Packing.ZSTD else ())
        self._stream: _Member | _Frame | None = None
        self._rest = b""  # taken and not handed on yet
        self._is_first = True
        self._digest = hashlib.sha256()
        self.bytes, self.given = 0, 0

    @property
    def sha256(self) -> str:
        """Digest of the compressed bytes."""
        return self._digest.hexdigest()

    def read(self, most: int = GIVEN) -> bytes:
        """Give the next bytes, at most `most` (more than zero); none at the end. Raises `BrokenArchive`."""
        while (stream := self._stream or self._begin()) is not None:
            piece = self._unpack(stream, most)
            self.given += len(piece)
            if piece:
                return piece
        return b""

    def _begin(self) -> _Member | _Frame | None:
        """Begin the next member or frame; None if there is none."""
        head = self._peek(len(self._magic[0]))
        if self._packing is Packing.GZIP and not self._is_first:
            while self._rest.startswith(b"\0"):
                self._rest = self._rest.lstrip(b"\0")
                head = self._peek(len(self._magic[0]))
        if self._is_first:
            self._demand_known(self._peek(HEAD))
        if not head:
            return None
        if not head.startswith(self._magic):
            if any(magic.startswith(head) for magic in self._magic):
                raise self._ends_early()
            at = self.bytes - len(self._rest) + 1
            raise BrokenArchive(
                f"from byte {at} on it is no {self._packing} data, though it is before that; remove what was added to the "
                "file, or pack it again"
            )
        self._stream = _Member() if self._packing is Packing.GZIP else _Frame()
        self._is_first = False
        return self._stream

    def _unpack(self, stream: _Member | _Frame, most: int) -> bytes:
        piece = b""
        if stream.hungry:
            piece = self._peek(1)
            if not piece:
                raise self._ends_early()
            self._rest = b""
        try:
            unpacked = stream.take(piece, most)
        except (zlib.error, zstd.ZstdError) as error:
            raise BrokenArchive(self._words(str(error))) from None
        if stream.eof:
            self._rest, self._stream = stream.unused_data, None
        return unpacked

    def _peek(self, least: int) -> bytes:
        """Return what was taken and not handed on: `least` bytes or more, fewer only at the end."""
        while len(self._rest) < least and (piece := self._take(TAKEN)):
            self._digest.update(piece)
            self.bytes += len(piece)
            self._rest += piece
        return self._rest

    def _demand_known(self, head: bytes) -> None:
        """Raise `BrokenArchive`, with the name of what it is, unless the file begins as such data."""
        if not head:
            raise BrokenArchive(f"the file is empty, and no {self._packing} data; copy it again")
        if head.startswith(self._magic) or any(magic.startswith(head) for magic in self._magic):
            return
        for packing, magic in _MAGIC.items():
            if head.startswith(magic):
                ending = "*.gz" if packing is Packing.GZIP else "*.zst"
                raise BrokenArchive(f"this is not {self._packing} data but {packing} data; rename it to {ending}")
        if (kind := kind_of(head)) is not None:
            raise BrokenArchive(f"this is not {self._packing} data but {kind}")
        if head.lstrip().startswith(b"{"):
            stem = self._name.rpartition(".")[0]
            raise BrokenArchive(f"this is not {self._packing} data but plain text; rename it to {printable(stem)}")
        raise BrokenArchive(f"this is no {self._packing} data; pack it again, or rename it to what it is")

    def _ends_early(self) -> BrokenArchive:
        return BrokenArchive(
            f"the {self._packing} data end early, after {self.bytes} bytes that hold {self.given} unpacked; "
            "was the copy cut? Copy it again"
        )

    def _words(self, error: str) -> str:
        """The library's error with a remedy."""
        if "too much memory" in error:
            return f"it needs more memory than {2 ** (WINDOW_LOG - 20)} MiB to be unpacked; pack it again without --long"
        if "ictionary" in error:
            return "it was packed with a dictionary, which is not in the file; pack it again without"
        place = f"near byte {self.bytes - len(self._rest)}, after {self.given} unpacked bytes"
        if ("incorrect" in error and "check" in error) or "checksum" in error:
            return f"the {self._packing} data are damaged: a checksum {place} is wrong; copy or pack the file again"
        return f"the {self._packing} data are damaged {place}; copy or pack the file again"
