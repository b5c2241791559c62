"""The status page in the agent: a thread that listens, serves, and tries again.

Failures handled: an address that is taken or not this machine's, a token file that can't be read or holds no token, a
server that fails. Each is shown as a problem and tried again every ten seconds; none stops a transfer.
"""

import errno
import logging
import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from axomsync.config import WebSettings, listen_address, load_token
from axomsync.core.errors import Bug, LocalFault
from axomsync.core.oserrors import unforeseen

if TYPE_CHECKING:
    from collections.abc import Callable

    from axomsync.runtime.problems import Problems
    from axomsync.web.server import Server

log = logging.getLogger(__name__)

SUBJECT = "status page"
AGAIN_SECONDS = 10.0
STOP_SECONDS = 4.0
BACKLOG = 64

_NO_IPV6 = "this machine has no IPv6; name an address such as 127.0.0.1 or 0.0.0.0 in [web] listen"
_ADVICE = {
    errno.EAFNOSUPPORT: _NO_IPV6,
    errno.EADDRINUSE: "another program uses this address; stop it, or name another address in [web] listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; name one of its own in [web] listen",
    errno.EACCES: "only root may listen there; name a port above 1023 in [web] listen",
}


class Page:
    """Serves from `start` to `stop`, with one configuration.

    `build` makes the server for a token (None: no token is needed); `announce` gets the page's address, or None.
    """

    def __init__(
        self,
        settings: WebSettings,
        build: "Callable[[str | None], Server]",
        problems: "Problems",
        announce: "Callable[[str | None], None]",
    ) -> None:
        self._settings, self._build, self._problems, self._announce = settings, build, problems, announce
        self._stop = threading.Event()
        self._server: Server | None = None
        self._failure = ""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="status page", daemon=True)

    def start(self) -> None:
        """Listen as soon as possible."""
        self._thread.start()

    def stop(self) -> None:
        """Close the listening socket and all connections."""
        with self._lock:
            self._stop.set()
            if self._server is not None:
                self._server.end()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception as error:
                failure = unforeseen(error)
                if isinstance(failure, Bug) and str(failure) != self._failure:
                    log.exception("the status page failed")
                self._failure = str(failure)
                self._again(str(failure))

    def _again(self, reason: str) -> None:
        self._problems.report(SUBJECT, reason, time.time() + AGAIN_SECONDS)
        self._stop.wait(AGAIN_SECONDS)

    def _serve(self) -> None:
        token = load_token(self._settings)
        with closing(_listener(self._settings.listen)) as listener:
            server = self._build(token)
            with self._lock:
                if self._stop.is_set():
                    return
                self._server = server
            self._problems.clear(SUBJECT)
            self._announce(_address(self._settings.listen, listener))
            server.run(sockets=[listener])


def _listener(listen: str) -> socket.socket:
    """Open a listening socket. Raises `LocalFault`."""
    host, port = listen_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if host == "::" and not socket.has_dualstack_ipv6():
        raise LocalFault(f"{listen}: {_NO_IPV6}")
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    except socket.gaierror:
        raise LocalFault(f"{listen}: the host is unknown; name an address of this machine in [web] listen") from None
    except OSError as error:
        raise LocalFault(f"{listen}: {_ADVICE.get(error.errno or 0, error.strerror)}") from None
    # Connections inherit it; asyncio sets it only on sockets that name their protocol. Without it answers wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(listen: str, listener: socket.socket) -> str:
    host = listen.rpartition(":")[0]
    return f"http://{host}:{listener.getsockname()[1]}/"
