"""Folders that others may write into, used by descriptor: no link is followed, and nothing that is there is written into.

A path is a question that is asked again with every call; a descriptor is the folder itself. What is made here has a name
that nobody could guess until it is whole and synced; then it gets its own by one atomic call.

Failures handled: a link, a file or a device where a folder or a file must be (`OSError` with ELOOP or ENOTDIR, never
followed, never waited for), a name that is taken (`FileExistsError`), a crash while a file is written (whole or absent;
what is left of it begins with `UNFINISHED`), a filesystem without RENAME_NOREPLACE. Every `OSError` names the whole path.
"""

import ctypes
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from axomsync.core.paths import UNFINISHED

COPY_PIECE = 1024 * 1024

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1  # renameat2(2)
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class Folder:
    """An open folder; a context manager. Names are single path components, as the filesystem has them.

    `path` is for messages alone. Every method raises `OSError`.
    """

    def __init__(self, descriptor: int, path: bytes) -> None:
        self.descriptor, self.path = descriptor, path

    @classmethod
    def open(cls, path: Path | bytes) -> Self:
        """The folder that the configuration names: links on the way to it are the administrator's, and followed."""
        whole = os.fsencode(path)
        return cls(os.open(whole, _FOLDER & ~os.O_NOFOLLOW), whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)

    def descend(self, rel: bytes, *, make: int | None = None) -> "Folder":
        """The folder at `rel` below this one; each part that is missing is made with the mode `make` unless that is None."""
        current = Folder(os.dup(self.descriptor), self.path)
        for part in filter(None, rel.split(b"/")):
            with current:
                current = current._enter(part, make)
        return current

    def _enter(self, name: bytes, make: int | None) -> "Folder":
        with self._named(name):
            if name in (b".", b".."):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if make is not None:
                with suppress(FileExistsError):
                    os.mkdir(name, make, dir_fd=self.descriptor)
            try:
                return Folder(os.open(name, _FOLDER, dir_fd=self.descriptor), os.path.join(self.path, name))
            except NotADirectoryError:
                if stat.S_ISLNK(os.lstat(name, dir_fd=self.descriptor).st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                raise

    def names(self) -> list[bytes]:
        """What lies in it, in no order."""
        with self._named(b""):
            return [os.fsencode(name) for name in os.listdir(self.descriptor)]

    def status(self, name: bytes) -> os.stat_result | None:
        """Of what has this name, a link itself and not its target; None when nothing has."""
        with self._named(name):
            try:
                return os.lstat(name, dir_fd=self.descriptor)
            except FileNotFoundError:
                return None

    def open_file(self, name: bytes) -> int:
        """A descriptor of the regular file of this name, for reading; anything else is an `OSError` and never waited for."""
        with self._named(name):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.descriptor)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                raise OSError(errno.EINVAL, "it is no regular file")
            return file

    def read(self, name: bytes, most: int) -> bytes:
        """The first `most` bytes of a regular file."""
        return self.read_and_look(name, most)[0]

    def read_and_look(self, name: bytes, most: int) -> tuple[bytes, os.stat_result]:
        """As `read`, with the status of the very file that was read: who made it, for one."""
        with self._named(name), open(self.open_file(name), "rb") as stream:
            status = os.fstat(stream.fileno())
            return stream.read(min(most, status.st_size)), status  # room for `most` is asked of the system even if unused

    def write_new(self, name: bytes, data: bytes, mode: int = 0o644) -> None:
        """Make the file `name`, which must not be there: whole, and on disk when this returns."""
        with self._unfinished(data, mode, name) as temporary, self._named(name):
            self.move(temporary, self, name)
        self.sync()

    def replace(self, name: bytes, data: bytes, mode: int = 0o644) -> None:
        """As `write_new`, in the place of whatever has the name; that is found until then, and never written into."""
        with self._unfinished(data, mode, name) as temporary, self._named(name):
            os.rename(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        self.sync()

    def move(self, name: bytes, target: "Folder", as_name: bytes) -> None:
        """Rename into `target` by one atomic call, on the same filesystem; a name that is taken is a `FileExistsError`."""
        with self._named(name, target, as_name):
            if _renameat2 is None:
                code = errno.ENOSYS
            elif _renameat2(self.descriptor, name, target.descriptor, as_name, _RENAME_NOREPLACE) == 0:
                return
            else:
                code = ctypes.get_errno()
            if code not in (errno.ENOSYS, errno.EINVAL):
                raise OSError(code, os.strerror(code))
            if target.status(as_name) is not None:  # a filesystem that knows only the plain call, such as NFS
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(name, as_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)

    @contextmanager
    def copy_of(self, file: int, wanted: bytes, step: Callable[[], None]) -> Iterator[tuple[bytes, str]]:
        """A copy of an open file, on disk, and the SHA-256 of what was read; `step` is called after each piece.

        It has a name of its own until the block gives it the one `wanted`, and is removed if the block fails. Its times and
        rights are those of the file, and its owner and attributes as far as this user may set them.
        """
        sha256, status = hashlib.sha256(), os.fstat(file)
        with self._made(wanted) as (name, copy):
            with self._named(wanted), open(copy, "wb", buffering=0) as stream:
                offset = 0
                while piece := os.pread(file, COPY_PIECE, offset):
                    offset += len(piece)
                    sha256.update(piece)
                    _write_whole(stream.fileno(), piece)
                    step()
                _look_like(stream.fileno(), file, status)
                os.fsync(stream.fileno())
            yield name, sha256.hexdigest()

    @property
    def mount(self) -> str:
        """What tells one mount from another, also where two lead to one filesystem: nothing is renamed between them."""
        try:
            with open(f"/proc/self/fdinfo/{self.descriptor}", encoding="ascii") as told:
                return next(line for line in told if line.startswith("mnt_id:"))
        except (OSError, StopIteration):
            return str(os.fstat(self.descriptor).st_dev)

    def unlink(self, name: bytes) -> None:
        """Remove a name; a link itself and not its target."""
        with self._named(name):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Make durable which names it has."""
        with self._named(b""):
            try:
                os.fsync(self.descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a filesystem that has no such thing for folders, fsync(2)
                    raise

    @contextmanager
    def _unfinished(self, data: bytes, mode: int, wanted: bytes) -> Iterator[bytes]:
        """A file with `data` that is on disk, and that has a name of its own until the block gives it the one `wanted`."""
        with self._made(wanted) as (name, file):
            with self._named(wanted), open(file, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            yield name

    @contextmanager
    def _made(self, wanted: bytes) -> Iterator[tuple[bytes, int]]:
        """A new file under a name that nobody could guess, open for writing; it is removed if the block fails."""
        name = UNFINISHED + secrets.token_hex(16).encode()
        with self._named(wanted):  # errors say the same each time
            file = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.descriptor
            )
        try:
            yield name, file
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=self.descriptor)
            raise

    @contextmanager
    def _named(self, name: bytes, target: "Folder | None" = None, as_name: bytes = b"") -> Iterator[None]:
        """Have errors name whole paths; of descriptors the system knows none."""
        try:
            yield
        except OSError as error:
            error.filename = os.path.join(self.path, name) if name else self.path
            if target is not None:
                error.filename2 = os.path.join(target.path, as_name)
            raise


def _write_whole(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _look_like(copy: int, file: int, status: os.stat_result) -> None:
    """Owner first, since a change of it takes rights away. What this user may not set stays as it is."""
    with suppress(OSError):
        os.fchown(copy, status.st_uid, status.st_gid)
    with suppress(OSError):
        for name in os.listxattr(file):
            with suppress(OSError):
                os.setxattr(copy, name, os.getxattr(file, name))
    os.fchmod(copy, stat.S_IMODE(status.st_mode))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
