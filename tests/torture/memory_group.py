"""A control group whose processes are killed when they take more memory than it may have. Needs root."""

import errno
import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONTROL = Path("/sys/fs/cgroup")
_numbers = itertools.count()


@contextmanager
def memory_group(size: int) -> Iterator[str]:
    """A group with `size` bytes, of version 1 or 2 of control groups; yields the file that takes its processes."""
    name, first = f"axomsync-torture-{os.getpid()}-{next(_numbers)}", CONTROL / "memory"
    folder = (first if first.is_dir() else CONTROL) / name
    if not first.is_dir():
        (CONTROL / "cgroup.subtree_control").write_text("+memory")
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if first.is_dir() else "memory.max")).write_text(str(size))
        yield str(folder / "cgroup.procs")
    finally:
        _end(folder)


def _end(folder: Path) -> None:
    """Remove a group, with what a killed process had begun; the kernel takes a moment to let go of the dead."""
    deadline = time.monotonic() + 10
    while True:
        for process in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
