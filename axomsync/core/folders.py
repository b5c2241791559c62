"""Folders that others may write into, used by descriptor: no link is followed, no existing file is written into.

A path is resolved again with every call; a descriptor stays the same folder. A new file has a name that nobody can guess
until it is whole and synced; one atomic call then gives it its own name.

Failures handled: a link, file or device in the place of a folder or file (`OSError` with ELOOP, ENOTDIR or EINVAL; it is
never followed and never waited for), a name that is taken (`FileExistsError`), a crash while a file is written (the file is
whole or absent; remains begin with `UNFINISHED`), a filesystem without RENAME_NOREPLACE. Every `OSError` names the whole
path.
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
from axomsync.core.turns import TURNS

COPY_PIECE = 1024 * 1024

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})  # open(2), "O_TMPFILE"
_RENAME_NOREPLACE = 1  # renameat2(2)
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class Folder:
    """An open folder; a context manager. Names are single path components, as the filesystem stores them.

    `path` serves messages only. Every method raises `OSError`.
    """

    def __init__(self, descriptor: int, path: bytes) -> None:
        self.descriptor, self.path = descriptor, path

    @classmethod
    def open(cls, path: Path | bytes) -> Self:
        """Open a folder named by the configuration; links on the way are the administrator's and are followed."""
        whole = os.fsencode(path)
        return cls(os.open(whole, _FOLDER & ~os.O_NOFOLLOW), whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def descend(self, rel: bytes, *, make: int | None = None) -> "Folder":
        """Open the folder at `rel` below this one; `make`: the mode for missing folders on the way, None makes none."""
        first, *others = [part for part in rel.split(b"/") if part] or [b""]
        current = self._enter(first, make) if first else Folder(os.dup(self.descriptor), self.path)
        for part in others:
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
        """List the names in the folder, in no order."""
        with self._named(b""):
            return [os.fsencode(name) for name in os.listdir(self.descriptor)]

    def status(self, name: bytes) -> os.stat_result | None:
        """Status of a name (of a link itself, not its target); None when nothing has the name."""
        with self._named(name):
            try:
                return os.lstat(name, dir_fd=self.descriptor)
            except FileNotFoundError:
                return None

    def open_file(self, name: bytes) -> int:
        """Open a regular file for reading. Anything else raises `OSError`, without waiting."""
        with self._named(name):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.descriptor)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                raise OSError(errno.EINVAL, "it is no regular file")
            return file

    def read(self, name: bytes, most: int) -> bytes:
        """Read the first `most` bytes of a regular file."""
        return self.read_and_look(name, most)[0]

    def read_and_look(self, name: bytes, most: int) -> tuple[bytes, os.stat_result]:
        """Read like `read`, with the status of the same open file, such as its owner."""
        with self._named(name), open(self.open_file(name), "rb") as stream:
            status = os.fstat(stream.fileno())
            return stream.read(min(most, status.st_size)), status  # read() allocates all of `most` even for a small file

    def write_new(self, name: bytes, data: bytes, mode: int = 0o644) -> None:
        """Write a new file `name`, whole and durable on return; a taken name raises `FileExistsError`."""
        with self._unfinished(data, mode, name) as temporary, self._named(name):
            self.move(temporary, self, name)
        self.sync()

    def replace(
        self, name: bytes, data: bytes, mode: int = 0o644, *, group: int | None = None, into: "Folder | None" = None
    ) -> None:
        """Write like `write_new`, but replace any file of the name atomically; the old one is never written into.

        `group`: the number of its group, None for that of the folder or process.
        `into`: another folder of the filesystem that gets the file; nobody sees an unfinished one there.
        """
        target = into or self
        with self._unfinished(data, mode, name, group) as temporary, target._named(name):
            os.rename(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)
        target.sync()

    def move(self, name: bytes, target: "Folder", as_name: bytes) -> None:
        """Rename into `target` atomically, on the same filesystem; a taken name raises `FileExistsError`."""
        with self._named(name, target, as_name):
            if _renameat2 is None:
                code = errno.ENOSYS
            elif _renameat2(self.descriptor, name, target.descriptor, as_name, _RENAME_NOREPLACE) == 0:
                return
            else:
                code = ctypes.get_errno()
            if code not in (errno.ENOSYS, errno.EINVAL):
                raise OSError(code, os.strerror(code))
            if target.status(as_name) is not None:  # a filesystem without RENAME_NOREPLACE, such as NFS
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(name, as_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)

    @contextmanager
    def copy_of(self, file: int, wanted: bytes, step: Callable[[], None]) -> Iterator[tuple[bytes, str]]:
        """Copy an open file to disk; yield the copy's temporary name and the SHA-256 of the bytes.

        `step` runs after each piece. The block must rename the copy to `wanted`; if the block fails, the copy is removed.
        The copy has the file's times and rights, and its owner and attributes as far as this user may set them.
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

    def open_nameless(self) -> int:
        """Make a file that has no name, for reading and writing: it goes away when it is closed, also by a kill.

        On a filesystem that can't, it has a name for a moment, which begins with `UNFINISHED`.
        """
        with self._named(b""):
            try:
                return os.open(b".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
        name = UNFINISHED + secrets.token_hex(16).encode()
        with self._named(name):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(name, flags, 0o600, dir_fd=self.descriptor)
            os.unlink(name, dir_fd=self.descriptor)
            return file

    @property
    def mount(self) -> str:
        """Identity of the mount: two mounts can lead to one filesystem, and no rename works between them."""
        try:
            with open(f"/proc/self/fdinfo/{self.descriptor}", encoding="ascii") as told:
                return next(line for line in told if line.startswith("mnt_id:"))
        except (OSError, StopIteration):
            return str(os.fstat(self.descriptor).st_dev)

    def link(self, name: bytes) -> bytes | None:
        """Target of a link; None when the name is missing or no link."""
        with self._named(name):
            try:
                return os.readlink(name, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):
                    raise
                return None

    def make_link(self, name: bytes, target: bytes) -> None:
        """Make a symlink; a taken name raises `FileExistsError`."""
        with self._named(name):
            os.symlink(target, name, dir_fd=self.descriptor)

    def make_folder(self, name: bytes, mode: int) -> None:
        """Make a folder with this mode whatever the umask is; a taken name raises `FileExistsError`."""
        with self._named(name):
            os.mkdir(name, mode, dir_fd=self.descriptor)
        with self.descend(name) as made:
            os.fchmod(made.descriptor, mode)

    def remove_folder(self, name: bytes) -> None:
        """Remove an empty folder."""
        with self._named(name):
            os.rmdir(name, dir_fd=self.descriptor)

    def unlink(self, name: bytes) -> None:
        """Remove a name; of a link, the link itself."""
        with self._named(name):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Make the names in the folder durable."""
        with self._named(b""):
            try:
                with TURNS.lent():
                    os.fsync(self.descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # this filesystem can't sync folders, fsync(2)
                    raise

    @contextmanager
    def _unfinished(self, data: bytes, mode: int, wanted: bytes, group: int | None = None) -> Iterator[bytes]:
        """Write `data` durably under a temporary name; the block renames it to `wanted`."""
        with self._made(wanted) as (name, file):
            with self._named(wanted), open(file, "wb") as stream:
                stream.write(data)
                stream.flush()
                if group is not None:
                    os.fchown(stream.fileno(), -1, group)  # before it is opened to it
                os.fchmod(stream.fileno(), mode)
                with TURNS.lent():
                    os.fsync(stream.fileno())
            yield name

    @contextmanager
    def _made(self, wanted: bytes) -> Iterator[tuple[bytes, int]]:
        """Make a new file under a name that nobody can guess, open for writing; it is removed if the block fails."""
        name = UNFINISHED + secrets.token_hex(16).encode()
        with self._named(wanted):  # errors name the final path, not the temporary one
            file = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.descriptor
            )
        try:
            yield name, file
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=self.descriptor)
            raise

    def _named(self, name: bytes, target: "Folder | None" = None, as_name: bytes = b"") -> "_Named":
        return _Named(self, name, target, as_name)


class _Named:
    """Puts whole paths into the errors of its block: calls by descriptor know only the name.

    No generator: a small file needs this sixty times, and that would double its cost.
    """

    __slots__ = ("_as_name", "_folder", "_name", "_target")

    def __init__(self, folder: Folder, name: bytes, target: Folder | None, as_name: bytes) -> None:
        self._folder, self._name, self._target, self._as_name = folder, name, target, as_name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OSError):
            error.filename = os.path.join(self._folder.path, self._name) if self._name else self._folder.path
            if self._target is not None:
                error.filename2 = os.path.join(self._target.path, self._as_name)


def _write_whole(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _look_like(copy: int, file: int, status: os.stat_result) -> None:
    """Copy owner, attributes, mode and times. Owner first: changing it clears some rights. Failures are ignored."""
    with suppress(OSError):
        os.fchown(copy, status.st_uid, status.st_gid)
    with suppress(OSError):
        for name in os.listxattr(file):
            with suppress(OSError):
                os.setxattr(copy, name, os.getxattr(file, name))
    os.fchmod(copy, stat.S_IMODE(status.st_mode))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
