"""A real S3 server for the sandbox, and the calls that the sandbox makes on it.

Owns the credentials and the bucket; the process is a `Weed`. Nothing is imitated: signatures, expiry, Range and If-Match are
judged by the server itself.

Failures handled:

- weed dies or hangs while starting: `ObjectStoreError` with the tail of its log;
- what the server or the client refuses: `ObjectStoreError` with its first line;
- a user's AWS_* or proxy variables: overruled for the client.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from axomsync.sandbox.errors import ObjectStoreError
from axomsync.sandbox.weed import Identity, Weed

if TYPE_CHECKING:
    from obstore.store import S3Credential  # it has no runtime counterpart

BUCKET = "axom"
REGION = "us-east-1"

# obstore reads a file that it sends as one PUT into memory, and one PUT is what gives an MD5 ETag.
SINGLE_PUT_LIMIT = 128 << 20
PART_SIZE = 64 << 20
SMALLEST_PART = 5 << 20  # S3's own rule, which SeaweedFS enforces with EntityTooSmall

Method = Literal["GET", "PUT", "HEAD", "DELETE"]


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size: int
    etag: str  # as the server writes it, with its double quotes


class S3Server(Protocol):
    """The process that serves; what each part means is told by `Weed`."""

    @property
    def address(self) -> tuple[str, int]: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def log(self) -> Path: ...
    @property
    def is_supervised(self) -> bool: ...
    def claim_folder(self) -> None: ...
    def start(self) -> None: ...
    def keep_running(self) -> None: ...
    def stop(self) -> None: ...
    def end_of_log(self) -> str: ...


class ObjectStore:
    """SeaweedFS in `folder`, from `start()` to `stop()`; a context manager.

    `address` is where weed itself listens. Clients that are to go through a relay get URLs signed for the relay's
    endpoint: host and port are part of a signature.
    """

    def __init__(self, folder: Path, serve: Callable[[Path, Identity], S3Server] = Weed) -> None:
        self.folder = folder
        self._identity = Identity(secrets.token_hex(10), secrets.token_urlsafe(30), BUCKET)
        self._server = serve(folder, self._identity)
        self._clients: dict[str, S3Store] = {}  # by endpoint: each holds a connection pool

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        return self._server.address

    @property
    def endpoint(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}"

    @property
    def pid(self) -> int | None:
        """The process id of weed as it runs now; another one after a restart."""
        return self._server.pid

    @property
    def log(self) -> Path:
        return self._server.log

    def start(self, timeout: float = 30.0) -> None:
        """Return when the bucket takes an object. Raises `ObjectStoreError` after `timeout` seconds."""
        self._server.claim_folder()
        try:  # from here on, as an interrupt may come between any two lines
            self._server.start()
            self.wait_ready(timeout)
        except BaseException:
            self.stop()
            raise
        self._server.keep_running()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Block until the bucket takes an object, for instance after weed was killed. Raises `ObjectStoreError`."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                # A bucket that can be listed may still answer a PUT with NoSuchBucket.
                self.put_bytes("tmp/ready", b"ready")
                self.delete("tmp/ready")
                return
            except (ObjectStoreError, FileNotFoundError):
                if not self._server.is_supervised:
                    raise ObjectStoreError(
                        f"weed stopped before the object store was ready{self._server.end_of_log()}"
                    ) from None
                if time.monotonic() > deadline:
                    raise ObjectStoreError(f"weed is not ready after {timeout:g} s{self._server.end_of_log()}") from None
            time.sleep(0.02)

    def stop(self) -> None:
        """End weed, leaving its data. Takes about a second, five at most; harmless when nothing runs."""
        self._server.stop()
        self._clients.clear()

    def put_bytes(self, key: str, data: bytes) -> str:
        """Store `data` in one PUT and return its ETag, the quoted MD5."""
        return self._put(key, data, part_size=None)

    def put_file(self, key: str, path: Path, *, part_size: int | None = None) -> str:
        """Store a file and return its ETag.

        With `part_size` (bytes, at least 5 MiB unless one part holds the file) it is a multipart upload, whose ETag is
        composite. Without, a file up to 128 MiB is one PUT with an MD5 ETag, and a larger one has parts of 64 MiB.
        """
        size = path.stat().st_size
        if part_size is None and size > SINGLE_PUT_LIMIT:
            part_size = PART_SIZE
        if part_size is not None and part_size < min(size, SMALLEST_PART):
            raise ValueError(f"part_size {part_size}: S3 refuses parts under {SMALLEST_PART} bytes; use larger parts")
        return self._put(key, path, part_size=part_size)

    def get_bytes(self, key: str) -> bytes:
        """Return an object. Raises `FileNotFoundError` for an unknown key."""
        try:
            return bytes(obstore.get(self._client(self.endpoint), key).bytes())
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return the objects under `prefix`, sorted by key.

        To obstore a prefix is whole path segments: `tmp/a`, not `tmp/a…`.
        """
        try:
            pages = obstore.list(self._client(self.endpoint), prefix or None)
            return [StoredObject(o["path"], o["size"], o["e_tag"] or "") for page in pages for o in page]
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None

    def delete(self, key: str) -> None:
        """Delete an object; an unknown key is no error, as in S3."""
        try:
            obstore.delete(self._client(self.endpoint), key)
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None

    def presign(self, method: Method, key: str, *, lifetime: timedelta, endpoint: str | None = None) -> str:
        """Return a SigV4 URL for one method on one key, for clients that reach this store at `endpoint` (None: at weed).

        S3 counts lifetimes in whole seconds. Raises `ValueError` for one under a second and for keys that S3 clients
        would rewrite (empty, `.` or `..` segments).
        """
        if lifetime < timedelta(seconds=1):
            raise ValueError("a presigned URL lives one second at least")
        if not key:
            raise ValueError("not an object key: ''")
        try:
            return obstore.sign(self._client(endpoint or self.endpoint), method, key, lifetime)
        except TypeError as error:  # "Expected string path": what obstore says of a string that is no acceptable path
            raise ValueError(f"not an object key: {key!r}") from error

    def _put(self, key: str, data: bytes | Path, *, part_size: int | None) -> str:
        store = self._client(self.endpoint)
        try:
            if part_size is None:
                result = obstore.put(store, key, data, use_multipart=False)
            else:
                result = obstore.put(store, key, data, use_multipart=True, chunk_size=part_size, max_concurrency=4)
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None
        return result["e_tag"] or ""

    def _client(self, endpoint: str) -> S3Store:
        if endpoint not in self._clients:
            self._clients[endpoint] = _client(endpoint, self._credentials)
        return self._clients[endpoint]

    def _credentials(self) -> "S3Credential":
        identity = self._identity
        return {"access_key_id": identity.access_key, "secret_access_key": identity.secret_key, "expires_at": None}


def _client(endpoint: str, credentials: "Callable[[], S3Credential]") -> S3Store:
    """Return obstore's client for one endpoint."""
    return S3Store(
        BUCKET,
        # obstore lets AWS_* variables win over unspecific settings: AWS_ENDPOINT_URL_S3 over `endpoint`, and an
        # AWS_SESSION_TOKEN is signed into every URL. The most specific name and a provider of our own overrule
        # them.
        config={"aws_endpoint_url_s3": endpoint, "region": REGION, "skip_signature": False},
        virtual_hosted_style_request=False,
        credential_provider=credentials,
        # HTTP_PROXY is obeyed even for loopback, unless a proxy is named here; this one is then excluded for
        # the only host there is. It is talked to without TLS: no certificate is ever judged, but without any
        # authority, as in slim images, the client would not be made.
        client_options={
            "allow_http": True,
            "allow_invalid_certificates": True,
            "proxy_url": endpoint,
            "proxy_excludes": "127.0.0.1",
        },
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=10),
            "backoff": {
                "init_backoff": timedelta(milliseconds=20),
                "max_backoff": timedelta(milliseconds=200),
                "base": 2,
            },
        },
    )


def _first_line(error: BaseError) -> str:
    """Return the first line of obstore's message: pages of the Rust structures behind it follow."""
    return str(error).partition("\n")[0]
