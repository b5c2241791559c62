"""A control group whose processes are killed when they take more memory than it may have. Needs root."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        folder.rmdir()
