"""What the console and storage have in common as HTTP servers: trust, waiting as asked, and proxies.

Owns nothing and keeps nothing. Header values come from the far side: what does not parse is as if it were not there.
"""

import email.utils
import ipaddress
import ssl
from collections.abc import MutableMapping
from urllib.parse import urlsplit

import httpx

from axomsync.errors import BadConfig

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's certificate authorities (or `SSL_CERT_FILE`), and those of `ca_file`. Raises `BadConfig`."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # SSLError is one: the file holds no certificate
            reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror or error
            raise BadConfig(f"[console] ca_file {ca_file}: can't be used: {reason}") from None
    return context


def retry_after(response: httpx.Response, now: float) -> float | None:
    """The Retry-After header in seconds, from either of its forms (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    return None if (date := http_date(value)) is None else max(0.0, date - now)


def http_date(value: str) -> float | None:
    """A date of HTTP (RFC 9110, 5.6.7) as seconds since the epoch, None when it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine, by its name alone: what a resolver says is not to be relied on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def may_use_plain_http(url: str, allow_http: bool) -> bool:
    """Plain http is for loopback alone, unless the user allowed it."""
    parts = urlsplit(url)
    return parts.scheme == "https" or allow_http or is_loopback(parts.hostname or "")


def keep_loopback_off_proxies(environ: MutableMapping[str, str]) -> None:
    """Have no HTTP library of this process go to loopback through a proxy: there it would be another machine's."""
    for name in ("no_proxy", "NO_PROXY"):
        named = [host.strip() for host in environ.get(name, "").split(",") if host.strip()]
        if "*" not in named:
            environ[name] = ",".join([*named, *(host for host in _LOOPBACK if host not in named)])
