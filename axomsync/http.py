"""What the console and storage have in common as HTTP servers: whom to trust, how long to wait, no proxy for loopback.

Keeps nothing. Header values come from the far side: one that does not parse counts as one that is not there.
"""

import email.utils
import re
import ssl
from collections.abc import MutableMapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from axomsync.errors import BadConfig, printable

if TYPE_CHECKING:
    import httpx

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's certificate authorities (or `SSL_CERT_FILE`), and those of `ca_file`. Raises `BadConfig`."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            reason = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise BadConfig(f"[console] ca_file {ca_file}: can't be used: {reason or error}") from None
    return context


def host_of(url: str) -> str:
    """The host of a URL with its port, for messages: never what else a signed URL holds."""
    try:
        return printable(urlsplit(url).netloc.rpartition("@")[2])
    except ValueError:
        return "?"


def distrust(error: Exception) -> str | None:
    """What to do about it, when a server's certificate is why there is no connection."""
    details = getattr(error.__cause__, "details", None) or {}  # so the Rust transport tells what httpx was not told
    causes = [str(error), *(cause["message"] for cause in details.get("causes") or ())]
    reason = next((printable(cause) for cause in causes if "certificate" in cause.lower()), None)
    if reason is None:
        return None
    return f"its certificate is not trusted ({reason}); [console] ca_file or SSL_CERT_FILE names an authority of your own"


def retry_after(response: "httpx.Response", now: float) -> float | None:
    """The Retry-After header in seconds, from either of its forms (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    date = http_date(value)
    return None if date is None else max(0.0, date - now)


def request_id(response: "httpx.Response", name: str, key: str | None = None) -> str:
    """What the far side calls this request, for its support: `; request …` to end a message with, or nothing.

    `name` is the header that has it. One that is no plain word, or that repeats what is secret (the URL, the `key`), counts
    as none.
    """
    value = response.headers.get(name, "")
    secret = value in str(response.request.url) or (key is not None and key in value)
    return "" if secret or not re.fullmatch(r"[\w.:+/=-]{1,64}", value, re.ASCII) else f"; request {value}"


def http_date(value: str) -> float | None:
    """A date of HTTP (RFC 9110, 5.6.7) as seconds since the epoch, None when it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def keep_loopback_off_proxies(environ: MutableMapping[str, str]) -> None:
    """Have no HTTP library of this process go to loopback through a proxy: there it would be another machine's.

    Some libraries read the one spelling of `no_proxy` first, some the other: both get what either held.
    """
    named = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in environ.get(name, "").split(",")]
    hosts = list(dict.fromkeys(host for host in (*named, *_LOOPBACK) if host))
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(hosts)
