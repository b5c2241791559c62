"""Ports for one weed process, and the Unix sockets that it names after them.

Failures handled: several stores that start at once on one machine (each block of ports is locked), a machine without a free
block (`ObjectStoreError`), sockets that a killed weed left in /tmp (removed).
"""

import errno
import glob
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from axomsync.sandbox.errors import ObjectStoreError


class WeedPorts:
    """Ten ports in a row for one weed: five services, each with HTTP and gRPC.

    They lie outside the range from which the kernel serves port-0 binds and outgoing connections. An abstract Unix
    socket named after the block is the lock between stores: it needs no file and goes with its process.
    """

    SERVICES = ("s3", "filer", "volume", "master", "admin")
    COUNT = 2 * len(SERVICES)

    def __init__(self, base: int, lock: socket.socket) -> None:
        self.base = base
        self._lock = lock

    @classmethod
    def reserve(cls) -> Self:
        """Take a free block at random. Raises `ObjectStoreError` when there is none."""
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
        blocks = [*range(10240, low - cls.COUNT, cls.COUNT), *range(high + 1, 65536 - cls.COUNT, cls.COUNT)]
        random.shuffle(blocks)
        for base in blocks:
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0axomsync-objectstore-{base}")
            except OSError:
                lock.close()
                continue
            if all(_is_free(port) for port in range(base, base + cls.COUNT)):
                return cls(base, lock)
            lock.close()
        raise ObjectStoreError(
            f"no {cls.COUNT} free loopback ports in a row outside the ephemeral range {low}-{high}; stop other programs"
        )

    def switches(self) -> dict[str, int]:
        """Return the switches of weed that name these ports."""
        ports: dict[str, int] = {}
        for index, service in enumerate(self.SERVICES):
            ports[f"{service}.port"] = self.base + 2 * index
            ports[f"{service}.port.grpc"] = self.base + 2 * index + 1
        return ports

    def remove_sockets(self) -> None:
        """Remove the Unix sockets in /tmp that weed names after its ports, and leaves when it is killed."""
        for port in range(self.base, self.base + self.COUNT):
            for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):  # noqa: S108 (weed's choice, not ours)
                Path(path).unlink(missing_ok=True)

    def release(self) -> None:
        """Give the block back."""
        self.remove_sockets()
        self._lock.close()


def remove_dead_sockets() -> None:
    """Remove sockets in /tmp of weeds that were killed together with their parent."""
    for path in map(Path, glob.glob("/tmp/seaweedfs-*.sock")):  # noqa: S108
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            # A socket this young may be between its bind() and its listen().
            if time.time() - path.stat().st_mtime > 60 and probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
