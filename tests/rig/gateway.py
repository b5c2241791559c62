"""A gateway as it is shipped: real nginx with `deploy/gateway/nginx.conf`, on a port and in a folder of its own."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from axomsync.ops.gateway import SHIPPED_CONFIGURATION, Place, configuration

SLICE = 8 << 20


class Gateway:
    """From `start()` to `stop()`; a context manager. `hosts` are those of storage; `log` is its access log."""

    def __init__(self, folder: Path, hosts: Sequence[str], *, listen: str | None = None, near: Sequence[str] | None = None,
                 prefix: Sequence[str] = (), authority: Path | None = None, address: str = "127.0.0.1") -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._prefix = folder, list(prefix)
        port = listen.rpartition(":")[2] if listen else str(_free_port())
        self.url = f"http://{address}:{port}"
        self.log = folder / "access.log"
        self.errors = folder / "errors.log"
        place = Place(hosts, listen or f"127.0.0.1:{port}", near, cache=str(folder), runtime=str(folder))
        text = configuration(place, SHIPPED_CONFIGURATION.read_text())
        text = text.replace("syslog:server=unix:/dev/log,tag=axomsync_gateway,severity=info", str(self.log))
        text = text.replace("worker_processes auto", "worker_processes 1").replace("min_free=10g", "min_free=1m")
        if authority is not None:
            text = text.replace("/etc/ssl/certs/ca-certificates.crt", str(authority))
        if os.geteuid() == 0:  # the unit runs it as www-data; folders of tests are root's
            text = f"user root;\n{text}"
        self._file = folder / "nginx.conf"
        self._file.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [*self._prefix, "/usr/sbin/nginx", "-e", "stderr", "-c", str(self._file)],
                stderr=errors, start_new_session=True,
            )  # fmt: skip
        if not self._prefix:
            self.wait_until_it_listens()

    def wait_until_it_listens(self) -> None:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        deadline = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.02)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def edit(self, old: str, new: str) -> None:
        """Change its configuration before its start."""
        text = self._file.read_text()
        assert old in text
        self._file.write_text(text.replace(old, new))

    def kill(self) -> None:
        """End it as a lost machine does: all of its processes at once."""
        if self._process is not None and self.is_running:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    stop = kill

    def cached(self) -> list[Path]:
        """The files of its cache."""
        return sorted(path for path in (self.folder / "slices").rglob("*") if path.is_file() and len(path.name) == 32)

    def all_logged(self) -> str:
        return "".join(path.read_text(errors="replace") for path in (self.log, self.errors) if path.exists())


def flip_a_bit(file: Path, chance: random.Random, *, in_body: bool = True) -> None:
    """Damage a file of a cache in one bit: of the slice that it holds, or of its head."""
    content = bytearray(file.read_bytes())
    body = content.index(b"\r\n\r\n") + 4
    place = chance.randrange(body, len(content)) if in_body else chance.randrange(body)
    content[place] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
