"""`unshare --mount --propagation private python own_mounts.py COMMAND…` runs a command without the mounts of other tests.

A copy of them would keep each filesystem in use after its test has unmounted it. Imports nothing of this repo, since it is
run as a file.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

MNT_DETACH = 2  # umount2(2)


def main() -> None:
    """Let go of all mounts below the folders that tests use, and become the command."""
    libc, below = ctypes.CDLL(None), (os.fsencode(tempfile.gettempdir()) + b"/", b"/dev/shm/")
    for line in reversed(Path("/proc/self/mountinfo").read_bytes().splitlines()):
        place = line.split(b" ")[4].decode("unicode_escape").encode("latin-1")  # blanks are octal there
        if place.startswith(below):
            libc.umount2(place, MNT_DETACH)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
