"""Disks of a size of one's own, for what happens when they are full or read-only. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
