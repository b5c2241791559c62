"""What the console and storage have in common as HTTP servers: whom to trust, how long to wait, no proxy for loopback.

Keeps nothing. Header values come from the far side: one that does not parse counts as one that is not there.
"""

import email.utils
import re
import ssl
from collections.abc import MutableMapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

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


def network_reason(error: Exception, url: str, silent: str) -> str:
    """Why there is no answer: the innermost cause in words, and what helps. `silent` says that nothing came for too long."""
    causes = _causes(error)
    told = " | ".join(causes).lower()
    proxy = proxy_of(url)
    through = f", through the proxy {proxy}" if proxy else ""
    if trust := next((printable(cause)[:200] for cause in causes if "certificate" in cause.lower()), None):
        return f"its certificate is not trusted ({trust}); [console] ca_file or SSL_CERT_FILE names an authority of your own"
    kind = type(error).__name__
    for signs, reason in _REASONS:
        if any(sign in told for sign in signs):
            return f"can't connect: {reason}{through}" if kind == "ConnectError" else reason + through
    if (kind == "ConnectTimeout" and "operation timed out" not in told) or ("(connect)" in told and "timed out" in told):
        return f"no connection in time{through}"
    if "Timeout" in kind:
        return f"{silent}{through}"
    if kind == "ConnectError":
        return f"can't connect ({printable(causes[-1])[:200]}){through}"
    return f"the connection broke{through} ({kind})"


# What the C library, OpenSSL, httpcore and the Rust transport say of causes; the first that fits counts.
_REASONS = (
    (("407", "proxy authorization", "proxy authentication"),
     "the proxy wants a user and a password (407): put them into $HTTPS_PROXY"),
    (("tunnel error", "unsuccessful tunnel", "proxyerror"), "the proxy does not let it through"),
    (("dns error", "name or service not known", "name resolution", "no address associated", "nodename nor servname"),
     "its name can't be resolved; is DNS set up, and the name right?"),
    (("connection refused",), "nobody listens there (connection refused)"),
    (("network is unreachable", "no route to host"), "there is no way to it (no route)"),
    (("wrong_version_number", "invalidcontenttype", "wrong version number"), "it does not speak TLS on that port"),
)  # fmt: skip


def _causes(error: BaseException) -> list[str]:
    """What each error in the chain says, outermost first."""
    told: list[str] = []
    current: BaseException | None = error
    while current is not None:
        details = getattr(current, "details", None) or {}  # so the Rust transport tells what httpx was not told
        inner = [str(cause["message"]) for cause in details.get("causes") or () if "for url" not in str(cause["message"])]
        told += inner or [f"{type(current).__name__}: {current}"]
        current = current.__cause__ or current.__context__
    return told


def proxy_of(url: str) -> str | None:
    """Host and port of the proxy that requests to `url` go through, None when they go straight."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return host_of(proxy if "//" in proxy else f"//{proxy}")


def retry_after(response: "httpx.Response", now: float) -> float | None:
    """The Retry-After header in seconds, from either of its forms (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    date = http_date(value)
    sent = http_date(response.headers.get("Date", ""))  # by the same clock, which may not be ours
    return None if date is None else max(0.0, date - (now if sent is None else sent))


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
