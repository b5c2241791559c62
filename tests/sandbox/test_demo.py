"""The tour as a newcomer starts it: a process of its own, in a pipe and on a terminal, to its end and interrupted."""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import safetensors

from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.demo.recording_relay import RecordingRelay, distinct_bytes, sent_bytes
from axomsync.sandbox.demo.sample import write_broken_dataset, write_dataset, write_model
from tests.rig.agent import eventually

DEMO = [sys.executable, "-m", "axomsync", "demo"]
PATIENCE = 30

# What a user may have set for a real agent; nothing of it may steer the tour.
FOREIGN = {
    "AXOM_KEY": "axom_live_of_the_user",
    "AXOMSYNC_MIRROR__ENABLED": "false",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "FORCE_COLOR": "1",
}


class Tour:
    """A running tour, whose output is read from `file` as it comes."""

    def __init__(self, process: subprocess.Popen[bytes], file: int) -> None:
        self.process = process
        self.output = ""
        self._file = file

    def read_until(self, text: str) -> None:
        while text not in self.output:
            assert self._read(), f"{text!r} was not said:\n{self.output}"

    def read_to_end(self) -> int:
        while self._read():
            continue
        return self.process.wait(PATIENCE)

    def press_ctrl_c(self) -> None:
        os.write(self._file, b"\x03")

    def _read(self) -> bool:
        try:
            piece = os.read(self._file, 1 << 16)
        except OSError:  # EIO is how a terminal ends
            return False
        self.output += piece.decode(errors="replace")
        return bool(piece)


@contextmanager
def tour(home: Path, *arguments: str, terminal: bool = False) -> Iterator[Tour]:
    """Start the tour with its temporary folder below `home`."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [*(["setsid", "--ctty"] if terminal else []), *DEMO, *arguments],
        env={**os.environ, **FOREIGN, "TMPDIR": str(home), "TERM": "xterm"},
        stdin=theirs if terminal else subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Tour(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def assert_nothing_is_left(home: Path) -> None:
    """No file in `home`, and no process that was told of it: the agent of its configuration, weed of its data."""
    assert list(home.iterdir()) == []
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            commands.append(entry.read_bytes())
    assert [command for command in commands if os.fsencode(home) in command] == []


def test_the_tour_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    with tour(tmp_path) as running:
        code = running.read_to_end()
    said = running.output
    assert code == 0, said
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    assert "line 3, column" in said
    assert "console: training; agent: waiting" in said
    assert "403 Request has expired" in said
    kept = re.search(r"its ledger has ([0-9,]+) durable bytes", said)
    assert kept is not None
    assert f"resuming at {kept[1].replace(',', '')} of" in said
    assert "opened with safetensors: 104 tensors" in said
    assert "failed" not in said.lower()
    assert "all 14 checks hold" in said
    assert_nothing_is_left(tmp_path)


def test_an_interrupt_half_way_cleans_up(tmp_path: Path) -> None:
    with tour(tmp_path, terminal=True) as running:
        running.read_until("MB durable)")
        assert "\x1b[" in running.output  # the live bar
        running.press_ctrl_c()
        assert running.read_to_end() == 130
    assert "Traceback" not in running.output
    assert "interrupted: stopping" in running.output
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_clean_up_too(tmp_path: Path, number: signal.Signals) -> None:
    with tour(tmp_path) as running:
        running.read_until("1. ")
        running.process.send_signal(number)
        assert running.read_to_end() == 130
    assert "Traceback" not in running.output
    assert_nothing_is_left(tmp_path)


def test_what_is_kept_can_be_tried(tmp_path: Path) -> None:
    with tour(tmp_path, "--keep") as running:
        running.read_until("the agent's log")
        hints = dict(re.findall(r"^   (\w.*?)  +(\S.*)$", running.output.partition("until Ctrl-C")[2], re.MULTILINE))

        def tried(hint: str) -> str:
            environ = {name: value for name, value in os.environ.items() if not name.startswith("AXOM")}
            command = ["sh", "-c", hints[hint]]
            return subprocess.run(
                command, env={**environ, "AXOM_KEY": "x"}, capture_output=True, text=True, check=True
            ).stdout

        assert "running (pid" in tried("how it stands")
        tried("a file to upload")
        eventually("the upload", lambda: re.search(r"uploaded +hello.jsonl", tried("where it went")))
        assert "published" in tried("what is mirrored")
        body = shlex.split(hints["another version"])
        httpx.post(body[2], content=body[-1], trust_env=False).raise_for_status()
        eventually("the other version", lambda: next(tmp_path.glob("*/models/*/current")).resolve().name == "2")
        assert "model.safetensors" in tried("the newest one")
        running.process.send_signal(signal.SIGINT)
        assert running.read_to_end() == 0, running.output
    assert_nothing_is_left(tmp_path)


def test_the_sample_is_what_it_says(tmp_path: Path) -> None:
    assert write_dataset(tmp_path / "good.jsonl") == (tmp_path / "good.jsonl").read_bytes().count(b"\n") > 50
    write_broken_dataset(tmp_path / "broken.jsonl")
    assert (tmp_path / "broken.jsonl").read_bytes().count(b"\n") == 4
    write_model(tmp_path / "model", layers=1)
    model = dict(safetensors.deserialize((tmp_path / "model" / "model.safetensors").read_bytes()))
    assert model["encoder.layer.0.intermediate.dense.weight"]["shape"] == [1536, 384]


def test_recording_relay_counts_every_byte(sandbox_factory: Callable[..., Sandbox]) -> None:
    sandbox = sandbox_factory(relay_class=RecordingRelay)
    relay = sandbox.relay
    assert isinstance(relay, RecordingRelay)
    put, get = (sandbox.presign(method, "tmp/recorded/a") for method in ("PUT", "GET"))
    with httpx.Client() as client:  # all on one connection
        client.put(put, content=b"GET / HTTP/1.1\r\n\r\n" * 50_000).raise_for_status()
        for wanted in ("bytes=0-99999", "bytes=50000-149999", "bytes=800000-"):
            client.get(get, headers={"Range": wanted}).raise_for_status()
        assert client.get(put).status_code == 403
    assert [request.method for request in relay.requests] == ["PUT", "GET", "GET", "GET", "GET"]
    assert [request.sent for request in relay.requests[1:4]] == [100_000, 100_000, 100_000]
    assert (sent_bytes(relay.requests), distinct_bytes(relay.requests)) == (300_000, 250_000)
