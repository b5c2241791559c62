"""A console and an object store in one server that misbehaves on the wire, as told.

Raw sockets, a thread a connection: every byte that leaves is decided here. Speaks the five console calls below `/api`, and
ranged GETs and PUTs on presigned URLs below `/bucket`. Objects are generated from offset and seed, so a terabyte needs no
memory. Without faults it behaves as S3 does. It keeps every request that it was sent.
"""

import email.utils
import hashlib
import hmac
import itertools
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

from blake3 import blake3

from axomsync.mirror.fetch.segments import Coverage

KEY = "axom_live_of_the_server_that_misbehaves"
FOREVER = 1 << 30

_PERIOD = 1_048_573  # bytes; a prime, so that no two places in a file that a bug might mix up hold the same bytes
_STEP = 1 << 18
_TICK = 0.05  # at a limited rate a piece lasts about so long (seconds)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@cache
def _pattern(seed: int) -> memoryview:
    once = Random(seed).randbytes(_PERIOD)
    return memoryview(once + once[:_STEP])


@dataclass(frozen=True)
class Content:
    """`size` bytes: those of `head`, then noise that follows from seed and offset alone."""

    size: int
    seed: int = 0
    head: bytes = b""

    def pieces(self, start: int = 0, end: int | None = None, step: int = _STEP) -> Iterator[bytes | memoryview]:
        position, end = start, self.size if end is None else end
        while position < min(end, len(self.head)):
            piece = self.head[position : min(end, position + step)]
            yield piece
            position += len(piece)
        while position < end:
            offset = position % _PERIOD
            piece_size = min(step, _STEP, end - position)
            yield _pattern(self.seed)[offset : offset + piece_size]
            position += piece_size

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        return b"".join(self.pieces(start, end))

    def md5(self, start: int = 0, end: int | None = None) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self.pieces(start, end):
            digest.update(piece)
        return digest.digest()

    def digest(self, algorithm: str) -> bytes:
        """Of the whole: "md5", "sha256" or "blake3"."""
        digest = blake3() if algorithm == "blake3" else hashlib.new(algorithm, usedforsecurity=False)
        for piece in self.pieces():
            digest.update(piece)
        return bytes(digest.digest())

    def etag(self, part_size: int | None = None) -> str:
        """The ETag that S3 would give: of one PUT, or of a multipart upload."""
        if part_size is None:
            return f'"{self.md5().hex()}"'
        parts = [self.md5(start, min(self.size, start + part_size)) for start in range(0, self.size, part_size)]
        return f'"{hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"'

    def fault_in(self, path: Path) -> str | None:
        """Where a file differs from these bytes, None when it is the same."""
        if path.stat().st_size != self.size:
            return f"{path} has {path.stat().st_size} bytes, not {self.size}"
        with path.open("rb") as file:
            for number, piece in enumerate(self.pieces()):
                if file.read(len(piece)) != piece:
                    return f"{path} differs in piece {number} of {_STEP} bytes"
        return None


@dataclass
class StoredObject:
    content: Content
    etag: str | None
    headers: dict[str, str] = field(default_factory=dict)
    stored_at: float = field(default_factory=time.time)  # seconds since the epoch


@dataclass
class Request:
    """A request as it came. `start` and `end` (exclusive) are the range asked for, `sent` the body bytes of the answer."""

    number: int
    method: str
    path: str  # decoded, without the query
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    at: float  # time.monotonic()
    port: int  # where it came from: one for each connection
    start: int | None = None
    end: int | None = None
    status: int | None = None
    sent: int = 0
    body: bytes = b""

    @property
    def key(self) -> str:
        return self.path.removeprefix("/bucket/")

    @property
    def is_storage(self) -> bool:
        return self.path.startswith("/bucket/")


@dataclass(frozen=True)
class Fault:
    """How one answer differs from the honest one. What is left out changes nothing; the rest combines.

    `headers` replace or add, or remove where the value is None. `cut` is after how many bytes of the body the `ending`
    comes. `rate` is in bytes a second, `head_rate` that of status and headers. `first` is called before the answer is made:
    it may change the server.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | Content | None = None
    cut: int | None = None
    ending: Literal["fin", "reset", "stall"] = "fin"
    rate: float | None = None
    head_rate: float | None = None
    ignores_range: bool = False
    ignores_if_match: bool = False
    first: Callable[[], object] | None = None


def s3_error(status: int, code: str, message: str, **headers: str) -> Fault:
    """An error as S3 words it; underscores in header names stand for hyphens."""
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status, {"Content-Type": "application/xml", **own}, document.encode())


EXPIRED = s3_error(403, "AccessDenied", "Request has expired")


def http_date(seconds_from_now: float) -> str:
    return email.utils.formatdate(time.time() + seconds_from_now, usegmt=True)


def json_answer(document: object, **headers: str) -> Fault:
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(200, {"Content-Type": "application/json", **own}, json.dumps(document).encode())


@dataclass
class _Rule:
    fault: Fault
    path: str
    method: str
    where: Callable[[Request], bool]
    skip: int
    times: int


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    content: Content
    start: int
    end: int


def id_of(name: str, version: str) -> str:
    """The id that a model with these labels gets unless it is given one."""
    return str(uuid.UUID(int=Random(f"{name}/{version}").getrandbits(128), version=4))


class FaultyServer:
    """From `start()` to `stop()`; a context manager. Settings may be changed at any time.

    `rate` limits each storage answer (bytes a second), `longest_answer` its length, as stores do that answer with less
    than was asked. URLs live `url_lifetime` seconds; `revoke_urls()` ends those that were given out.
    """

    def __init__(self, listener: socket.socket | None = None) -> None:
        """`listener`: a socket of another network namespace to serve at, instead of loopback."""
        self.url_lifetime = 900
        self.rate: float | None = None
        self.longest_answer: int | None = None
        self.etag_of_put: Callable[[Content], str] = Content.etag  # what is answered; the object keeps its own
        self.models: list[dict[str, Any]] = []  # newest first, as the console lists them
        self.manifests: dict[str, list[dict[str, Any]]] = {}  # model id → {rel, size, key}
        self.objects: dict[str, StoredObject] = {}
        self.requests: list[Request] = []
        self._rules: list[_Rule] = []
        self._numbers = itertools.count()
        self._epoch = 0
        self._lock = threading.Lock()
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=256)
        self._connections: set[socket.socket] = set()
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    @property
    def endpoint(self) -> str:
        return "http://{}:{}".format(*self.address)

    @property
    def url(self) -> str:
        return f"{self.endpoint}/api"

    def start(self) -> None:
        self._spawn(self._accept)

    def stop(self) -> None:
        self._stopped = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                _abort(connection)
        for thread in self._threads:
            thread.join(5)

    # What it has

    def add_model(
        self,
        name: str,
        version: str,
        files: Mapping[str, Content],
        *,
        status: str = "ready",
        model_id: str | None = None,
        part_size: int | None = None,
        etag: bool = True,
    ) -> str:
        """List a model, newer than all that are listed, and store its files; returns its id."""
        identity = model_id or id_of(name, version)
        entries: list[dict[str, Any]] = []
        for rel, content in files.items():
            key = f"{identity}/{len(entries)}"
            an_hour_ago = time.time() - 3600
            self.objects[key] = StoredObject(content, content.etag(part_size) if etag else None, stored_at=an_hour_ago)
            entries.append({"rel": rel, "size": content.size, "key": key})
        self.manifests[identity] = entries
        document = {
            "id": identity,
            "name": name,
            "version": version,
            "params": 1_000_000,
            "base_model_id": None,
            "lineage": {"job_id": "job"},
            "status": status,
            "created_at": datetime.fromtimestamp(1_700_000_000 + 60 * len(self.models), UTC).isoformat(),
        }
        self.models.insert(0, document)
        return identity

    def key_of(self, model_id: str, rel: str) -> str:
        """The object that a file of a model is."""
        return next(str(entry["key"]) for entry in self.manifests[model_id] if entry["rel"] == rel)

    def replace(self, key: str, content: Content, *, part_size: int | None = None) -> None:
        """The object becomes another one, with another ETag."""
        self.objects[key] = StoredObject(content, content.etag(part_size))

    def presign(self, method: str, key: str) -> str:
        """A URL in the form of AWS Signature Version 4; the signature is our own."""
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
            "X-Amz-Expires": str(self.url_lifetime),
            "X-Amz-SignedHeaders": "host",
            "epoch": str(self._epoch),
        }
        query["X-Amz-Signature"] = _signature(method, key, query)
        return f"{self.endpoint}/bucket/{quote(key)}?{urlencode(query)}"

    def revoke_urls(self) -> None:
        """Every URL that was given out so far is refused for new requests."""
        self._epoch += 1

    # What it does wrong

    def inject(
        self,
        fault: Fault,
        path: str = "/bucket/",
        *,
        method: str = "GET",
        where: Callable[[Request], bool] = lambda request: True,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """Answer the next `times` requests with `method`, whose path contains `path` and for which `where` holds, after
        `skip` of them, with `fault`. Of several rules that fit a request, the oldest that is not used up counts."""
        with self._lock:
            self._rules.append(_Rule(fault, path, method, where, skip, times))

    def heal(self) -> None:
        """No faults any more."""
        with self._lock:
            self._rules.clear()

    # What it saw

    def storage_requests(self, key: str | None = None) -> list[Request]:
        return [r for r in list(self.requests) if r.is_storage and key in (None, r.key)]

    def console_requests(self, path: str = "") -> list[Request]:
        return [r for r in list(self.requests) if r.path.startswith("/api") and path in r.path]

    def sent(self) -> int:
        """Body bytes of objects that were sent."""
        return sum(r.sent for r in self.storage_requests() if r.status in (200, 206))

    def asked(self) -> int:
        """How many different bytes of objects were asked for: of what a thief takes over, some may be sent twice."""
        ranges: dict[str, Coverage] = {}
        for r in self.storage_requests():
            if r.status in (200, 206) and r.start is not None and r.end is not None:
                ranges.setdefault(r.path, Coverage(r.end)).add(r.start, r.end)
        return sum(coverage.covered for coverage in ranges.values())

    # How it works

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="faulty-server")
        self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                connection, (_, port) = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            self._spawn(self._serve, connection, port)

    def _serve(self, connection: socket.socket, port: int) -> None:
        reader = connection.makefile("rb")
        try:
            while not self._stopped and (request := self._read(reader, port)) is not None:
                if not self._answer(connection, request):
                    return
        except (OSError, ValueError):
            pass  # the client went away
        finally:
            with self._lock:
                self._connections.discard(connection)
            reader.close()
            connection.close()

    def _read(self, reader: Any, port: int) -> Request | None:
        line = reader.readline(65536).decode("latin-1")
        if not line.strip():
            return None
        method, target, _ = line.split(" ", 2)
        headers: dict[str, str] = {}
        while field_line := reader.readline(65536).decode("latin-1").strip():
            name, _, value = field_line.partition(":")
            headers[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        names, now = dict(parse_qsl(query)), time.monotonic()
        request = Request(next(self._numbers), method, unquote(path), names, headers, now, port)
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            request.start, request.end = int(match[1]), int(match[2]) + 1
        length = int(headers.get("content-length", 0))
        request.body = reader.read(length)
        if len(request.body) < length:
            return None  # the client went away: storage keeps nothing of it
        self.requests.append(request)
        return request

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        """Send the answer; False when the connection is over."""
        fault = self._fault_for(request)
        if fault.first is not None:
            fault.first()
        answer = self._storage(request, fault) if request.is_storage else self._console(request)
        if fault.body is not None:
            content = fault.body if isinstance(fault.body, Content) else Content(len(fault.body), head=fault.body)
            answer.content, answer.start, answer.end = content, 0, content.size
        answer.status = fault.status or answer.status
        answer.headers["Content-Length"] = str(answer.end - answer.start)
        for name, value in fault.headers.items():
            answer.headers.pop(name, None)
            if value is not None:
                answer.headers[name] = value
        request.status = answer.status
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        start = f"HTTP/1.1 {answer.status} Whatever\r\n{head}\r\n".encode("latin-1")
        if fault.head_rate is None:
            connection.sendall(start)
        else:
            for at in range(len(start)):
                connection.sendall(start[at : at + 1])
                time.sleep(1 / fault.head_rate)
        stop = answer.end if fault.cut is None else min(answer.end, answer.start + fault.cut)
        rate = fault.rate or (self.rate if request.is_storage else None)
        step = _STEP if rate is None else max(1, min(_STEP, int(rate * _TICK)))
        due = time.monotonic()
        for piece in answer.content.pieces(answer.start, stop, step):
            connection.sendall(piece)
            request.sent += len(piece)
            if rate is not None:
                due += len(piece) / rate
                time.sleep(max(0.0, due - time.monotonic()))
        if fault.cut is None:
            return True
        if fault.ending == "stall":
            connection.recv(1)  # until the client has enough of it, or the server stops
        elif fault.ending == "reset":
            _abort(connection)
        return False

    def _fault_for(self, request: Request) -> Fault:
        with self._lock:
            for rule in self._rules:
                fits = rule.method == request.method and rule.path in request.path and rule.where(request)
                if not fits or not rule.times:
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.times -= 1
                return rule.fault
        return Fault()

    def _storage(self, request: Request, fault: Fault) -> _Answer:
        if refusal := self._refusal(request):
            return refusal
        if request.method == "PUT":
            content = Content(len(request.body), head=request.body)
            self.objects[request.key] = StoredObject(content, content.etag())
            return _answer(200, b"", ETag=self.etag_of_put(content))
        stored = self.objects.get(request.key)
        if stored is None:
            return _error(s3_error(404, "NoSuchKey", "The specified key does not exist."))
        condition = request.headers.get("if-match")
        if condition not in (None, stored.etag) and not fault.ignores_if_match:
            return _error(s3_error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold"))
        headers = {"Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream", **stored.headers}
        headers["Date"] = email.utils.formatdate(usegmt=True)
        headers["Last-Modified"] = email.utils.formatdate(stored.stored_at, usegmt=True)
        if stored.etag is not None:
            headers["ETag"] = stored.etag
        size = stored.content.size
        if request.start is None or request.end is None or fault.ignores_range:
            return _Answer(200, headers, stored.content, 0, size)
        if request.start >= size:
            return _error(s3_error(416, "InvalidRange", "The requested range is not satisfiable"))
        end = min(request.end, size, request.start + (self.longest_answer or size))
        headers["Content-Range"] = f"bytes {request.start}-{end - 1}/{size}"
        return _Answer(206, headers, stored.content, request.start, end)

    def _refusal(self, request: Request) -> _Answer | None:
        query = dict(request.query)
        signature = query.pop("X-Amz-Signature", "")
        if signature != _signature(request.method, request.key, query):
            return _error(s3_error(403, "SignatureDoesNotMatch", "The request signature does not match"))
        signed = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if int(query["epoch"]) < self._epoch:
            return _error(s3_error(403, "ExpiredToken", "The provided token has expired."))
        if time.time() > signed + int(query["X-Amz-Expires"]):
            return _error(EXPIRED)
        return None

    def _console(self, request: Request) -> _Answer:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _json({"detail": "missing, wrong or revoked key"}, 401)
        path = request.path.removeprefix("/api")
        if request.method == "POST" and path == "/uploads/presign":
            wanted = json.loads(request.body)
            upload = str(uuid.uuid4())
            key = f"tmp/{upload}/{wanted['filename']}"
            return _json({"upload_id": upload, "key": key, "url": self.presign("PUT", key), "method": "PUT"})
        if path in ("/models", "/datasets", "/base-models"):
            return _json(self.models if path == "/models" else [])
        match = re.fullmatch(r"/models/([^/]+)/download", path)
        if match is None or match[1] not in self.manifests:
            return _json({"detail": "not found"}, 404)
        files = [{**entry, "url": self.presign("GET", entry["key"])} for entry in self.manifests[match[1]]]
        return _json({"model_id": match[1], "name": "", "version": "", "files": files})


def _signature(method: str, key: str, query: Mapping[str, str]) -> str:
    signed = "\n".join([method, key, *(f"{name}={query[name]}" for name in sorted(query))])
    return hmac.new(KEY.encode(), signed.encode(), "sha256").hexdigest()


def _answer(status: int, body: bytes, **headers: str) -> _Answer:
    return _Answer(status, headers, Content(len(body), head=body), 0, len(body))


def _json(document: object, status: int = 200) -> _Answer:
    answer = _answer(status, json.dumps(document).encode())
    answer.headers = {"Content-Type": "application/json"}
    return answer


def _error(fault: Fault) -> _Answer:
    assert isinstance(fault.body, bytes)
    answer = _answer(fault.status or 500, fault.body)
    answer.headers = {name: value for name, value in fault.headers.items() if value is not None}
    return answer


def _abort(connection: socket.socket) -> None:
    """RST instead of FIN: whatever is on its way is lost."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        connection.shutdown(socket.SHUT_RD)
        connection.close()
    except OSError:
        pass
