"""The five console calls: HTTP in, records out, every answer mapped to what the caller must do next.

Failures handled: 401 (the key source is read again once, then `KeyRefused`), 403 (`Rejected`, names the missing scope),
404, 400/409/422 (`Rejected` with the server's `detail`), 429/5xx/connection failures (`Transient`, honouring Retry-After
in both forms), answers that are HTML, empty, huge, endless, wrapped in an object or paged by a Link header, entries that
do not fit their documented shape (left out and told, never a crash), a far side that repeats our key in what it says.

The sources of facts are the vendor's pages "Models & datasets", "Authentication" and "Errors & conventions".
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpx
import orjson
from pydantic import BaseModel as Shape
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from axomsync import __version__
from axomsync.config import is_loopback
from axomsync.errors import KeyRefused, Rejected, Transient, printable
from axomsync.http import http_date, network_reason, request_id, retry_after, tls_context
from axomsync.records import BaseModel, Dataset, Manifest, ManifestFile, Presigned, RemoteModel
from axomsync.s3 import url_lifetime

log = logging.getLogger(__name__)

ANSWER_LIMIT = 64 * 1024 * 1024  # bytes; a catalog of 100,000 models is about 30 MB
ANSWER_SECONDS = 300.0  # for one whole answer; a far side that trickles must not hold a worker for ever
DETAIL_LIMIT = 16 * 1024
DETAIL_SECONDS = 30.0  # what comes later of an error is not waited for
PAGE_LIMIT = 1000
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
LARGEST_NUMBER = (1 << 63) - 1  # that the ledger can hold

R = TypeVar("R")


def _none_unless_valid(value: object, valid: ValidatorFunctionWrapHandler) -> object:
    """What is only told to people must not cost a model its place in the list."""
    try:
        return valid(value)
    except ValidationError:
        return None


_Text = Annotated[str | None, WrapValidator(_none_unless_valid)]
_Number = Annotated[int | None, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER), WrapValidator(_none_unless_valid)]


class _Lenient(Shape):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


class _BaseModelShape(_Lenient):
    id: str = Field(min_length=1)
    family: _Text = None
    name: _Text = None
    version: _Text = None
    params: _Number = None
    precision: _Text = None


class _ModelShape(_Lenient):
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    params: _Number = None
    base_model_id: _Text = None
    status: str
    created_at: _Text = None


class _DatasetShape(_Lenient):
    id: str = Field(min_length=1)
    name: _Text = None
    version: _Text = None
    shard_count: _Number = None
    bytes: _Number = None
    status: _Text = None
    created_at: _Text = None


class _FileShape(_Lenient):
    rel: str
    size: int = Field(ge=0)
    url: str = Field(min_length=1)


class _ManifestShape(_Lenient):
    model_id: str
    files: list[_FileShape]


class _PresignedShape(_Lenient):
    upload_id: str = Field(min_length=1)
    key: str = Field(min_length=1)
    url: str = Field(min_length=1)
    method: str = "PUT"


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
        self._left_out: dict[str, int] = {}
        self.clock_ahead: float | None = None  # seconds that the console's clock was ahead of ours when it answered last
        self._client = httpx.Client(
            verify=tls_context(ca_file),
            timeout=timeout,
            headers={"User-Agent": f"axomsync/{__version__}", "Accept": "application/json"},
            follow_redirects=False,
            trust_env=not is_loopback(urlsplit(self.url).hostname or ""),  # no proxy leads back to this machine
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
    def models_left_out(self) -> int:
        """Entries of the last list of models that lacked what is documented: the list does not show all there are."""
        return self._left_out.get("/models", 0)

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
        files = (ManifestFile(f.rel, f.size, f.url, url_lifetime(f.url, date or self._now())) for f in shape.files)
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
        # Told to people and to programs, and never asked with.
        upload_id, key = printable(shape.upload_id), printable(shape.key)
        return Presigned(upload_id, key, shape.url, None if lifetime is None else self._now() + lifetime)

    def _list(self, path: str, shape: type[R]) -> list[R]:
        entries: list[R] = []
        left_out = 0
        adapter = TypeAdapter(shape)
        for page in self._pages(path):
            for entry in _entries(page, path):
                try:
                    entries.append(adapter.validate_python(entry))
                except ValidationError:
                    left_out += 1
        if left_out != self._left_out.get(path, 0):
            log.warning("%s: %d entries lack the documented fields and are left out", path, left_out)
        self._left_out[path] = left_out
        return entries

    def _pages(self, path: str) -> Iterator[object]:
        url: str | None = self.url + path
        seen: set[str] = set()
        while url is not None and url not in seen:
            if len(seen) == PAGE_LIMIT:  # half a list would make models look removed
                raise Transient(f"{path}: the console's list has more than {PAGE_LIMIT} pages")
            seen.add(url)
            try:
                with self._request("GET", url, "read") as response:
                    page = _decode(self._body(response), path)
                    following = response.links.get("next", {}).get("url")
            except NotThere as absent:
                raise Rejected(f"{absent}; is [console] url right?") from None
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
            except httpx.HTTPError as error:
                raise Transient(f"{self.url}: {network_reason(error, self.url, 'no answer in time')}") from None
            except httpx.InvalidURL as error:
                raise Rejected(f"{self.url}: this is no usable URL ({error}); correct [console] url") from None

    def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        began, path = time.monotonic(), printable(response.request.url.path)
        for piece in response.iter_bytes():
            body += piece
            if len(body) > ANSWER_LIMIT:
                raise Transient(f"{path}: the answer is larger than {ANSWER_LIMIT >> 20} MiB")
            if time.monotonic() - began > self._answer_seconds:
                raise Transient(f"{path}: the answer took more than {self._answer_seconds:g} s")
        return bytes(body)

    def _detail(self, response: httpx.Response) -> str:
        """The server's own words, one short line; proxies answer with HTML, nothing at all, a lot, or for ever."""
        piece, began = b"", time.monotonic()
        for chunk in response.iter_bytes():
            piece += chunk
            if len(piece) >= DETAIL_LIMIT or time.monotonic() - began > min(DETAIL_SECONDS, self._answer_seconds):
                break
        try:
            text = _words(orjson.loads(piece)["detail"])
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            text = ""
        # The key is taken out before the text is cut: half of it at the end would be found by nobody.
        text = printable(" ".join(text.split())).replace(self._key or "\n", "…")
        return text[:300] or "no detail given"

    def _raise_for_status(self, response: httpx.Response, scope: str) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
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
            raise Transient(f"{self.url} answered {status} ({detail})", retry_after(response, self._now()))
        if 300 <= status < 400:
            raise Rejected(f"{call}: the console redirects elsewhere ({status}); correct [console] url")
        raise Rejected(f"{call}: the console refuses it with {status}: {detail}")


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _decode(body: bytes, path: str) -> object:
    try:
        decoded: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else "an empty body" if not body.strip() else "no JSON"
        raise Transient(
            f"{path}: the console (or a proxy before it) answered with {kind}; is [console] url right?"
        ) from None
    return decoded


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


def _fit(shape: type[R], answer: object, what: str) -> R:
    try:
        return TypeAdapter(shape).validate_python(answer)
    except ValidationError as failure:
        first = failure.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise Rejected(f"{what} lacks its documented form: {place}: {first['msg']}; is this the newest axomsync?") from None


def _words(detail: Any) -> str:
    """`detail` as text; frameworks write a list of `{"loc": ["body", "filename"], "msg": "…"}` for what is invalid."""
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list):
        return ", ".join(map(_words, detail))
    if isinstance(detail, dict) and isinstance(detail.get("msg"), str):
        place = detail.get("loc")
        where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        return f"{where}{detail['msg']}"
    return orjson.dumps(detail).decode()
