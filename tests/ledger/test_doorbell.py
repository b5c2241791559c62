"""The bell that a command rings at the agent, heard by another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from axomsync.core.paths import LOCK_FILE
from axomsync.ledger.doorbell import listen, ring

LISTENER = """
import queue, signal, sys
from pathlib import Path
from axomsync.ledger.doorbell import BELL, listen
heard = queue.SimpleQueue()
signal.signal(BELL, lambda *_: heard.put("heard"))
assert listen(Path(sys.argv[1])) is not None
print("listens", flush=True)
while True:
    print(heard.get(), flush=True)
"""


WRITER = """
import signal, sys, time
from pathlib import Path
from axomsync.ledger import Ledger
from axomsync.ledger.doorbell import BELL, listen, ring
folder = Path(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, {BELL})
with Ledger(folder, time.time) as ledger:
    ledger.read.facts()  # its connection is open now
    assert listen(folder) is not None
    for number in range(100):
        ledger.set_facts(number=str(number))
        ledger.read.facts()
    ledger.show_trouble(None)
    print(BELL in signal.sigpending())
    ring(folder)
    print(BELL in signal.sigpending())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / LOCK_FILE).write_bytes(b"1")
    return tmp_path


def test_each_ring_is_heard(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENER, folder], stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        try:
            assert listener.stdout.readline() == b"listens\n"
            for _ in range(3):
                ring(folder)
                assert listener.stdout.readline() == b"heard\n"
        finally:
            listener.kill()


def test_only_a_ring_is_one(folder: Path) -> None:
    """Not what the agent itself writes: it would never sleep."""
    done = subprocess.run([sys.executable, "-c", WRITER, folder], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_a_ring_follows_no_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    os.utime(elsewhere, (1, 1))
    (tmp_path / LOCK_FILE).symlink_to(elsewhere)
    ring(tmp_path)
    assert elsewhere.stat().st_mtime == 1


def test_nobody_needs_the_bell(tmp_path: Path) -> None:
    ring(tmp_path)
    ring(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
    assert listen(tmp_path / "missing") is None
