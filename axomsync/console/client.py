"""The five console calls: documented answers in, records out.

Failures handled: entries that do not fit their form (left out and named, never a crash), a list in pages by a Link header,
wrapped in an object, or endless, or slow, or at URLs that grow, or that continues on another host (the key is not sent
there), the manifest of another model. `session` handles the failures of one exchange, `shapes` those of the forms.

The source of facts is the vendor's page "Models & datasets".
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from axomsync.console.session import ANSWER_LIMIT, ANSWER_SECONDS, TIMEOUT, NotThere, Session, decoded
from axomsync.console.shapes import (
    NAMED_MOST,
    BaseModelShape,
    DatasetShape,
    ManifestShape,
    ModelShape,
    PresignedShape,
    entries_of,
    fit,
    left_out_words,
    what_it_lacks,
    without_folders,
)
from axomsync.core.errors import Rejected, Transient
from axomsync.core.records import BaseModel, Dataset, Manifest, ManifestFile, Presigned, RemoteModel
from axomsync.core.text import printable
from axomsync.storage.s3 import url_lifetime
from axomsync.transport.proxies import Proxy

log = logging.getLogger(__name__)

MOST_ENTRIES = 200_000  # of one list
PAGE_LIMIT = 1000
ANSWERS_OF_A_LIST = 10  # of the longest, in time; slow pages must not hold a worker for ever
LONGEST_URL = 8192  # characters; servers refuse longer ones

R = TypeVar("R")


class Console:
    """A client for one console. `read_key` is called for the API key at the start and again after a 401."""

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._now, self._clock = now, clock
        self._list_seconds = ANSWERS_OF_A_LIST * answer_seconds
        self._session = Session(
            url,
            read_key,
            ca_file=ca_file,
            now=now,
            clock=clock,
            timeout=timeout,
            answer_seconds=answer_seconds,
            transport=transport,
        )
        self._left_out: dict[str, list[str]] = {}

    @property
    def url(self) -> str:
        """The console's address, without a slash at its end."""
        return self._session.url

    @property
    def proxy(self) -> Proxy | None:
        """The proxy between the agent and the console; None when there is none."""
        return self._session.proxy

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which the console's clock was ahead of ours at its last answer; None before the first."""
        return self._session.clock_ahead

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def silence(self) -> float:
        """Seconds for which the oldest call under way has waited without an answer to any; 0 when none waits."""
        return self._session.silence()

    def forget_key(self) -> None:
        """Read the API key again from its source before the next call."""
        self._session.forget_key()

    def base_models(self, beat: Callable[[], None] = lambda: None) -> list[BaseModel]:
        """`GET /base-models` (scope read). `beat` is called before each page."""
        return [BaseModel(**shape.model_dump()) for shape in self._list("/base-models", BaseModelShape, beat)]

    def models(self, beat: Callable[[], None] = lambda: None) -> list[RemoteModel]:
        """`GET /models` (scope read), newest first, duplicates by id left out. `beat` is called before each page."""
        shapes: dict[str, ModelShape] = {}
        for shape in self._list("/models", ModelShape, beat):
            shapes.setdefault(shape.id, shape)
        return [RemoteModel(**shape.model_dump()) for shape in shapes.values()]

    @property
    def models_left_out(self) -> str | None:
        """Unusable entries of the last list of models; with them, the list is incomplete. None if there were none."""
        return left_out_words(self._left_out.get("/models", []))

    def datasets(self) -> list[Dataset]:
        """`GET /datasets` (scope read), newest first."""
        return [Dataset(**shape.model_dump()) for shape in self._list("/datasets", DatasetShape)]

    def manifest(self, model_id: str) -> Manifest:
        """`GET /models/{id}/download` (scope models). Raises `NotThere` if the model disappeared."""
        answer, date = self._session.call("GET", f"/models/{quote(model_id, safe='')}/download", scope="models")
        shape = fit(ManifestShape, answer, "the download manifest")
        if shape.model_id != model_id:
            raise Transient(
                f"the console answered with the manifest of another model ({printable(shape.model_id)}); if "
                "that lasts, tell whoever runs it"
            )
        listed = without_folders(shape.files)
        files = (ManifestFile(f.rel, f.size, f.url, url_lifetime(f.url, date or self._now()), f.checksums()) for f in listed)
        return Manifest(model_id, tuple(files))

    def presign(self, filename: str, content_type: str) -> Presigned:
        """`POST /uploads/presign` (scope datasets)."""
        body = {"filename": filename, "content_type": content_type}
        answer, date = self._session.call("POST", "/uploads/presign", scope="datasets", body=body)
        shape = fit(PresignedShape, answer, "the presigned upload")
        if shape.method.upper() != "PUT":
            raise Rejected(
                f"the console wants {printable(shape.method)} for uploads, this version knows PUT; is it the newest?"
            )
        lifetime = url_lifetime(shape.url, date or self._now())
        return Presigned(shape.upload_id, shape.key, shape.url, None if lifetime is None else self._now() + lifetime)

    def _list(self, path: str, shape: type[R], beat: Callable[[], None] = lambda: None) -> list[R]:
        entries: list[R] = []
        left_out: list[str] = []
        adapter = TypeAdapter(shape)
        for page in self._pages(path, beat):
            for entry in entries_of(page, path):
                if len(entries) + len(left_out) == MOST_ENTRIES:  # half a list would make models look removed
                    raise Transient(f"{path}: the console's list has more than {MOST_ENTRIES} entries")
                try:
                    entries.append(adapter.validate_python(entry))
                except ValidationError as failure:
                    left_out.append(what_it_lacks(entry, failure) if len(left_out) < NAMED_MOST else "")
        if left_out != self._left_out.get(path, []):
            log.warning("%s: %s", path, left_out_words(left_out) or "no entry lacks the documented fields any more")
        self._left_out[path] = left_out
        return entries

    def _pages(self, path: str, beat: Callable[[], None]) -> Iterator[object]:
        url: str | None = self._session.url + path
        seen: set[str] = set()
        left, began = ANSWER_LIMIT, self._clock()
        while url is not None and url not in seen:
            if self._clock() - began > self._list_seconds:
                raise Transient(f"{path}: the console's list took more than {self._list_seconds:g} s")
            if len(seen) == PAGE_LIMIT:
                raise Transient(f"{path}: the console's list has more than {PAGE_LIMIT} pages")
            seen.add(url)
            beat()
            try:
                with self._session.request("GET", url, "read") as response:
                    body = self._session.body(response, left)
                    following = response.links.get("next", {}).get("url")
            except NotThere as absent:
                raise Rejected(f"{absent}; is [console] url right?") from None
            left -= len(body)
            page = decoded(body, path)
            del body  # frees its memory while the page is in use
            yield page
            url = self._following(url, following) if following else None

    def _following(self, url: str, following: str) -> str:
        """The next page's URL at our own origin: the key is sent nowhere else, whatever host or scheme a proxy writes."""
        own = urlsplit(self._session.url)
        try:
            parts = urlsplit(urljoin(url, following))
            foreign = parts.hostname != own.hostname or (parts.port or 0) not in (0, 80, 443, own.port)
        except ValueError:
            foreign = True
        if foreign:
            raise Rejected("the console's list goes on at another host; the key is not sent there")
        found = urlunsplit((own.scheme, own.netloc, parts.path, parts.query, ""))
        if len(found) > LONGEST_URL:  # a link that repeats its own path grows with each page
            raise Rejected(
                f"the console's list goes on at a URL of more than {LONGEST_URL} characters; tell whoever runs it"
            )
        return found
