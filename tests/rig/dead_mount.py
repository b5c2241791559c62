"""`python dead_mount.py FOLDER COMMAND…` runs a command while FOLDER lies on a filesystem that never answers.

It is a FUSE mount that no program serves, and behaves as a mount of a dead NFS server does. It ends with the command. Needs
root and a mount namespace of its own. Imports nothing of this repo, since it is run as a file.
"""

import ctypes
import os
import sys


def main() -> None:
    """Mount, and become the command, which keeps the mount's device open without knowing of it."""
    folder, *command = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR)
    os.set_inheritable(device, True)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount", folder)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
