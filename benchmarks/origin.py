"""The far side's storage: nginx on loopback with TLS 1.3, links that expire, and a cap on each connection when wanted.

Owns a certificate authority with one leaf, nginx's configuration and its process. What lies in `files` is served at

- `/signed/…` by links that expire as S3's do (judged when a request starts; 403 with S3's XML afterwards),
- `/open/…` with folder listings, for clients that want them,
- `/composite/…` signed too, with a composite ETag and If-Match honoured, as for an object from a multipart upload.

`/put/…` takes uploads into memory.
"""

import base64
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

START_SECONDS = 10.0

_CONFIG = """
daemon off;
worker_processes auto;
{user}
pid {own}/nginx.pid;
error_log {own}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format account '$msec $request_time $request_method $status $body_bytes_sent $uri';
    access_log {own}/access.log account;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    output_buffers 2 512k;
    keepalive_requests 1000000;
    limit_rate {rate};
    client_max_body_size 0;
    client_body_temp_path {own}/body;
    client_body_buffer_size 1m;
    proxy_temp_path {own}/proxy;
    fastcgi_temp_path {own}/fastcgi;
    uwsgi_temp_path {own}/uwsgi;
    scgi_temp_path {own}/scgi;
    proxy_cache_path {own}/cache keys_zone=objects:1m inactive=1d use_temp_path=off;
    ssl_certificate {own}/leaf.pem;
    ssl_certificate_key {own}/leaf.key;
    ssl_protocols TLSv1.3;
    # Clients differ in what they would choose; S3 takes this one, and so do all here.
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    server {{
        listen 127.0.0.1:{port} ssl;
        location /open/ {{
            alias {files}/;
            autoindex on;
        }}
        location /signed/ {{
            {judged}
            alias {files}/;
        }}
        location /composite/ {{
            {judged}
            # nginx makes ETags of its own for files; for what is in its cache it keeps the object's.
            proxy_pass http://unix:{own}/objects.sock:/;
            proxy_cache objects;
            proxy_cache_key $uri;
            proxy_cache_valid 200 1d;
            proxy_force_ranges on;
            # However many ask at once for what is not there yet, it is fetched once.
            proxy_cache_lock on;
            proxy_cache_lock_age 1h;
            proxy_cache_lock_timeout 1h;
        }}
        location /put/ {{
            {judged}
            alias {own}/uploads/;
            dav_methods PUT;
            create_full_put_path on;
            add_header ETag '"{etag}"';  # as every object store gives one; without it an upload counts as unconfirmed
        }}
    }}
    server {{
        listen unix:{own}/objects.sock;
        access_log off;
        limit_rate 0;
        root {files};
        etag off;
        add_header ETag '"{etag}"';
    }}
}}
"""

_JUDGED = """
            secure_link $arg_md5,$arg_expires;
            secure_link_md5 "$secure_link_expires$uri {secret}";
            if ($secure_link = "") {{ return 403 "{signature}"; }}
            if ($secure_link = "0") {{ return 403 "{expired}"; }}
"""

_ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"


class OriginError(Exception):
    """nginx or openssl is missing or did not start."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the origin's account: when it began (seconds since the epoch), and what was answered."""

    began: float
    method: str
    status: int
    sent: int
    path: str


class Origin:
    """nginx over the files below `files`, with its own things in `own`; a context manager.

    `rate` caps each connection (bytes a second), `lifetime` is that of links (seconds), `etag` the one at `/composite`.
    """

    def __init__(self, own: Path, files: Path, *, rate: int, lifetime: int, etag: str) -> None:
        self.own, self.files, self.lifetime = own, files, lifetime
        self.port = free_port()
        self._secret = secrets.token_hex(16)
        self._rate, self._etag = rate, etag
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.own / "uploads").mkdir(parents=True)
        _make_certificates(self.own)
        self._write_config()
        with (self.own / "nginx.out").open("wb") as output:
            self._process = subprocess.Popen(
                # Its end is bound to ours, however that comes.
                ["setpriv", "--pdeathsig", "TERM", _program("nginx"), "-p", self.own, "-c", self.own / "nginx.conf"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C is for us, who stop it in turn
            )
        self._wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self.own, ignore_errors=True)

    @property
    def ca(self) -> Path:
        """The certificate authority to trust."""
        return self.own / "ca.pem"

    def open_url(self, path: str = "") -> str:
        """A link that needs no signature."""
        return f"https://127.0.0.1:{self.port}/open/{path}"

    def sign(self, path: str, place: str = "signed", port: int | None = None) -> str:
        """A link that lives for `lifetime`; with `port`, through whatever relays from there."""
        expires, uri = int(time.time()) + self.lifetime, f"/{place}/{path}"
        digest = hashlib.md5(f"{expires}{uri} {self._secret}".encode(), usedforsecurity=False).digest()
        query = {
            "X-Amz-Date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
            "X-Amz-Expires": self.lifetime,
            "X-Amz-SignedHeaders": "host",
            "expires": expires,
            "md5": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        }
        return f"https://127.0.0.1:{port or self.port}{uri}?{urlencode(query)}"

    def requests(self, since: float = 0.0) -> list[Request]:
        """What was asked and has ended, of all that began at `since` (seconds since the epoch) or later."""
        found = []
        for line in (self.own / "access.log").read_text(encoding="utf-8").splitlines():
            ended, took, method, status, sent, path = line.split(" ", 5)
            began = float(ended) - float(took)
            if began >= since:
                found.append(Request(began, method, int(status), int(sent), path))
        return found

    def forget_uploads(self) -> None:
        """Give the memory of what was uploaded back."""
        for file in (self.own / "uploads").iterdir():
            file.unlink()

    def _write_config(self) -> None:
        judged = _JUDGED.format(
            secret=self._secret,
            signature=_ERROR.format("SignatureDoesNotMatch", "The signature does not match"),
            expired=_ERROR.format("AccessDenied", "Request has expired"),
        )
        text = _CONFIG.format(
            own=self.own,
            files=self.files,
            port=self.port,
            rate=self._rate,
            etag=self._etag,
            judged=judged,
            user="user root;" if os.geteuid() == 0 else "",
        )
        (self.own / "nginx.conf").write_text(text, encoding="utf-8")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or (self._process is not None and self._process.poll() is not None):
                    raise OriginError(f"nginx did not start: {(self.own / 'nginx.out').read_text()}") from None
            time.sleep(0.02)


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _make_certificates(folder: Path) -> None:
    """An authority and a leaf that it signed: rustls refuses a leaf that is an authority itself."""
    (folder / "leaf.ext").write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=critical,CA:false\nextendedKeyUsage=serverAuth\n"
    )
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for words in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=axomsync bench CA"],
        ["req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
         "-extfile", "leaf.ext", "-out", "leaf.pem"],
    ):  # fmt: skip
        done = subprocess.run([_program("openssl"), *words], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OriginError(f"openssl {words[0]}: {done.stderr}")


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        raise OriginError(f"{name} is not installed; `make bench` installs it")
    return found
