"""TLS and proxies before a server that speaks plain HTTP: a certificate authority of our own, a front, a CONNECT proxy."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

Address = tuple[str, int]


class Authority:
    """A certificate authority in `folder`, with one leaf that it signed for `name`. Made by openssl."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file, self.leaf, self.key = folder / "ca.pem", folder / "leaf.pem", folder / "leaf.key"
        (folder / "leaf.ext").write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\nbasicConstraints=critical,CA:false\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        for words in (
            ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=tests"],
            ["req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", f"/CN={name}"],
            ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
             "-extfile", "leaf.ext", "-out", "leaf.pem"],
        ):  # fmt: skip
            subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)


class _Front:
    """Accepts connections on loopback and hands each to `_serve` in a thread of its own; a context manager."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class TlsFront(_Front):
    """Speaks TLS with whoever comes, and plain with the server at `target`."""

    def __init__(self, authority: Authority, target: Address) -> None:
        super().__init__()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.leaf, authority.key)
        self._target = target

    def _serve(self, connection: socket.socket) -> None:
        with (
            self._context.wrap_socket(connection, server_side=True) as secured,
            socket.create_connection(self._target) as inner,
        ):
            _join(secured, inner)


class ConnectProxy(_Front):
    """An HTTP proxy that leads every tunnel to `target`, whatever its name, and keeps what it was sent."""

    def __init__(self, target: Address) -> None:
        super().__init__()
        self._target = target
        self.asked: list[bytes] = []

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        self.asked.append(head)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(self._target) as inner:
            _join(connection, inner)


class SocksProxy(_Front):
    """A SOCKS 5 proxy (RFC 1928) that leads every connection to `target`, and keeps the names that it was asked for."""

    def __init__(self, target: Address) -> None:
        super().__init__()
        self._target = target
        self.asked: list[bytes] = []

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        _, methods = reader.read(2)
        reader.read(methods)
        connection.sendall(b"\x05\x00")  # no password
        _, _, _, kind = reader.read(4)
        name = reader.read(reader.read(1)[0]) if kind == 3 else reader.read(4)
        reader.read(2)
        self.asked.append(name)
        connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        with socket.create_connection(self._target) as inner:
            _join(connection, inner)


class TurnedAway(_Front):
    """A proxy that gives one and the same answer to everybody."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self._answer = answer

    def _serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self._answer)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side ends."""

    def carry(receive: Callable[[int], bytes], send: Callable[[bytes], None], onward: socket.socket) -> None:
        with suppress(OSError):
            while data := receive(65536):
                send(data)
        with suppress(OSError):
            onward.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=carry, args=(other.recv, one.sendall, one), daemon=True)
    thread.start()
    carry(one.recv, other.sendall, other)
    thread.join()
