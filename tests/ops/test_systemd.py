import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.ops import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of the notification socket, at both kinds of address."""
    path = str(tmp_path / "notify")
    shown, bound = (path, path) if request.param == "path" else (f"@{path}", f"\0{path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(bound)
        end.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", shown)
        yield end


def heard(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_ready_comes_with_its_status(manager: socket.socket) -> None:
    assert systemd.ready("Watching /srv/axom/drop")
    assert heard(manager) == {"READY": "1", "STATUS": "Watching /srv/axom/drop"}


def test_each_word_of_the_protocol(manager: socket.socket) -> None:
    assert systemd.status("2 transfers, 120 MB/s")
    assert heard(manager) == {"STATUS": "2 transfers, 120 MB/s"}
    assert systemd.stopping()
    assert heard(manager) == {"STOPPING": "1"}
    assert systemd.watchdog()
    assert heard(manager) == {"WATCHDOG": "1"}


def test_reloading_carries_the_monotonic_clock(manager: socket.socket) -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert systemd.reloading()
    fields = heard(manager)
    assert fields["RELOADING"] == "1"
    assert before - 0.001 <= int(fields["MONOTONIC_USEC"]) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_a_line_break_in_a_status_is_no_new_field(manager: socket.socket) -> None:
    systemd.status("bad name: a\nSTOPPING=1\r\nb")
    assert heard(manager) == {"STATUS": "bad name: a STOPPING=1 b"}


def test_text_that_is_not_unicode_arrives_all_the_same(manager: socket.socket) -> None:
    systemd.status("größer \udcff")
    assert heard(manager) == {"STATUS": "größer \\udcff"}


def test_a_manager_that_does_not_read_holds_up_nobody_for_long(manager: socket.socket) -> None:
    begun = time.monotonic()
    while systemd.watchdog():
        assert time.monotonic() - begun < 10, "the queue never filled"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens-here", "relative"])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.ready("x")


def test_a_socket_that_has_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    assert not systemd.watchdog()


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("120000000", None, 60.0),
        ("120000000", "mine", 60.0),
        ("120000000", "1", None),  # meant for a parent that we inherited it from
        (None, None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_watchdog_interval(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "mine" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_interval() == interval
