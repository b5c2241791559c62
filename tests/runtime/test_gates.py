"""Gates: which end of a command is a yes, which a no, and which is neither."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.errors import AxomsyncError, Stopping, Transient
from axomsync.runtime.gates import LONGEST_REASON, Gate, NotPassed
from axomsync.runtime.programs import reap_orphans
from tests.mirror.published import model_of
from tests.rig.agent import eventually

PATH = {"PATH": os.environ["PATH"]}
MODEL = model_of("bot", 1)


def ask(*command: str, timeout: float = 20.0, stop: threading.Event | None = None, environ: Any = PATH) -> None:
    gate = Gate("before_publish", command, timeout, environ, lambda row, path: {"event": "before_publish", "path": path})
    gate.ask(MODEL, "/srv/x", stop or threading.Event(), lambda: None)


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", program)


@pytest.mark.parametrize(
    ("command", "verdict", "words"),
    [
        (("true",), None, ""),
        (("sh", "-c", "echo no >&2; exit 0"), None, ""),
        (("false",), NotPassed, "[hooks] before_publish: false ended with 1"),
        (("sh", "-c", "echo first; echo 'it holds a pickle'; echo; exit 1"), NotPassed, "before_publish: it holds a pickle"),
        (("sh", "-c", "echo why >&2; exit 2"), NotPassed, "before_publish: why"),
        (("sh", "-c", "echo no; exit 255"), NotPassed, "before_publish: no"),
        (("sh", "-c", "echo busy; exit 75"), Transient, "sh ended with 75, and so did not judge; it said: busy"),
        (("sh", "-c", "no-such-program-here"), Transient, "ended with 127"),
        (("sh", "-c", "/etc"), Transient, "ended with 126"),
        (("no-such-program-here",), Transient, "no-such-program-here can't be run: No such file or directory"),
        (("/etc",), Transient, "/etc can't be run: Permission denied"),
        (("sh", "-c", "kill -KILL $$"), Transient, "was ended by signal 9"),
        (("sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"), Transient, "ended with 139"),
        (python(r"import os; os.write(1, b'caf\xe9 \xff\x1b[31m\n'); os._exit(1)"), NotPassed, "before_publish: caf"),
        (python("print('x' * 3_000_000); print('the end'); raise SystemExit(1)"), NotPassed, "before_publish: the end"),
        (python("import sys; sys.stdout.write('y' * 3_000_000); sys.exit(1)"), NotPassed, "yyy"),
    ],
)  # fmt: skip
def test_only_exit_code_0_is_a_yes(command: tuple[str, ...], verdict: type[AxomsyncError] | None, words: str) -> None:
    if verdict is None:
        ask(*command)
        return
    with pytest.raises(verdict) as told:
        ask(*command)
    assert words in str(told.value)
    assert len(str(told.value)) < LONGEST_REASON + 200
    assert str(told.value).isprintable()


def has_ended(number: Path) -> bool:
    """Whether the process whose number is in this file is gone, or waits for somebody to reap it."""
    try:
        return Path("/proc", number.read_text().strip(), "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_gate_that_hangs_is_ended_and_is_no_yes(tmp_path: Path) -> None:
    number = tmp_path / "number"
    with pytest.raises(Transient, match=r"sh took longer than 0\.5 s; it said: looking"):
        ask("sh", "-c", f"echo looking; sleep 1000 & echo $! > {number}; sleep 1000", timeout=0.5)
    eventually("the end of its child", lambda: has_ended(number))


def test_nothing_that_a_gate_started_goes_on_after_its_yes(tmp_path: Path) -> None:
    number = tmp_path / "number"
    ask("sh", "-c", f"sleep 1000 & echo $! > {number}")
    eventually("the end of its child", lambda: has_ended(number))


def test_the_end_of_the_agent_ends_a_gate() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopping):
        ask("sh", "-c", "trap '' TERM; sleep 100", stop=stop)
    assert time.monotonic() - began < 5


def test_a_beat_that_ends_the_work_ends_the_gate(tmp_path: Path) -> None:
    gate = Gate("before_upload", ("sh", "-c", f"echo $$ > {tmp_path}/number; sleep 100"), 20.0, PATH)

    def beat() -> None:
        if (tmp_path / "number").exists() and (tmp_path / "number").read_text().strip():
            raise Stopping("the agent is stopping")

    with pytest.raises(Stopping):
        gate.ask(MODEL, "/", threading.Event(), beat)
    assert not Path("/proc", (tmp_path / "number").read_text().strip()).exists()


def test_whoever_reaps_orphans_does_not_take_the_exit_code_of_a_gate() -> None:
    over = threading.Event()

    def reap() -> None:
        while not over.is_set():
            reap_orphans()

    reaper = threading.Thread(target=reap)
    reaper.start()
    try:
        for _ in range(30):
            with pytest.raises(NotPassed):
                ask("false")
    finally:
        over.set()
        reaper.join()


def test_an_exit_code_that_nobody_saw_is_no_yes() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as a parent may have left it: the kernel reaps
    try:
        with pytest.raises(Transient, match="its exit code is not known"):
            ask("false")
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_gate_need_not_read_its_event() -> None:
    gate = Gate("before_publish", ("true",), 20.0, PATH, lambda row, path: {"event": "x", "payload": "x" * 1_000_000})
    gate.ask(MODEL, "/", threading.Event(), lambda: None)
