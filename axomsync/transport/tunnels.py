"""A transport of httpx that is given up when a connection can't be made, since httpcore may keep that for ever.

Failures handled: TLS that fails, or takes too long, behind an HTTP proxy. httpcore counts such a connection as one in use:
each is memory that stays, and where their number is limited, the next request waits for one in vain.
"""

from collections.abc import Callable

import httpx


class Renewed(httpx.BaseTransport):
    """What `make` makes; after a failed connection, another one. Usable from any thread."""

    def __init__(self, make: Callable[[], httpx.BaseTransport]) -> None:
        self._make = make
        self._transport = make()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request."""
        try:
            return self._transport.handle_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._transport = self._make()  # the old one is not closed: others may still send through it
            raise

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()
