"""HTTP facts that console and storage share: the reasons for a missing answer, and headers.

It keeps no state. Headers come from the far side: one that does not parse counts as absent.
"""

import email.utils
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import urlsplit

import httpx
from socksio import SOCKSError

from axomsync.core.signatures import repeats_signature
from axomsync.core.text import printable
from axomsync.transport import authorities
from axomsync.transport.proxies import Proxy

_LONGEST_URL = 65_536  # characters; httpx takes no longer one
_PLAIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?/[!-\[\]-~]*")

NETWORK_TROUBLE = (httpx.HTTPError, SOCKSError)  # httpx maps its connections' errors, but not SOCKS errors


def with_context(proxy: Proxy, context: ssl.SSLContext) -> httpx.Proxy:
    """Convert a proxy for httpx; a proxy over TLS is verified with the same `context` as the far side."""
    return httpx.Proxy(proxy.url, ssl_context=context if proxy.url.startswith("https:") else None)


@contextmanager
def exchange(transport: httpx.BaseTransport, request: httpx.Request) -> Iterator[httpx.Response]:
    """Send a request; yields the answer, whose body is not yet read.

    httpx's client would add redirects, cookies and authentication, which nobody here wants, and double the CPU time.
    """
    response = transport.handle_request(request)
    response.request = request
    try:
        yield response
    finally:
        response.close()


def host_of(url: str) -> str:
    """Host and port of a URL, for messages: never another part of a signed URL."""
    try:
        return printable(urlsplit(url).netloc.rpartition("@")[2])
    except ValueError:
        return "?"


def is_plain(url: str) -> bool:
    """Check that every library takes this URL, and reads it alike."""
    return len(url) < _LONGEST_URL and _PLAIN.fullmatch(url) is not None


def network_reason(error: Exception, proxy: Proxy | None, silent: str) -> str:
    """The reason for a missing answer, from the innermost cause, with the remedy; `silent`: the text for a timeout."""
    causes = _causes(error)
    told = " | ".join(causes).lower()
    if proxy is not None:
        return f"through {proxy}: {_refusal_of_proxy(told, proxy) or _reason(error, causes, told, silent)}"
    return _reason(error, causes, told, silent)


def never_connected(error: Exception) -> bool:
    """Check that no connection was made, so that nothing reached the far side."""
    told = " | ".join(_causes(error)).lower()
    if "client error (" in told:  # the Rust client also gives this error for a connection that ends without an answer
        return "client error (connect)" in told
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _refusal_of_proxy(told: str, proxy: Proxy) -> str | None:
    """The proxy's own refusal; None when something else failed."""
    status = re.search(r"proxyerror: (\d{3})\b", told)
    if "proxy authorization" in told or (status and status[1] == "407"):
        return proxy_answered(407, proxy)
    if status:
        return proxy_answered(int(status[1]), proxy)
    if any(sign in told for signs, _ in _REASONS for sign in signs):
        return None
    if "underlying connection" in told:
        return "can't connect to it; is it running?"
    if any(sign in told for sign in ("tunnel error", "proxyerror", "socks")):
        return f"it refuses the connection; is its type the one in ${proxy.variable}, and the host allowed there?"
    return None


def proxy_answered(status: int, proxy: Proxy) -> str:
    """The remedy for an answer that the proxy itself gave."""
    if status == 407:
        return f"it answered 407; put a user and a password into ${proxy.variable}, as in http://user:password@{proxy.place}"
    return f"it answered {status}; is the host allowed there, and reachable from it?"


def _reason(error: Exception, causes: list[str], told: str, silent: str) -> str:
    if trust := next((printable(cause)[:200] for cause in causes if "certificate" in cause.lower()), None):
        if not authorities.any_known(ssl.create_default_context()):
            return f"no certificate authority is known on this machine, so no server is trusted; {authorities.FIX}"
        return f"its certificate is not trusted ({trust}); [console] ca_file or SSL_CERT_FILE names an authority of your own"
    kind = type(error).__name__
    for signs, reason in _REASONS:
        if any(sign in told for sign in signs):
            return f"can't connect: {reason}" if kind == "ConnectError" else reason
    slow_connect = kind.startswith("ConnectTimeout") and "operation timed out" not in told
    if slow_connect or ("(connect)" in told and "timed out" in told):
        return "no connection within the time limit"
    if slow := re.search(r"the answer took more than [\d.]+ s", told):  # of a `Deadline`
        return slow[0]
    if "Timeout" in kind:
        return silent
    if kind == "ConnectError":
        return f"can't connect ({printable(causes[-1])[:200]})"
    if kind in ("RemoteProtocolError", "DecodingError", "DecodeError") and not any(sign in told for sign in _BROKEN_OFF):
        return "its answer is not HTTP, or has headers that are too large; does a proxy stand in between?"
    return f"the connection broke ({kind})"


# Causes as the C library, OpenSSL, httpcore and the Rust transport name them; the first match counts.
_REASONS = (
    (("too many open files",), "this process has too many open files; raise LimitNOFILE= of the unit (ulimit -n)"),
    (("dns error", "name or service not known", "name resolution", "no address associated", "nodename nor servname"),
     "its name can't be resolved; is DNS set up, and the name right?"),
    (("connection refused",), "no service listens there (connection refused)"),
    (("network is unreachable", "no route to host"), "the network has no route to it"),
    (("wrong_version_number", "invalidcontenttype", "wrong version number"), "it does not speak TLS on that port"),
)  # fmt: skip


_BROKEN_OFF = ("disconnect", "closed", "incomplete", "unexpected eof", "end of file", "reset", "too short")


def _causes(error: BaseException) -> list[str]:
    """Messages of all errors in the chain, outermost first."""
    told: list[str] = []
    current: BaseException | None = error
    while current is not None:
        details = getattr(current, "details", None) or {}  # causes from the Rust transport, which httpx does not show
        inner = [str(cause["message"]) for cause in details.get("causes") or () if "for url" not in str(cause["message"])]
        told += inner or [f"{type(current).__name__}: {current}"]
        current = current.__cause__ or current.__context__
    return told


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Retry-After in seconds, from either of its forms (RFC 9110, 10.2.3); None when absent or unreadable."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    date = http_date(value)
    sent = http_date(headers.get("Date", ""))  # by the same clock, which may differ from ours
    return None if date is None else max(0.0, date - (now if sent is None else sent))


def request_id(headers: Mapping[str, str], url: str, name: str, key: str | None = None) -> str:
    """The far side's name for this request, for its support: `; request …` to append to a message, or "".

    `name` is its header. A value that is no plain word, or that repeats a secret (the URL, the `key`), counts
    as none.
    """
    value = headers.get(name, "")
    secret = repeats_signature(value, url) or (key is not None and key in value)
    return "" if secret or not re.fullmatch(r"[\w.:+/=-]{1,64}", value, re.ASCII) else f"; request {value}"


@lru_cache(maxsize=16)  # the answers of one second have the same
def http_date(value: str) -> float | None:
    """Parse an HTTP date (RFC 9110, 5.6.7) to seconds since the epoch; None when it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
