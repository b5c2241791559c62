"""The disk of a run: the machine's own, or an image with a filesystem that can lose what was not synced.

Power fails by killing the agent and then taking the image of a mounted ext4, XFS or Btrfs as it lies there.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.rig.agent import eventually

COMMANDS = {"ext4": ("mkfs.ext4", "-b", "4096"), "xfs": ("mkfs.xfs",), "btrfs": ("mkfs.btrfs", "--mixed")}
IMAGE_BYTES = {"ext4": 128 << 20, "xfs": 320 << 20, "btrfs": 160 << 20}
# No commit by itself: what the agent does not sync is not on the disk.
OPTIONS = {"ext4": "loop,commit=600", "xfs": "loop,nouuid", "btrfs": "loop,commit=300"}
SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32) of linux/fs.h: EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
WITHOUT_LOG = 2  # not even the journal in memory is written


class Disk:
    """What `folder` lies on; `kind` is one of COMMANDS, "" for the machine's own. Images are beside it, in `home`."""

    def __init__(self, kind: str, folder: Path, home: Path) -> None:
        self._kind, self._folder = kind, folder
        self._image, self._copy = home / "disk.img", home / "copy.img"

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Make it, and have it there while the block runs."""
        self._folder.mkdir()
        if not self._kind:
            yield
            return
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES[self._kind])
        program, *words = COMMANDS[self._kind]
        subprocess.run([program, "-q", *words, self._image], check=True, stdout=subprocess.DEVNULL)
        self._mount()
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", self._folder], check=True)

    def lose_power(self) -> None:
        """Forget what was not synced: by the filesystem's own call for that (ioctl_xfs_goingdown(2), as ext4 has it too)."""
        if self._kind == "btrfs":  # it has no such call; its tree on disk is always whole
            self._take_image()
        else:
            folder = os.open(self._folder, os.O_RDONLY)
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
            os.close(folder)
        # A gate that the killed agent had begun lives a moment longer, and looks at its files.
        umount = ["umount", str(self._folder)]
        eventually(
            "the end of all processes on the disk",
            lambda: subprocess.run(umount, capture_output=True, check=False).returncode == 0,
        )
        if not self._copy.exists():  # a container that begins may have the mount too, and so keep alive what was shut down
            self._take_image()
        self._copy.rename(self._image)
        self._mount()

    def fill(self, room: int | None, inodes: int | None) -> None:
        """Leave so many bytes or files; the rest is ballast."""
        left, ballast = os.statvfs(self._folder), self._folder / "ballast"
        ballast.mkdir()
        if inodes is not None:
            for number in range(left.f_ffree - 1 - inodes):  # one is the folder's
                os.mknod(ballast / str(number))
        if room is not None:
            with (ballast / "bytes").open("wb") as file:
                file.truncate(max(0, _allocate_all(file.fileno()) - room))

    def make_room(self) -> None:
        """Throw the ballast out."""
        shutil.rmtree(self._folder / "ballast", ignore_errors=True)

    def sync(self) -> None:
        """Write everything, as after people's own work."""
        subprocess.run(["sync", "--file-system", self._folder], check=True)

    def _take_image(self) -> None:
        subprocess.run(["cp", "--sparse=always", self._image, self._copy], check=True)

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", OPTIONS[self._kind], self._image, self._folder], check=True)


def _allocate_all(descriptor: int) -> int:
    """Give a file all blocks that are left; returns its size."""
    size = 0
    for piece in (1 << 24, 1 << 20, 1 << 16, 4096):
        with suppress(OSError):
            while True:
                os.posix_fallocate(descriptor, size, piece)
                size += piece
    return size
