"""Allowed addresses of signed URLs: the rule as a table, and on the wire in a network namespace without a way out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from axomsync.config import Settings
from axomsync.core.errors import Refused, Transient
from axomsync.storage.client import Storage
from axomsync.transport.addresses import judge_literal, why_not

CHECKOUT = Path(__file__).parents[2]

ALLOWED = [
    "10.0.0.1",
    "172.16.3.4",
    "192.168.1.1",
    "203.0.113.9",
    "100.64.0.1",
    "2001:db8::1",
    "fd12:3456::1",
    "::ffff:10.0.0.1",
]
REFUSED = [
    "169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "0.0.0.0", "::", "224.0.0.1",
    "ff02::1",
]  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("address", ALLOWED)
def test_allowed_addresses(address: str) -> None:
    assert why_not(address, loopback=False) is None


@pytest.mark.parametrize("address", REFUSED)
def test_forbidden_addresses(address: str) -> None:
    assert why_not(address, loopback=True) is not None
    with pytest.raises(Refused, match="it is not fetched"):
        judge_literal(address, loopback=True)


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_allowed_only_to_a_console_on_loopback(address: str) -> None:
    assert why_not(address, loopback=True) is None
    assert why_not(address, loopback=False) == "this machine itself"


@pytest.mark.parametrize("address", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "127.1", "0"])
def test_judge_literal_knows_other_forms_of_an_address(address: str) -> None:
    """A proxy would get the address as written, and understand it."""
    with pytest.raises(Refused, match="it is not fetched"):
        judge_literal(address, loopback=False)


@pytest.mark.parametrize("host", ["store.test", "10.store.test", "x1", "b\u00fccher.test", ""])
def test_judge_literal_leaves_names_to_resolve(host: str) -> None:
    assert not judge_literal(host, loopback=False)


@pytest.mark.parametrize(("console", "refused"), [("https://console.example/api", True), ("http://127.0.0.1:9/api", False)])
def test_storage_on_this_machine_needs_a_console_on_this_machine(console: str, refused: bool) -> None:
    storage = Storage.of(Settings.model_validate({"console": {"url": console}}))
    with pytest.raises(Refused if refused else Transient):
        storage.put("http://127.0.0.1:9/a?X-Amz-Signature=1", iter([b"x"]), 1, "text/plain")
    storage.close()


# Names that lead to each address, and a listener on each that must never be asked.
_INSIDE = """
import json, os, socket, sys, threading
from axomsync.core.errors import AxomsyncError
from axomsync.storage.client import Storage

asked = []
def listen(address):
    server = socket.create_server((address, 80), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    def serve():
        while True:
            connection, _ = server.accept()
            asked.append(address)
            connection.close()
    threading.Thread(target=serve, daemon=True).start()

for address in ("169.254.169.254", "127.0.0.1", "10.1.2.3"):
    listen(address)
told = {}
for host in sys.argv[1:]:
    for loopback in (False, True):
        storage = Storage(stall=1.0, allow_http=True, loopback=loopback)
        for method in ("get", "put"):
            try:
                if method == "put":
                    storage.put(f"http://{host}/a?X-Amz-Signature=1", iter([b"x"]), 1, "text/plain")
                else:
                    with storage.get(f"http://{host}/a?X-Amz-Signature=1", 0, 1, 1, None):
                        pass
            except AxomsyncError as failure:
                told[f"{method} {host} {loopback}"] = f"{type(failure).__name__}: {failure}"
        storage.close()
os.environ["http_proxy"] = "http://10.1.2.3"
storage = Storage(stall=1.0, allow_http=True)
for host in ("169.254.169.254", "[::ffff:169.254.169.254]", "2852039166"):
    try:
        storage.put(f"http://{host}/a?X-Amz-Signature=1", iter([b"x"]), 1, "text/plain")
    except AxomsyncError as failure:
        told[f"put {host} proxy"] = f"{type(failure).__name__}: {failure}"
storage.close()
print(json.dumps({"asked": asked, "told": told}))
"""
_HOSTS = """\
169.254.169.254 metadata.test
127.0.0.1 localhost here.test
10.1.2.3 private.test
169.254.169.254 both.test
10.1.2.3 both.test
"""


def test_names_of_forbidden_addresses_are_refused_on_the_wire(tmp_path: Path) -> None:
    """Run by root in a namespace with loopback only and its own names."""
    hosts = tmp_path / "hosts"
    hosts.write_text(_HOSTS)
    setup = (
        f"mount --bind {hosts} /etc/hosts && ip link set lo up && ip addr add 169.254.169.254/32 dev lo"
        ' && ip addr add 10.1.2.3/32 dev lo && exec "$@"'
    )
    hostile = ["metadata.test", "169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "here.test", "private.test"]
    hostile.append("both.test")  # whose other address may be asked
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", setup, "sh", sys.executable, "-c", _INSIDE, *hostile],
        capture_output=True, text=True, check=False, timeout=60, cwd=CHECKOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "169.254.169.254" not in found["asked"]
    for attempt, words in found["told"].items():
        _, host, loopback = attempt.split()
        refused = host not in ("private.test", "here.test", "both.test") or (host == "here.test" and loopback == "False")
        assert words.startswith("Refused: ") is refused, (attempt, words)
    assert set(found["asked"]) == {"127.0.0.1", "10.1.2.3"}
