"""What console and storage answer: `STATUS`, headers a line each, a blank line, and the body."""

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson

from axomsync.console.client import Console
from axomsync.core.errors import AxomsyncError
from axomsync.core.records import Model, ModelState
from axomsync.mirror import catalog, layout
from axomsync.storage import s3
from axomsync.transport.http import http_date, request_id, retry_after

NOW = 1_795_000_000.0
ID = "42c01c10-5f0e-4c1c-9d1a-3f6b0e2a7c11"
SIGNED = (
    "https://s3.test/bucket/a%20b?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261127T000000Z&X-Amz-Expires=900"
    "&X-Amz-SignedHeaders=host%3Bcontent-type&X-Amz-Signature=0123456789abcdef0123456789abcdef"
)


def _split(data: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body. What no HTTP library hands on is no header here."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    status = int(first[:3]) if first[:3].isdigit() else 200
    pairs = [(name.strip(), value.strip()) for name, colon, value in (line.partition(b":") for line in lines) if colon]
    usable = [(name, value) for name, value in pairs if re.fullmatch(rb"[\w-]+", name) and not re.search(rb"[\0\r]", value)]
    return max(200, status), usable, body


class _Scripted(httpx.BaseTransport):
    """Answers everything with the same."""

    answer: tuple[int, list[tuple[bytes, bytes]], bytes] = (200, [], b"")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        status, headers, body = self.answer
        return httpx.Response(status, headers=headers, stream=_Body(body))


_transport = _Scripted()
# A million answers need no sockets.
_console = Console("https://console.test/api", lambda: "axom_live_0123456789", now=lambda: NOW, transport=_transport)


def _asked(call: Callable[[], Any]) -> Callable[[bytes], Any]:
    def takes(data: bytes) -> Any:
        _transport.answer = _split(data)
        return call()

    return takes


class _Body(httpx.SyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Any:
        yield self._body


def _models() -> None:
    listed = _console.models()
    assert len({model.id for model in listed}) == len(listed)
    known = [Model.listed(model, ModelState.QUEUED) for model in listed[::2]]
    selection = catalog.Selection(("*",), (), keep=1, files=("*",))
    for change in catalog.reconcile(listed, known, selection, lambda row: False):
        layout.folder_names(change.model, clash=True)
    _ = _console.models_left_out


def _manifest() -> None:
    manifest = _console.manifest(ID)
    layout.check_manifest(manifest.files)
    orjson.dumps([(file.rel, file.size, file.checksums) for file in manifest.files])


def _presign() -> None:
    presigned = _console.presign("a.jsonl", "application/jsonl")
    s3.signed_headers(presigned.url, "application/jsonl")


def _storage(data: bytes) -> None:
    status, headers, body = _split(data)
    given = httpx.Headers(headers)
    lower = {name.lower(): value for name, value in given.items()}
    wait = retry_after(given, time.time())
    assert wait is None or wait >= 0
    request = request_id(given, SIGNED, "x-amz-request-id")
    answer = s3.Answer(SIGNED, "s3.test", status, lower, body[: s3.DOCUMENT_LIMIT], request, wait)
    failures = []
    for start, end, total in ((0, 10, 10), (5, 8, 10), (0, 0, 0)):
        try:
            extent = s3.judge_get(answer, start, end, total)
            assert extent.whole or start <= extent.start <= extent.end <= max(end, 1)
        except AxomsyncError as failure:
            failures.append(failure)
    http_date(lower.get("last-modified", ""))
    etag = s3.etag_of(lower)
    if composite := s3.composite_md5(etag):
        assert len(s3.likely_part_sizes(1 << 30, composite[1])) < 100
    confirmation = s3.judge_put(answer, all_sent=True)
    assert confirmation.etag
    assert all("0123456789abcdef0123456789abcdef" not in str(failure) for failure in failures)


_MODEL = {
    "id": ID, "name": "chassis", "version": "v1", "params": 1, "base_model_id": None, "lineage": {"job_id": "j"},
    "status": "ready", "created_at": "2026-11-27T00:00:00Z",
}  # fmt: skip
_FILES = [
    {"rel": "sub/w.safetensors", "size": 10, "url": SIGNED, "sha256": "a" * 64, "etag": '"' + "b" * 32 + '"'},
    {"rel": "config.json", "size": 0, "url": SIGNED, "checksum": "md5:" + "c" * 32},
]


def _answer(document: object, status: int = 200, *headers: str) -> bytes:
    return "\n".join([str(status), "Content-Type: application/json", *headers, "", ""]).encode() + orjson.dumps(document)


_REFUSALS = (
    _answer({"detail": [{"loc": ["body", "filename"], "msg": "too long"}]}, 422),
    _answer({"detail": "no"}, 401, "X-Request-Id: r-1"),
    _answer({}, 503, "Retry-After: Fri, 27 Nov 2026 00:00:00 GMT", "Date: Fri, 27 Nov 2026 00:00:00 GMT"),
)
_PAGE = {
    "id": ID, "family": "f", "name": "n", "version": "v", "params": 1, "precision": "bf16", "shard_count": 2, "bytes": 10,
    "status": "ready", "created_at": "2026-11-27",
}  # fmt: skip

PARSERS = {
    "console models": (
        _asked(_models),
        (
            _answer([_MODEL, {**_MODEL, "id": "2", "version": "v2"}], 200, 'Link: </api/models?p=2>; rel="next"'),
            _answer({"models": [_MODEL]}),
            *_REFUSALS,
        ),
    ),
    "console base-models": (_asked(_console.base_models), (_answer([_PAGE]), *_REFUSALS)),
    "console datasets": (_asked(_console.datasets), (_answer({"data": [_PAGE], "next": None}), *_REFUSALS)),
    "console download": (_asked(_manifest), (_answer({"model_id": ID, "files": _FILES}), *_REFUSALS)),
    "console presign": (
        _asked(_presign),
        (_answer({"upload_id": "u", "key": "tmp/u/a.jsonl", "url": SIGNED, "method": "PUT"}), *_REFUSALS),
    ),
    "storage answers": (
        _storage,
        (
            b'206\nContent-Range: bytes 0-9/10\nETag: "' + b"a" * 32 + b'-3"\nContent-Length: 10\n\n0123456789',
            b'200\nETag: W/"abc"\nContent-Length: 10, 10\nLast-Modified: Fri, 27 Nov 2026 00:00:00 GMT\n\n',
            b"403\nContent-Type: application/xml\nx-amz-request-id: r\n\n<Error><Code>AccessDenied</Code><Message>Request"
            b" has expired 0123456789abcdef0123456789abcdef</Message></Error>",
            b"503\nRetry-After: 120\n\n<Error><Code>SlowDown</Code></Error>",
            b"416\nContent-Range: bytes */0\nx-ms-error-code: InvalidRange\n\n",
            b"200\nx-amz-server-side-encryption: aws:kms\nContent-Encoding: gzip, aws-chunked\nETag: abc\n\n<html>",
        ),
    ),
}
