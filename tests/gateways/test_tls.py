"""A gateway that asks storage by name and over TLS: a name server resolves the name, and the certificate is verified."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateways.test_nginx import get
from tests.rig.faults import Content, FaultyServer
from tests.rig.gateway import Gateway
from tests.rig.tls import Authority, TlsFront

NAME = "storage.test"
SMALL = Content(5000, seed=1)


@contextmanager
def name_server() -> Iterator[str]:
    """Answers every question for an address with 127.0.0.1, and every other one with nothing (RFC 1035, 4)."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                question, sender = listener.recvfrom(4096)
            except OSError:
                return
            end = question.index(b"\0", 12) + 5
            kind = struct.unpack("!H", question[end - 4 : end - 2])[0]
            answers = 1 if kind == 1 else 0
            head = question[:2] + struct.pack("!5H", 0x8180, 1, answers, 0, 0)
            address = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + bytes([127, 0, 0, 1])
            listener.sendto(head + question[12:end] + address * answers, sender)

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


@pytest.mark.parametrize(
    ("certified", "trusted", "status"),
    [
        pytest.param(NAME, True, 206, id="as it should be"),
        pytest.param("other.test", True, 502, id="another name"),
        pytest.param(NAME, False, 502, id="another authority"),
    ],
)
def test_storages_certificate_is_verified(
    tmp_path: Path, server: FaultyServer, certified: str, trusted: bool, status: int
) -> None:
    server.replace("small", SMALL)
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    theirs = Authority(tmp_path / "theirs", certified)
    authority = theirs if trusted else Authority(tmp_path / "ours", NAME)
    with TlsFront(theirs, server.address) as front, name_server() as names:
        port = front.address[1]
        gateway = Gateway(tmp_path / "gateway", [f"{NAME}:{port}"], authority=authority.file)
        gateway.edit(
            "    map $asked_place $certified_name {", f"    resolver {names};\n    map $asked_place $certified_name {{"
        )
        with gateway:
            url = server.presign("GET", "small").replace(server.endpoint, f"https://{NAME}:{port}")
            for _ in range(2):
                reply = get(gateway, url, 0, SMALL.size)
                assert reply.status == status, gateway.all_logged()
                assert status != 206 or reply.body == SMALL.read()
            assert len(server.storage_requests()) == (3 if status == 206 else 0)
            assert "Signature" not in gateway.all_logged()
