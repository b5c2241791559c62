"""HTTP to one engine: bounded questions, bounded answers, and the engine's own words when it refuses.

Failures handled: no service, no answer in time, 408, 425, 429, 502, 503, 504, an answer that breaks off, is no JSON, too
large or too slow (`Transient`); 401, 403 and redirects (`Rejected`; none is followed, so a token goes to nobody else); a
token over plain http to another machine (`Rejected`); an engine that repeats the token (it is taken out). All other statuses
are for the engine's module to judge.
"""

import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from axomsync import __version__
from axomsync.config import may_use_plain_http
from axomsync.core.documents import NotADocument, parse_document
from axomsync.core.errors import Rejected, Transient
from axomsync.core.hosts import host_fault
from axomsync.core.text import printable
from axomsync.transport.authorities import tls_context
from axomsync.transport.deadlines import Deadline, limited
from axomsync.transport.http import NETWORK_TROUBLE, network_reason, proxy_answered, retry_after, with_context
from axomsync.transport.proxies import Proxies, Proxy

T = TypeVar("T")

LARGEST = 8 * 1024 * 1024  # bytes of an answer
WORDS = 300  # characters of an engine's words that are shown
CONNECT_SECONDS = 10.0
PAUSE_SECONDS = 0.5  # between two looks at an engine that is not ready
_NOT_NOW = frozenset({408, 425, 429, 502, 503, 504})
_DENIED = frozenset({401, 403})


@dataclass(frozen=True)
class Answer:
    """An answer of the engine to `call`. `words` is its own reason, on one short line, without the token."""

    call: str
    status: int
    body: bytes
    words: str

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    def document(self, shape: TypeAdapter[T]) -> T:
        """The body as a document of this shape. Raises `Transient`: something else may answer in the engine's place."""
        try:
            return parse_document(self.body, shape, LARGEST)
        except NotADocument as fault:
            raise Transient(f"{self.call}: the answer is not the engine's: {fault}; does --url name the engine?") from None

    def refusal(self, remedy: str = "") -> Rejected:
        """The failure to raise when this answer is a final no."""
        return Rejected(f"{self.call}: the engine refuses with {self.status}: {self.words}{remedy and f'; {remedy}'}")


class Client:
    """One engine. A question may take `timeout` seconds; an order, and the wait for its effect, `wait` seconds each."""

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 30.0, wait: float = 300.0) -> None:
        self.url = url.rstrip("/")
        self._token, self._timeout, self._wait = token, timeout, wait
        if token is not None and not may_use_plain_http(url, allow_http=False):
            raise Rejected(f"{self.url}: the token would cross the network in the clear; name an https URL")
        self._proxy = Proxies.of(os.environ).leading_to(self.url)
        context = _context(url, self._proxy)
        proxy = None if self._proxy is None else with_context(self._proxy, context)
        self._http = httpx.Client(
            transport=limited(httpx.HTTPTransport(verify=context, proxy=proxy, trust_env=False)),
            headers={"User-Agent": f"axomsync/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}
            | ({} if token is None else {"Authorization": f"Bearer {token}"}),
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Put a question, which an engine answers at once. Raises `Transient`, `Rejected`."""
        return self._call(method, path, self._timeout, json=body)

    def order(self, method: str, path: str, body: object = None) -> Answer:
        """Give an order that may take long, such as to load a model. Raises as `ask`."""
        return self._call(method, path, self._wait, json=body)

    def send(self, path: str, content: Iterator[bytes], size: int) -> Answer:
        """POST a file. Raises as `ask`."""
        return self._call("POST", path, self._wait, content=content, headers={"Content-Length": str(size)})

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Ask again and again until `condition` holds. Raises `Transient` at the end of the wait, `Rejected`."""
        ends = time.monotonic() + self._wait
        while True:
            try:
                if condition():
                    return
                reason = f"{self.url}: {what} is not ready"
            except Transient as trouble:
                reason = str(trouble)
            left = ends - time.monotonic()
            if left <= 0:
                raise Transient(f"{reason}, after {self._wait:g} s; --wait and [hooks] timeout may be longer")
            time.sleep(min(PAUSE_SECONDS, left))

    def _call(
        self,
        method: str,
        path: str,
        seconds: float,
        *,
        json: object = None,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        call = f"{method} {self.url}{printable(path)}"
        deadline = Deadline(seconds)
        limits = {"timeout": {"connect": min(seconds, CONNECT_SECONDS), "write": seconds, "read": deadline}}
        if content is not None:
            content = deadline.renewed_by(content)
        try:
            with self._http.stream(
                method, self.url + path, json=json, content=content, headers=headers, extensions=limits
            ) as response:
                return self._judged(call, response, b"" if method == "HEAD" else _body(response, call))
        except NETWORK_TROUBLE as error:
            raise Transient(f"{self.url}: {network_reason(error, self._proxy, 'no answer in time')}") from None
        except httpx.InvalidURL:
            raise Rejected(f"{call}: this is no usable URL; correct --url or --name") from None

    def _judged(self, call: str, response: httpx.Response, body: bytes) -> Answer:
        status = response.status_code
        answer = Answer(call, status, body, self._words(body))
        if status in _NOT_NOW:
            raise Transient(f"{call}: {status}: {answer.words}", retry_after(response.headers, time.time()))
        if status == 407 and self._proxy is not None:
            raise Transient(f"{call}: through {self._proxy}: {proxy_answered(status, self._proxy)}")
        if 300 <= status < 400:
            raise Rejected(f"{call}: it redirects elsewhere ({status}), which is not followed; correct --url")
        if status in _DENIED:
            what = "asks for a token; name a file with one by --token-file" if self._token is None else "refuses the token"
            raise Rejected(f"{call}: the engine {what} ({status}: {answer.words})")
        return answer

    def _words(self, body: bytes) -> str:
        """The reason in an answer; the token is removed before the cut, which might leave most of it."""
        try:
            text = _reason(parse_document(body, _ANYTHING, LARGEST))
        except NotADocument:
            lines = [] if body.lstrip()[:1] == b"<" else body[-16 * 1024 :].decode("utf-8", "replace").split("\n")
            text = next((line for line in reversed(lines) if line.strip()), "")  # of a traceback, what went wrong
        if self._token is not None:
            text = text.replace(self._token, "…")
        return printable(" ".join(text.split()))[:WORDS] or "no reason given"


_ANYTHING: TypeAdapter[object] = TypeAdapter(object)


def _context(url: str, proxy: Proxy | None) -> ssl.SSLContext:
    """What to trust over TLS. Without TLS on the way nobody is trusted, and no authorities are read, which takes time."""
    if url.startswith("https:") or (proxy is not None and proxy.url.startswith("https:")):
        return tls_context(None)
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _body(response: httpx.Response, call: str) -> bytes:
    """The body as it was sent: what is packed is no JSON then, and can't unpack to gigabytes.

    A refusal matters more than its reason, which may be cut off.
    """
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > LARGEST:
                raise Transient(f"{call}: the answer has more than {LARGEST >> 20} MiB; does --url name the engine?")
    except (Transient, *NETWORK_TROUBLE):
        if response.status_code not in _DENIED and not 300 <= response.status_code < 400:
            raise
    return bytes(body)


def _reason(document: object) -> str:
    """The text of the forms in use: `{"error": "…"}`, `{"error": {"message": "…"}}`, `{"message": …}`, `{"detail": …}`."""
    for _ in range(4):
        if isinstance(document, list) and document:
            document = document[0]
        elif isinstance(document, dict):
            document = next((document[key] for key in ("error", "message", "detail", "msg") if key in document), "")
    return document if isinstance(document, str) else ""


def check_url(url: str) -> str:
    """Return `url` if it can be the beginning of an engine's URLs. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("write it like http://localhost:8000")
    if parts.username or parts.password or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError("it may have a host, a port and a path, nothing else; tokens go into --token-file")
    if (fault := host_fault(parts.hostname)) is not None:
        raise ValueError(f"{fault}; write it like http://localhost:8000")
    return url
