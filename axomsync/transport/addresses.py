"""Allowed addresses of signed URLs: neither this machine's own services nor a cloud's address for machine credentials.

The console chooses the URLs; an attacker who controls it could make the agent fetch from services that only this machine
can reach. So the resolved address is checked at each connection. Private networks are allowed: private storage lies there.

Failures handled: a name that resolves only to forbidden addresses (`Refused`), a name that can't be resolved (`OSError`,
which the caller puts into words).
"""

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from axomsync.core.errors import Refused
from axomsync.core.text import printable

Address = IPv4Address | IPv6Address

_METADATA = tuple(map(ip_network, (
    "100.100.100.200/32",  # Alibaba Cloud; other clouds use link-local addresses
    "192.0.0.0/24",  # Oracle Cloud's second one; no storage lies in this network (RFC 6890)
    "fd00:ec2::/32",  # AWS over IPv6
    "fd20:ce::/32",  # Google Cloud over IPv6
)))  # fmt: skip
_TRANSLATED = ip_network("64:ff9b::/96")  # an IPv4 address in its last four bytes (RFC 6052)


@lru_cache(maxsize=64)
def why_not(address: str, *, loopback: bool) -> str | None:
    """The reason against fetching from an address; None when it is allowed. `loopback` allows this machine itself."""
    found = _innermost(ip_address(address.partition("%")[0]))
    if found.is_loopback:
        return None if loopback else "this machine itself"
    if found.is_link_local or any(found in network for network in _METADATA):
        return "an address for machine credentials"
    if found.is_unspecified or found.is_multicast:
        return "not an address of a host"
    return None


def resolve(host: str, port: int, *, loopback: bool) -> list[str]:
    """Resolve `host` to its allowed addresses. Raises `Refused` when there are only forbidden ones, and `OSError`."""
    found = dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    reasons = {address: why_not(address, loopback=loopback) for address in found}
    allowed = [address for address, reason in reasons.items() if reason is None]
    if not allowed:
        raise _refused(host, *next(iter(reasons.items())))
    return allowed


def judge_literal(host: str, *, loopback: bool) -> bool:
    """Tell whether `host` is an address, not a name. Raises `Refused` for a forbidden address."""
    try:
        reason = why_not(_as_written_usually(host), loopback=loopback)
    except ValueError:
        return False
    if reason is not None:
        raise _refused(host, host, reason)
    return True


def _as_written_usually(host: str) -> str:
    """The usual form of an IPv4 address; resolvers and proxies also accept fewer parts, hexadecimal and octal."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return host


def _refused(host: str, address: str, reason: str | None) -> Refused:
    return Refused(
        f"a signed URL leads to {printable(host)[:100]} ({address}), {reason}: it is not fetched; tell the operator of "
        "the console"
    )


def _innermost(address: Address) -> Address:
    """The IPv4 address embedded in an IPv6 address, or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        if address.sixtofour is not None:
            return address.sixtofour
    return address
