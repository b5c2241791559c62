"""The gate `no-pickle`: no file may hold a pickle, by content, also inside archives and compressed files.

Nothing is loaded, imported or run; of most files only the first bytes are read. What can't be looked into is refused, if a
program might look for a pickle in it: an archive that is broken, encrypted or too deep, a kind of compression that this
program does not have, a NumPy header that may stand for objects, a file of unknown content whose name says pickle.

Failures handled: all of these, and links and devices in the folder (a `Finding`); files that can't be read (`OSError`).
"""

import ast
import bz2
import errno
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from axomsync.core.filesystems import walk_all
from axomsync.core.text import printable
from axomsync.gates.pickles import pickle_in

HEAD = 16  # bytes by which formats are known
DEEPEST = 4  # archives in archives
MOST_MEMBERS = 100_000
LARGEST_UNPACKED = 1 << 30  # bytes of an archive inside of something compressed
PIECE = 1024 * 1024
LONGEST_NPY_HEADER = 1024 * 1024

_SAYS_PICKLE = (".pkl", ".pickle", ".p", ".dill", ".joblib", ".pt", ".pth", ".ckpt")
_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x5d\x00\x00": lzma.LZMAFile,
}
_CLOSED = {b"\x04\x22\x4d\x18": "LZ4", b"\x28\xb5\x2f\xfd": "Zstandard", b"7z\xbc\xaf\x27\x1c": "7z"}
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_NPY = b"\x93NUMPY"
_PLAIN_TYPE = re.compile(r"[<>=|]?[biufcmMSUV?]\d*(\[[^\]]*\])?")
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError, RuntimeError,
    NotImplementedError, struct.error, UnicodeError, SyntaxError, MemoryError, RecursionError, LookupError, ArithmeticError,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something in a file that must not be there. `place`: where in it, if it is an archive."""

    file: str
    place: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        inside = f" ({printable('/'.join(self.place))[:200]})" if self.place else ""
        return f"{printable(self.file)[:200]}: {self.what}{inside}"


class _Found(Exception):
    def __init__(self, what: str, place: tuple[str, ...]) -> None:
        super().__init__(what)
        self.what, self.place = what, place


def findings(place: Path) -> Iterator[Finding]:
    """Look into a file, or into all files of a folder. Raises `OSError`."""
    if not stat.S_ISDIR(os.stat(place).st_mode):
        yield from _file(place, place.name)
        return
    for folder, folders, names in walk_all(place):
        folders.sort()
        for name in sorted(names) + [each for each in folders if os.path.islink(os.path.join(folder, each))]:
            path = Path(folder, name)
            rel = str(path.relative_to(place))
            if stat.S_ISREG(path.lstat().st_mode):
                yield from _file(path, rel)
            else:
                yield Finding(rel, (), "is a link or a device, and no file")


def _file(path: Path, rel: str) -> Iterator[Finding]:
    with path.open("rb") as stream:
        try:
            known = _look(stream, (), on_disk=True)
        except _Found as found:
            yield Finding(rel, found.place, found.what)
            return
        if not known and rel.lower().endswith(_SAYS_PICKLE) and stream.seek(0, os.SEEK_END):
            yield Finding(rel, (), "has a name of pickles and content that this gate does not know")


def _look(stream: IO[bytes], place: tuple[str, ...], *, on_disk: bool) -> bool:
    """Look at what begins at the start of a stream; False if nothing is known of it. Raises `_Found`, `OSError`.

    `on_disk`: its end can be asked for at no cost.
    """
    if len(place) > DEEPEST:
        raise _Found("holds archives in archives, deeper than this gate looks", place)
    stream.seek(0)
    head = stream.read(HEAD)
    try:
        return _look_by(head, stream, place, on_disk=on_disk)
    except _BROKEN as broken:
        raise _Found(f"can't be looked into: {type(broken).__name__}", place) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        # The words of bz2, or a place before the beginning of a file, to which an archive leads.
        raise _Found(f"can't be looked into: {error}", place) from None


def _look_by(head: bytes, stream: IO[bytes], place: tuple[str, ...], *, on_disk: bool) -> bool:
    for mark, name in _CLOSED.items():
        if head.startswith(mark):
            raise _Found(f"is compressed ({name}) in a way that this gate can't look into", place)
    if head.startswith(_NPY):
        _look_at_npy(stream, place)
        return True
    for mark, opened in _COMPRESSIONS.items():
        if head.startswith(mark):
            stream.seek(0)
            with opened(stream) as inside:
                return _look(inside, (*place, "compressed"), on_disk=False)
    if head.startswith(_ZLIB) and (unzipped := _unzipped(stream, (*place, "compressed"))) is not None:
        with unzipped:
            return _look(unzipped, (*place, "compressed"), on_disk=True)
    stream.seek(0)
    if (kind := pickle_in(stream)) is not None:
        raise _Found(f"holds a pickle, {kind}", place)
    is_zip = head.startswith(_ZIP) or (on_disk and zipfile.is_zipfile(stream))
    if is_zip or _is_tar(stream):
        with _seekable(stream, place, on_disk=on_disk) as whole:
            (_look_into_zip if is_zip else _look_into_tar)(whole, place)
        return True
    return head.startswith(b"GGUF") or head[8:9] == b"{" or head.lstrip()[:1] in (b"{", b"[")


def _look_into_zip(stream: IO[bytes], place: tuple[str, ...]) -> None:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        _demand_few(len(members), place)
        for member in members:
            if member.flag_bits & 1:
                raise _Found("is encrypted", (*place, member.filename))
            if not member.is_dir() or member.file_size:
                with archive.open(member) as inside:
                    _look(inside, (*place, member.filename), on_disk=False)


def _look_into_tar(stream: IO[bytes], place: tuple[str, ...]) -> None:
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for count, member in enumerate(archive, 1):
            _demand_few(count, place)
            if (inside := archive.extractfile(member) if member.isreg() else None) is not None:
                with inside:
                    _look(inside, (*place, member.name), on_disk=True)


def _demand_few(count: int, place: tuple[str, ...]) -> None:
    if count > MOST_MEMBERS:
        raise _Found(f"holds more than {MOST_MEMBERS} files", place)


def _unzipped(stream: IO[bytes], place: tuple[str, ...]) -> IO[bytes] | None:
    """What a zlib stream holds; None if it is none: two bytes are easily met."""
    stream.seek(0)
    unzip = zlib.decompressobj()
    try:
        first = unzip.decompress(stream.read(PIECE), PIECE)
    except zlib.error:
        return None

    def more() -> bytes:
        while not unzip.eof and (packed := unzip.unconsumed_tail or stream.read(PIECE)):
            if piece := unzip.decompress(packed, PIECE):
                return piece
        return b""

    return _filled(first, more, place)


def _seekable(stream: IO[bytes], place: tuple[str, ...], *, on_disk: bool) -> AbstractContextManager[IO[bytes]]:
    """The stream itself, or a copy: what is compressed can't be read from its end."""
    if on_disk:
        return _Kept(stream)
    stream.seek(0)
    return _filled(b"", lambda: stream.read(PIECE), place)


def _filled(first: bytes, more: Callable[[], bytes], place: tuple[str, ...]) -> IO[bytes]:
    """A nameless file with everything that comes, up to a limit."""
    spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    piece = first or more()
    while piece:
        spool.write(piece)
        if spool.tell() > LARGEST_UNPACKED:
            spool.close()
            raise _Found(f"holds more than {LARGEST_UNPACKED} compressed bytes, which this gate does not unpack", place)
        piece = more()
    spool.seek(0)
    return spool


class _Kept(AbstractContextManager[IO[bytes]]):
    """A stream that stays open."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def __enter__(self) -> IO[bytes]:
        return self._stream

    def __exit__(self, *_: object) -> None:
        pass


def _is_tar(stream: IO[bytes]) -> bool:
    """Check for the sum of a tar header: old archives have no other mark."""
    stream.seek(0)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or not any(block):
        return False
    with suppress(tarfile.HeaderError, ValueError, UnicodeError):
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return True
    return False


def _look_at_npy(stream: IO[bytes], place: tuple[str, ...]) -> None:
    """Look at the type of a NumPy array: an array of objects is a pickle behind the header."""
    stream.seek(len(_NPY))
    major = stream.read(2)[0]
    form = "<H" if major == 1 else "<I"
    length = struct.unpack(form, stream.read(struct.calcsize(form)))[0]
    if length > LONGEST_NPY_HEADER:
        raise _Found("has a NumPy header that is too long", place)
    header: Any = ast.literal_eval(stream.read(length).decode("latin-1" if major < 3 else "utf-8").strip())
    if not isinstance(header, dict) or not _is_plain(header.get("descr")):
        raise _Found("is a NumPy array that may hold objects, as a pickle", place)


def _is_plain(kind: Any) -> bool:
    """Check that a NumPy type stands for plain numbers or text, all the way down."""
    if isinstance(kind, str):
        return _PLAIN_TYPE.fullmatch(kind) is not None
    if isinstance(kind, list):
        return all(isinstance(field, tuple) and len(field) >= 2 and _is_plain(field[1]) for field in kind)
    return isinstance(kind, tuple) and len(kind) >= 1 and _is_plain(kind[0])
