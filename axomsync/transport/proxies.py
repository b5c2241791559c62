"""The proxy for each request, from `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, as curl reads them.

Every library reads these variables differently, and some refuse to start at values that others accept; so no library reads
them here. Lower case wins over upper case. An exception in `no_proxy` is a name (with all names below it, with or without
a leading dot), an address, a network such as `10.0.0.0/8` or `fd00::/8`, any of them with a port, or `*`; commas or blanks
separate them. Loopback is always an exception: for a proxy it would be another machine. SOCKS is version 5, and its proxies
resolve names, for `socks5h` and `socks5` alike.

Failures handled: values that name no proxy and exceptions that name nothing (ignored, see `warnings`). Passwords are never
shown.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from axomsync.core.hosts import host_fault
from axomsync.core.text import printable

SCHEMES = ("http", "https", "socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that named it. `url` may hold a password."""

    url: str = field(repr=False)
    place: str  # host:port
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.place} (${self.variable})"


@dataclass(frozen=True)
class _Exception:
    """`name` with all names below it, or the addresses of `network`; on `port`, if set. Without both, everything."""

    name: str | None = None
    network: _Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int | None) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address.version == self.network.version and address in self.network
        return self.name is None or host == self.name or host.endswith(f".{self.name}")


@dataclass(frozen=True)
class Proxies:
    """Proxies by scheme of the request ("all" for any scheme), exceptions and warnings of one environment."""

    named: Mapping[str, Proxy]
    exceptions: tuple[_Exception, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Proxies":
        """Read an environment. Unreadable values are ignored, with a warning."""
        named: dict[str, Proxy] = {}
        warnings: list[str] = []
        for scheme in ("http", "https", "all"):
            variable, value = _value(environ, f"{scheme}_proxy")
            if not value:
                continue
            try:
                named[scheme] = _proxy(value, variable)
            except ValueError as fault:
                warnings.append(f"${variable}: left out: {fault}")
        variable, value = _value(environ, "no_proxy")
        exceptions = []
        for item in re.split(r"[,\s]+", value):
            if not item:
                continue
            try:
                exceptions.append(_exception(item))
            except ValueError:
                told = printable(item)[:100]
                warnings.append(
                    f"${variable}: {told} is left out: write a name, an address, or a network such as 10.0.0.0/8"
                )
        return cls(named, tuple(exceptions), tuple(warnings))

    def leading_to(self, url: str) -> Proxy | None:
        """The proxy for a request to `url`; None for a direct connection."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").removesuffix(".")
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            return None
        proxy = self.named.get(parts.scheme) or self.named.get("all")
        if proxy is None or _is_loopback(host) or any(exception.covers(host, port) for exception in self.exceptions):
            return None
        return proxy


def with_loopback_excepted(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for child programs that excepts loopback from proxies. Both spellings get the exceptions of both, since
    programs disagree on which one counts."""
    named = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in environ.get(name, "").split(",")]
    hosts = ",".join(dict.fromkeys(host for host in (*named, "localhost", "127.0.0.1", "::1") if host))
    return {**environ, "no_proxy": hosts, "NO_PROXY": hosts}


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The spelling of a variable that counts, and its value."""
    for variable in (name, name.upper()):
        if variable in environ:
            return variable, environ[variable].strip()
    return name, ""


def _proxy(value: str, variable: str) -> Proxy:
    """Parse a proxy. Raises `ValueError` with the right form; never repeats the value, which may hold a password."""
    url = value if "://" in value else f"http://{value}"
    example = "write it like http://proxy.example:3128"
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"this is not the address of a proxy; {example}") from None
    if not host or port == 0 or not url.isprintable() or " " in url:
        raise ValueError(f"this is not the address of a proxy; {example}")
    if (fault := host_fault(host)) is not None:
        raise ValueError(f"this is not the address of a proxy: {fault}; {example}")
    if scheme not in SCHEMES:
        raise ValueError(f"{printable(scheme)[:20]} proxies are not understood; name one of {', '.join(SCHEMES)}")
    shown = f"[{host}]" if ":" in host else host
    url = url.replace("socks5:", "socks5h:", 1)  # with socks5 the libraries disagree on who resolves names
    return Proxy(url, f"{printable(shown)}:{port or _DEFAULT_PORTS[scheme]}", variable)


def _exception(item: str) -> _Exception:
    """Parse one exception. Raises `ValueError`."""
    text = item.partition("://")[2] or item
    if text == "*":
        return _Exception()
    if "/" in text:
        return _Exception(network=ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False))
    if (network := _one(text.removeprefix("[").removesuffix("]"))) is not None:
        return _Exception(network=network)
    host, colon, port = text.rpartition(":")
    if not colon:
        host, number = text, None
    elif port.isdecimal() and 0 < int(port) < 65536:
        number = int(port)
    else:
        raise ValueError
    if host == "*":
        return _Exception(port=number)
    if (network := _one(host.removeprefix("[").removesuffix("]"))) is not None:
        return _Exception(network=network, port=number)
    name = host.lower().removeprefix("*").strip(".")
    if not re.fullmatch(r"[\w.-]+", name) or host_fault(name) is not None:
        raise ValueError
    return _Exception(name=name, port=number)


def _one(text: str) -> _Network | None:
    address = _address(text)
    return None if address is None else ipaddress.ip_network(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)
