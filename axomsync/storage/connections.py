"""Connections to storage: httpx's own transport for long bodies that are sent, Rust clients for all else.

The Rust clients do TLS and socket reads without Python's lock, and cost a quarter of the CPU time a request. Their read
timeout also runs while a body is sent, so bodies that may take longer than that go through httpx's own transport.

Failures handled: a name that can't be resolved, forbidden addresses (`addresses`, checked at each connection: the address
that was checked is the one that is used), proxies, too few descriptors for a client (`LocalFault`).
"""

import os
import ssl
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

import httpcore
import httpx
from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.compatibility.httpx import SyncHttpxTransport
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.proxy import ProxyBuilder

from axomsync.core.errors import BadConfig, LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.transport.addresses import judge_literal, resolve
from axomsync.transport.deadlines import limited
from axomsync.transport.http import with_context
from axomsync.transport.proxies import Proxies, Proxy
from axomsync.transport.tunnels import Renewed

CONNECT_SECONDS = 10.0
NEAR_CONNECT_SECONDS = 3.0  # to gateways, which stand in the same network
NAME_SECONDS = 30.0  # a name is resolved again after that
DESCRIPTORS_OF_A_CLIENT = 16  # event loops of its runtime, and one for reading certificates
PINNED_MOST = 32  # clients kept, one for each address
NO_HTTP = "the answer of storage is not HTTP"


class _JudgedNetwork(httpcore.NetworkBackend):
    """httpcore's own network, but names are resolved and their addresses checked here."""

    def __init__(self, *, loopback: bool) -> None:
        self._inner, self._loopback = httpcore.SyncBackend(), loopback

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        try:
            addresses = resolve(host, port, loopback=self._loopback)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in addresses[:-1]:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        """Refuse: signed URLs lead to hosts."""
        raise httpcore.ConnectError("signed URLs never lead to Unix sockets")


class LongBodies(httpx.BaseTransport):
    """httpx's own transport: one for direct connections and one for each proxy."""

    def __init__(self, context: ssl.SSLContext, proxies: Proxies, *, loopback: bool) -> None:
        self._context, self._proxies = context, proxies
        judged = _JudgedNetwork(loopback=loopback)  # a proxy resolves names by itself
        self._transports: dict[Proxy | None, httpx.BaseTransport] = {None: self._build(None, judged)}
        self._transports |= {proxy: Renewed(partial(self._build, proxy)) for proxy in proxies.named.values()}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through the transport of the proxy that its URL needs."""
        return self._transports[self._proxies.leading_to(str(request.url))].handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            transport.close()

    def _build(self, proxy: Proxy | None, network: httpcore.NetworkBackend | None = None) -> httpx.BaseTransport:
        transport = httpx.HTTPTransport(
            verify=self._context,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            proxy=None if proxy is None else with_context(proxy, self._context),
        )
        return limited(transport, network)


class RustClients:
    """One client for each address of a name, so the checked address is the one used; and one for each proxy.

    `silence`: seconds without a byte from the far side after which a request fails. Not `judged`: the configuration names
    the hosts, so their addresses may be any, and one client is enough.
    """

    def __init__(
        self, roots: bytes | None, silence: float, proxies: Proxies, *, loopback: bool, judged: bool = True
    ) -> None:
        self._roots, self._silence, self._proxies = roots, silence, proxies
        self._loopback, self._judged = loopback, judged
        self._straight = self._build(None) if judged else None  # of gateways at the first request: most have none
        self._through = {proxy: self._build(None, proxy) for proxy in proxies.named.values()}
        self._names: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._pinned: dict[tuple[str, str, int], SyncClient] = {}
        self._turn = 0
        self._lock = threading.Lock()

    def leading_to(self, url: str) -> SyncClient:
        """The client of the next address of the URL's host, or of its proxy. Raises `httpx.ConnectError`."""
        host, port = _place(url)
        if (proxy := self._proxies.leading_to(url)) is not None:
            return self._through[proxy]
        if not self._judged or judge_literal(host, loopback=self._loopback):
            return self._straight or self._build_straight()
        return self._pinned_to_next(host, port)

    def forget_addresses(self, url: str) -> None:
        """Resolve the URL's host again at the next request: no connection could be made."""
        with self._lock:
            self._names.pop(_place(url), None)

    def close(self) -> None:
        """Close all connections."""
        for client in (*filter(None, [self._straight]), *self._through.values(), *self._pinned.values()):
            client.close()

    def _build_straight(self) -> SyncClient:
        with self._lock:
            self._straight = self._straight or self._build(None)
            return self._straight

    def _pinned_to_next(self, host: str, port: int) -> SyncClient:
        with self._lock:
            now = time.monotonic()
            known = self._names.get((host, port))
            if known is None or now - known[0] > NAME_SECONDS:
                try:
                    known = self._names[host, port] = (now, resolve(host, port, loopback=self._loopback))
                except OSError as error:
                    raise httpx.ConnectError(str(error)) from error
            self._turn += 1
            address = known[1][self._turn % len(known[1])]
            key = (host, address, port)
            if key not in self._pinned:
                if len(self._pinned) >= PINNED_MOST:  # not closed: lanes may still read from it
                    del self._pinned[next(iter(self._pinned))]
                self._pinned[key] = self._build(key)
            return self._pinned[key]

    def _build(self, pinned: tuple[str, str, int] | None, proxy: Proxy | None = None) -> SyncClient:
        builder = (
            SyncClientBuilder()
            .runtime_multithreaded(True)  # one thread can decrypt about 10 Gbit/s
            .http1_only()
            .follow_redirects(False)
            .no_proxy()  # it would read the environment in its own way
            .referer(False)
            .gzip(False).brotli(False).zstd(False).deflate(False)
            .connect_timeout(timedelta(seconds=CONNECT_SECONDS if self._judged else NEAR_CONNECT_SECONDS))
            .read_timeout(timedelta(seconds=self._silence))
        )  # fmt: skip
        if proxy is not None:
            builder = builder.proxy(ProxyBuilder.all(proxy.url))
        if pinned is not None:
            builder = builder.resolve(*pinned)
        if self._roots is not None:
            try:
                builder = builder.add_root_certificate_pem(self._roots)
            except PyreqwestError as error:
                raise BadConfig(f"[console] ca_file: can't be used: {error}") from None
        try:
            return builder.build()
        except (PyreqwestError, RuntimeError) as error:
            raise _unbuilt(error) from None


class Downloads(httpx.BaseTransport):
    """The Rust clients as a transport of httpx."""

    def __init__(self, clients: RustClients) -> None:
        self._clients = clients

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the next address of its host, or through its proxy."""
        url = str(request.url)
        try:
            return SyncHttpxTransport(self._clients.leading_to(url)).handle_request(request)
        except httpx.ConnectError:
            self._clients.forget_addresses(url)
            raise

    def close(self) -> None:
        """Close all connections."""
        self._clients.close()


def _unbuilt(error: Exception) -> LocalFault:
    """Why no client can be made: its own words for a lack of descriptors speak of certificates or of a runtime."""
    opened: list[int] = []
    try:
        while len(opened) < DESCRIPTORS_OF_A_CLIENT:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as lack:
        return local_fault(lack, "connections to storage")
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return LocalFault(f"connections to storage: they can't be made: {error}")


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
