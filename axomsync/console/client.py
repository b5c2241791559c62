"""The five console calls: HTTP in, records out, every answer mapped to what the caller must do next.

Failures handled: 401 (the key source is read again once, then `KeyRefused`), 403 (`Rejected`, names the missing scope),
404, 400/409/422 (`Rejected` with the server's `detail`), 429/5xx/connection failures (`Transient`, honouring Retry-After
in both forms), answers that are HTML, empty, huge (as they are or once they are unpacked), endless, wrapped in an object or
paged by a Link header, entries that do not fit their documented shape (left out and named, never a crash), texts that would
forge a line of the log, a far side that repeats our key in what it says.

The sources of facts are the vendor's pages "Models & datasets", "Authentication" and "Errors & conventions".
"""

import base64
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpx
import orjson
from pydantic import (
    AfterValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic import BaseModel as Shape

from axomsync import __version__
from axomsync.core.documents import NotADocument, decode
from axomsync.core.errors import KeyRefused, Rejected, Transient
from axomsync.core.records import BaseModel, Dataset, Manifest, ManifestFile, Presigned, RemoteModel
from axomsync.core.text import printable
from axomsync.storage.s3 import plain_md5, url_lifetime
from axomsync.transport.authorities import tls_context
from axomsync.transport.http import (
    NETWORK_TROUBLE,
    http_date,
    network_reason,
    proxy_answered,
    request_id,
    retry_after,
    with_context,
)
from axomsync.transport.proxies import Proxies

log = logging.getLogger(__name__)

ANSWER_LIMIT = 64 * 1024 * 1024  # bytes, unpacked, of all pages together; a catalog of 100,000 models is about 30 MB
STEP = 256 * 1024  # bytes that are unpacked at once
MOST_ENTRIES = 200_000  # of a list
MOST_FILES = 100_000  # of a model
ANSWER_SECONDS = 300.0  # for one whole answer; a far side that trickles must not hold a worker for ever
DETAIL_LIMIT = 16 * 1024
DIGEST_BYTES = {"md5": 16, "sha256": 32, "blake3": 32}
DETAIL_SECONDS = 30.0  # what comes later of an error is not waited for
PAGE_LIMIT = 1000
NAMED_MOST = 5  # entries that were left out, in one line
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
LARGEST_NUMBER = (1 << 63) - 1  # that the ledger can hold

_CODINGS = ("gzip", "x-gzip", "deflate")  # that a proxy may apply unasked
_ZLIB_OR_GZIP = 47  # zlib's own sign for: either header

R = TypeVar("R")


def _none_unless_valid(value: object, valid: ValidatorFunctionWrapHandler) -> object:
    """What is only told to people must not cost a model its place in the list."""
    try:
        return valid(value)
    except ValidationError:
        return None


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _on_one_line(text: str) -> str:
    """What is only told: control characters become escapes, so that no line of a log or a table is forged."""
    return _CONTROL.sub(lambda match: printable(match[0]), text)


def _plain(text: str) -> str:
    """What must stay as it is, such as a key in storage: it may have no control character at all."""
    if _CONTROL.search(text):
        raise ValueError("it holds a control character")
    return text


_Text = Annotated[
    str | None, Field(max_length=1000), AfterValidator(lambda t: t and _on_one_line(t)), WrapValidator(_none_unless_valid)
]
_Id = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]
_Label = Annotated[str, StringConstraints(min_length=1, max_length=1000)]  # as it is: what shows it escapes it
_Key = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_plain)]
_Url = Annotated[str, StringConstraints(min_length=1, max_length=16 * 1024), AfterValidator(_plain)]
_Number = Annotated[int | None, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER), WrapValidator(_none_unless_valid)]


class _Lenient(Shape):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


class _BaseModelShape(_Lenient):
    id: _Id
    family: _Text = None
    name: _Text = None
    version: _Text = None
    params: _Number = None
    precision: _Text = None


class _ModelShape(_Lenient):
    id: _Id
    name: _Label
    version: _Label
    params: _Number = None
    base_model_id: _Text = None
    status: Annotated[str, StringConstraints(max_length=200), AfterValidator(_on_one_line)]
    created_at: _Text = None


class _DatasetShape(_Lenient):
    id: _Id
    name: _Text = None
    version: _Text = None
    shard_count: _Number = None
    bytes: _Number = None
    status: _Text = None
    created_at: _Text = None


class _FileShape(_Lenient):
    rel: str = Field(max_length=16 * 1024)
    size: int = Field(ge=0, le=LARGEST_NUMBER)
    url: _Url
    # Not documented today. What can be read is held to; what can't changes nothing.
    md5: _Text = None
    sha256: _Text = None
    blake3: _Text = None
    checksum: _Text = None
    etag: _Text = None

    def checksums(self) -> tuple[tuple[str, str], ...]:
        """Those that can be read, as hex, by algorithm."""
        named = {name: getattr(self, name) for name in DIGEST_BYTES}
        algorithm, colon, value = (self.checksum or "").partition(":")
        if colon and algorithm.lower() in named:
            named[algorithm.lower()] = named[algorithm.lower()] or value
        named["md5"] = named["md5"] or plain_md5(self.etag)
        return tuple((name, digest) for name, text in named.items() if (digest := _hex_digest(text, DIGEST_BYTES[name])))


class _ManifestShape(_Lenient):
    model_id: str
    files: Annotated[list[_FileShape], Field(max_length=MOST_FILES), FailFast()]


class _PresignedShape(_Lenient):
    upload_id: _Id
    key: _Key
    url: _Url
    method: str = Field("PUT", max_length=20)


class NotThere(Rejected):
    """404: the id is unknown, or not there yet."""


class Console:
    """A client for one console. `read_key` is asked for the API key at the start and again after a 401."""

    def __init__(
        self,
        url: str,
        read_key: Callable[[], str],
        *,
        ca_file: str | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        timeout: httpx.Timeout = TIMEOUT,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.url = url.rstrip("/")
        self._read_key = read_key
        self._key: str | None = None
        self._now, self._clock = now, clock
        self._silent_since: float | None = None
        self._answer_seconds = answer_seconds
        self._left_out: dict[str, list[str]] = {}
        self.clock_ahead: float | None = None  # seconds that the console's clock was ahead of ours when it answered last
        self.proxy = Proxies.of(os.environ).leading_to(self.url)
        context = tls_context(ca_file)
        self._client = httpx.Client(
            verify=context,
            timeout=timeout,
            headers={"User-Agent": f"axomsync/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"},
            follow_redirects=False,
            proxy=None if self.proxy is None else with_context(self.proxy, context),
            trust_env=False,  # httpx would read the same variables in its own way
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def silence(self) -> float:
        """Seconds since the first call without an answer, if none was answered after it; else 0. From any thread."""
        since = self._silent_since
        return 0.0 if since is None else self._clock() - since

    def forget_key(self) -> None:
        """Read the API key from its source before the next call."""
        self._key = None

    def base_models(self) -> list[BaseModel]:
        """`GET /base-models` (scope read)."""
        return [BaseModel(**shape.model_dump()) for shape in self._list("/base-models", _BaseModelShape)]

    def models(self) -> list[RemoteModel]:
        """`GET /models` (scope read), newest first, duplicates by id left out."""
        shapes: dict[str, _ModelShape] = {}
        for shape in self._list("/models", _ModelShape):
            shapes.setdefault(shape.id, shape)
        return [RemoteModel(**shape.model_dump()) for shape in shapes.values()]

    @property
    def models_left_out(self) -> str | None:
        """Which entries of the last list of models lacked what is documented; then the list does not show all there are."""
        return _named(self._left_out.get("/models", []))

    def datasets(self) -> list[Dataset]:
        """`GET /datasets` (scope read), newest first."""
        return [Dataset(**shape.model_dump()) for shape in self._list("/datasets", _DatasetShape)]

    def manifest(self, model_id: str) -> Manifest:
        """`GET /models/{id}/download` (scope models). Raises `NotThere` when the model vanished."""
        answer, date = self._call("GET", f"/models/{quote(model_id, safe='')}/download", scope="models")
        shape = _fit(_ManifestShape, answer, "the download manifest")
        if shape.model_id != model_id:
            raise Transient(
                f"the console answered with the manifest of another model ({printable(shape.model_id)}); if "
                "that lasts, tell whoever runs it"
            )
        listed = _without_folders(shape.files)
        files = (ManifestFile(f.rel, f.size, f.url, url_lifetime(f.url, date or self._now()), f.checksums()) for f in listed)
        return Manifest(model_id, tuple(files))

    def presign(self, filename: str, content_type: str) -> Presigned:
        """`POST /uploads/presign` (scope datasets)."""
        body = {"filename": filename, "content_type": content_type}
        answer, date = self._call("POST", "/uploads/presign", scope="datasets", body=body)
        shape = _fit(_PresignedShape, answer, "the presigned upload")
        if shape.method.upper() != "PUT":
            raise Rejected(
                f"the console wants {printable(shape.method)} for uploads, this version knows PUT; is it the newest?"
            )
        lifetime = url_lifetime(shape.url, date or self._now())
        return Presigned(shape.upload_id, shape.key, shape.url, None if lifetime is None else self._now() + lifetime)

    def _list(self, path: str, shape: type[R]) -> list[R]:
        entries: list[R] = []
        left_out: list[str] = []
        adapter = TypeAdapter(shape)
        for page in self._pages(path):
            for entry in _entries(page, path):
                if len(entries) + len(left_out) == MOST_ENTRIES:  # half a list would make models look removed
                    raise Transient(f"{path}: the console's list has more than {MOST_ENTRIES} entries")
                try:
                    entries.append(adapter.validate_python(entry))
                except ValidationError as failure:
                    left_out.append(_what_it_lacks(entry, failure) if len(left_out) < NAMED_MOST else "")
        if left_out != self._left_out.get(path, []):
            log.warning("%s: %s", path, _named(left_out) or "no entry lacks the documented fields any more")
        self._left_out[path] = left_out
        return entries

    def _pages(self, path: str) -> Iterator[object]:
        url: str | None = self.url + path
        seen: set[str] = set()
        left = ANSWER_LIMIT
        while url is not None and url not in seen:
            if len(seen) == PAGE_LIMIT:
                raise Transient(f"{path}: the console's list has more than {PAGE_LIMIT} pages")
            seen.add(url)
            try:
                with self._request("GET", url, "read") as response:
                    body = self._body(response, left)
                    following = response.links.get("next", {}).get("url")
            except NotThere as absent:
                raise Rejected(f"{absent}; is [console] url right?") from None
            left -= len(body)
            page = _decode(body, path)
            del body  # what follows has room for one of the two
            yield page
            url = self._following(url, following) if following else None

    def _following(self, url: str, following: str) -> str:
        """The next page's URL at our own origin: the key goes nowhere else, whatever host or scheme a proxy writes."""
        own = urlsplit(self.url)
        try:
            parts = urlsplit(urljoin(url, following))
            foreign = parts.hostname != own.hostname or (parts.port or 0) not in (0, 80, 443, own.port)
        except ValueError:
            foreign = True
        if foreign:
            raise Rejected("the console's list goes on at another host; the key is not sent there")
        return urlunsplit((own.scheme, own.netloc, parts.path, parts.query, ""))

    def _call(self, method: str, path: str, *, scope: str, body: object = None) -> tuple[object, float | None]:
        with self._request(method, self.url + path, scope, body) as response:
            return _decode(self._body(response), path), http_date(response.headers.get("Date", ""))

    @contextmanager
    def _request(self, method: str, url: str, scope: str, body: object = None) -> Iterator[httpx.Response]:
        """A successful response, its body not yet read. A refused key is read anew from its source once."""
        key = self._key or self._read_key()
        if self._silent_since is None:
            self._silent_since = self._clock()
        for last_try in (False, True):
            self._key = key
            try:
                with self._client.stream(method, url, json=body, headers=_bearer(key)) as response:
                    self._silent_since = None
                    if response.status_code == 401 and not last_try and (rotated := self._read_key()) != key:
                        key = rotated
                        continue
                    date = http_date(response.headers.get("Date", ""))
                    self.clock_ahead = None if date is None else date - self._now()
                    self._raise_for_status(response, scope)
                    yield response
                    return
            except NETWORK_TROUBLE as error:
                raise Transient(f"{self.url}: {network_reason(error, self.proxy, 'no answer in time')}") from None
            except httpx.InvalidURL as error:
                raise Rejected(f"{self.url}: this is no usable URL ({error}); correct [console] url") from None

    def _body(self, response: httpx.Response, most: int = ANSWER_LIMIT) -> bytearray:
        body = bytearray()
        for piece in self._pieces(response):
            body += piece
            if len(body) > most:
                path = printable(response.request.url.path)
                raise Transient(f"{path}: the answer is larger than {ANSWER_LIMIT >> 20} MiB")
        return body

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body as it arrives, unpacked step by step: a kilobyte may be packed from a gigabyte."""
        began, path = time.monotonic(), printable(response.request.url.path)
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if coding not in ("", "identity", *_CODINGS):
            raise Transient(
                f"{path}: the answer is packed as {printable(coding)[:60]!r}, though it was asked for as it is; have the "
                "proxy before the console leave it alone"
            )
        unpacked = zlib.decompressobj(_ZLIB_OR_GZIP) if coding in _CODINGS else None
        for piece in response.iter_raw():
            if time.monotonic() - began > self._answer_seconds:
                raise Transient(f"{path}: the answer took more than {self._answer_seconds:g} s")
            if unpacked is None:
                yield piece
                continue
            try:
                more = True
                while more:
                    out = unpacked.decompress(piece, STEP)
                    piece = unpacked.unconsumed_tail
                    more = bool(piece) or len(out) == STEP
                    yield out
            except zlib.error:
                raise Transient(f"{self.url}: the connection broke (what it packed as {coding} is damaged)") from None

    def _raise_for_status(self, response: httpx.Response, scope: str) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        if status == 407 and self.proxy is not None:
            raise Transient(f"{self.url}: through {self.proxy}: {proxy_answered(status, self.proxy)}")
        call = f"{response.request.method} {printable(response.request.url.path)}"
        detail = self._detail(response) + request_id(response, "x-request-id", self._key)
        if status == 401:
            raise KeyRefused(
                f"the console refuses the API key ({detail}): create a new one in the console, put it where "
                "$AXOM_KEY, [console] key_file or the credential axom_key is read from, and reload"
            )
        if status == 403:
            raise Rejected(f"{call}: the API key lacks the scope '{scope}' ({detail}); create a key that has it")
        if status == 404:
            raise NotThere(f"{call}: the console does not know it ({detail})")
        if status == 429 or status >= 500 or status in (408, 425):
            through = f", through {self.proxy}" if self.proxy is not None else ""
            raise Transient(f"{self.url} answered {status} ({detail}){through}", retry_after(response, self._now()))
        if 300 <= status < 400:
            raise Rejected(f"{call}: the console redirects elsewhere ({status}); correct [console] url")
        raise Rejected(f"{call}: the console refuses it with {status}: {detail}")

    def _detail(self, response: httpx.Response) -> str:
        """The server's own words, one short line; proxies answer with HTML, nothing at all, or a lot."""
        piece, ends = b"", time.monotonic() + DETAIL_SECONDS
        with suppress(Transient):  # what it says of the refusal does not matter as much as the refusal
            for more in self._pieces(response):
                piece += more
                if len(piece) >= DETAIL_LIMIT or time.monotonic() > ends:
                    break
        try:
            text = _words(orjson.loads(piece[:DETAIL_LIMIT])["detail"])
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            text = ""
        # The key goes first: the cut might leave most of it.
        return printable(" ".join(text.replace(self._key or "\n", "…").split()))[:300] or "no detail given"


def _without_folders(files: list[_FileShape]) -> Iterator[_FileShape]:
    """Tools that copy folders to storage leave an empty object for each: `name/`, or on Azure `name` beside `name/file`."""
    # With the least of all characters between its parts, a folder is followed by what lies in it when they are sorted.
    in_order = sorted(files, key=lambda file: file.rel.replace("/", "\0"))
    folders = {above.rel for above, below in pairwise(in_order) if below.rel.startswith(f"{above.rel}/")}
    return (file for file in files if file.size or not (file.rel.endswith("/") or file.rel in folders))


def _hex_digest(text: str | None, length: int) -> str | None:
    """A digest of `length` bytes, written as hex or in base64; None for what is none."""
    if text is None:
        return None
    with suppress(ValueError):
        decoded = bytes.fromhex(text) if len(text) == 2 * length else base64.b64decode(text, validate=True)
        return decoded.hex() if len(decoded) == length else None
    return None


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _decode(body: bytearray, path: str) -> object:
    try:
        return decode(body)
    except NotADocument as fault:
        start = body[:100].lstrip()
        kind = "an HTML page" if start[:1] == b"<" else f"no JSON that can be read, {fault}" if start else "an empty body"
        raise Transient(
            f"{path}: the console (or a proxy before it) answered with {kind}; is [console] url right?"
        ) from None


def _entries(page: object, path: str) -> list[object]:
    """The list in an answer, which may be wrapped in an object under whatever name."""
    if isinstance(page, list):
        return page
    lists = {name: value for name, value in page.items() if isinstance(value, list)} if isinstance(page, dict) else {}
    for name in (path.strip("/").replace("-", "_"), "data", "items", "results"):
        if name in lists:
            return lists[name]
    if len(lists) != 1:
        raise Transient(f"{path}: the console answered with something that is no list")
    return next(iter(lists.values()))


def _what_it_lacks(entry: object, failure: ValidationError) -> str:
    """Which entry of a list can't be used, and what is wrong with it."""
    if not isinstance(entry, dict):
        return "one that is no object"
    named = [entry[field] for field in ("name", "version", "id") if isinstance(entry.get(field), str) and entry[field]]
    first = failure.errors(include_input=False, include_url=False, include_context=False)[0]
    field = str(first["loc"][0])
    fault = f"no {field}" if entry.get(field) in (None, "") else f"{field}: {first['msg']}"
    return f"{' '.join(printable(text)[:100] for text in named) or 'one without a name'} ({fault})"


def _named(left_out: list[str]) -> str | None:
    if not left_out:
        return None
    more = f" and {len(left_out) - NAMED_MOST} more" if len(left_out) > NAMED_MOST else ""
    return (
        f"{len(left_out)} entries lack the documented fields and are left out: {', '.join(left_out[:NAMED_MOST])}{more}; "
        "tell whoever runs the console"
    )


def _fit(shape: type[R], answer: object, what: str) -> R:
    try:
        return TypeAdapter(shape).validate_python(answer)
    except ValidationError as failure:
        first = failure.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise Rejected(
            f"{what} lacks its documented form: {printable(place)[:100]}: {first['msg']}; tell whoever runs the console"
        ) from None


def _words(detail: Any) -> str:
    """`detail` as text; frameworks write a list of `{"loc": ["body", "filename"], "msg": "…"}` for what is invalid."""
    return ", ".join(map(_word, detail)) if isinstance(detail, list) else _word(detail)


def _word(detail: Any) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, dict) and isinstance(detail.get("msg"), str):
        place = detail.get("loc")
        names = [str(part) for part in place if isinstance(part, str | int)] if isinstance(place, list) else []
        return f"{'.'.join(names)}: {detail['msg']}" if names else detail["msg"]
    return orjson.dumps(detail).decode()
