"""Disks of one's own, for what happens when they are full, read-only or dead (needs root), and a ledger that is locked."""

import ctypes
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.rig import dead_mount, own_mounts


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs at `folder` for as long as the block runs; `options` are those of mount(8), such as `size=1m`."""
    assert os.geteuid() == 0, "mounting a filesystem takes root"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "axom-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def loop_disk(folder: Path, image: Path, size: int, *mkfs: str) -> Iterator[Path]:
    """A filesystem of `size` bytes in the file `image`, made by the command `mkfs`, at `folder` while the block runs."""
    assert os.geteuid() == 0, "mounting a filesystem takes root"
    folder.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([mkfs[0], "-q", *mkfs[1:], image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def dead_disk(folder: Path) -> Iterator[Path]:
    """A filesystem at `folder` whose server has ended: each call below it fails with ENOTCONN, also for root."""
    assert os.geteuid() == 0, "mounting a filesystem takes root"
    folder.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    mounted = libc.mount(b"axom-test", os.fsencode(folder), b"fuse", 0, options)
    number = ctypes.get_errno()
    os.close(device)
    assert mounted == 0, os.strerror(number)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all the room there is, and return it: who removes it makes room again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for piece in (1 << 16, 4096, 1):
            try:
                while file.write(bytes(piece)):
                    pass
            except OSError:
                continue
    return filler


def remount(folder: Path, options: str) -> None:
    """As `mount -o remount,…`."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the lock of the ledger in this folder, as another program would."""
    with closing(sqlite3.connect(state / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


# A command to run another one under: it gets mounts of its own.
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private", sys.executable, own_mounts.__file__)


def beside(pid: int) -> tuple[str, ...]:
    """A command to run another one under: it gets the mounts of this process."""
    return ("nsenter", "--mount", "--target", str(pid))


def on_dead_disk(folder: Path) -> tuple[str, ...]:
    """A command to run another one under, while which `folder` lies on a filesystem that never answers. Needs root.

    It stands behind `OWN_MOUNTS` or `beside`.
    """
    return (sys.executable, dead_mount.__file__, str(folder))


@contextmanager
def silent_disk(folder: Path, pid: int) -> Iterator[None]:
    """A filesystem that never answers at `folder`, for a process that has mounts of its own, while the block runs."""
    command = [*beside(pid), *on_dead_disk(folder), "sh", "-c", "echo mounted; exec sleep 300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"mounted\n", "the mount failed"
            yield
        finally:
            holder.kill()
