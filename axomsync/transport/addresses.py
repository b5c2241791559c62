"""Where a signed URL may lead: not to this machine's own services, and not to where clouds keep machine credentials.

The console says which URLs are fetched, and whoever has taken it over could have the agent ask what only this machine can
reach. So the address that a name resolves to is judged, at each connection. Private networks are allowed: storage of one's
own lies there.

Failures handled: a name that leads only to such addresses (`Refused`), one that can't be resolved (`OSError`, for the caller
to put into words).
"""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from axomsync.core.errors import Refused
from axomsync.core.text import printable

Address = IPv4Address | IPv6Address

_METADATA = tuple(map(ip_network, (
    "100.100.100.200/32",  # Alibaba Cloud; the others' are link-local
    "192.0.0.0/24",  # Oracle Cloud's second one lies there, and nothing else that is storage (RFC 6890)
    "fd00:ec2::/32",  # AWS over IPv6
    "fd20:ce::/32",  # Google Cloud over IPv6
)))  # fmt: skip
_TRANSLATED = ip_network("64:ff9b::/96")  # an IPv4 address in its last four bytes (RFC 6052)


def why_not(address: str, *, loopback: bool) -> str | None:
    """Why nothing may be fetched from there; None when it may. `loopback` allows this machine itself."""
    found = _innermost(ip_address(address.partition("%")[0]))
    if found.is_loopback:
        return None if loopback else "this machine itself"
    if found.is_link_local or any(found in network for network in _METADATA):
        return "where machines keep credentials"
    if found.is_unspecified or found.is_multicast:
        return "no address of a storage"
    return None


def resolve(host: str, port: int, *, loopback: bool) -> list[str]:
    """The addresses of `host` that may be connected to. Raises `Refused` when there is none but others, and `OSError`."""
    found = dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    reasons = {address: why_not(address, loopback=loopback) for address in found}
    allowed = [address for address, reason in reasons.items() if reason is None]
    if not allowed:
        raise _refused(host, *next(iter(reasons.items())))
    return allowed


def judge_literal(host: str, *, loopback: bool) -> bool:
    """Whether `host` is an address and no name. Raises `Refused` for one that nothing may be fetched from."""
    try:
        reason = why_not(_as_written_usually(host), loopback=loopback)
    except ValueError:
        return False
    if reason is not None:
        raise _refused(host, host, reason)
    return True


def _as_written_usually(host: str) -> str:
    """An IPv4 address that resolvers and proxies know in other forms as well: in fewer parts, in hexadecimal, in octal."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return host


def _refused(host: str, address: str, reason: str | None) -> Refused:
    return Refused(
        f"a signed URL leads to {printable(host)[:100]} ({address}), {reason}: nothing is asked there; tell whoever runs "
        "the console"
    )


def _innermost(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _TRANSLATED:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        if address.sixtofour is not None:
            return address.sixtofour
    return address
