"""A listening port that can be shut and opened again, and that no other process gets meanwhile.

A server that goes away must come back at the same address. A closed port is free for everybody: the kernel may give it to
the next outgoing connection of any process.

Failures handled: an address that is taken (`OSError` that names it).
"""

import socket
from contextlib import suppress


class ReservedPort:
    """Holds `host:port` (port 0: any free one) until `close()`; refuses connections unless it is open.

    Raises `OSError` that names the address when it is taken.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Bound and never listening: with SO_REUSEADDR on both, Linux lets a listener share its port.
        self._holder = self._bound((host, port))
        self._listener: socket.socket | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._holder.getsockname()[:2]
        return host, port

    @property
    def endpoint(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if self._family == socket.AF_INET6 else f"http://{host}:{port}"

    def open(self, backlog: int = 256) -> socket.socket:
        """Return a new listening socket."""
        self._listener = self._bound(self.address)
        self._listener.listen(backlog)
        return self._listener

    def shut(self) -> None:
        """Refuse new connections; connections that were accepted go on. An `accept()` that waits raises `OSError`."""
        if self._listener is None:
            return
        with suppress(OSError):  # the accepting side may have closed it
            self._listener.shutdown(socket.SHUT_RD)  # wakes the waiting accept(), which closing alone would not
        self._listener.close()
        self._listener = None

    def close(self) -> None:
        self.shut()
        self._holder.close()

    def _bound(self, address: tuple[str, int]) -> socket.socket:
        # asyncio sets TCP_NODELAY on sockets that name their protocol only; without it each small answer waits 40 ms.
        end = socket.socket(self._family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind(address)
        except OSError as error:
            end.close()
            raise OSError(error.errno, error.strerror, "{}:{}".format(*address)) from None
        return end
