"""The running agent: signals, reloads, a console in trouble, and workers that die, each as a process of its own."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from axomsync.agent.agent import SILENT, Agent
from axomsync.config import load
from axomsync.core.errors import LocalFault
from axomsync.ledger import holder
from axomsync.sandbox.console import Sandbox
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import locked
from tests.rig.faults import KEY, Content, Fault, FaultyServer
from tests.rig.fixtures import SandboxFactory

ONE_LINE = b'{"text": "one"}\n'


def transfers(agent: AgentProcess) -> dict[str, tuple[int, int]]:
    """Received and durable bytes by direction, read from the ledger by SQLite; faster than a process for each look."""
    ledger = sqlite3.connect(f"file:{agent.state}/state.db?mode=ro", uri=True)
    try:
        rows = ledger.execute("SELECT direction, bytes_received, bytes_done FROM transfers").fetchall()
    finally:
        ledger.close()
    return {direction: (received, done) for direction, received, done in rows}


def lines_with(agent: AgentProcess, *words: str) -> list[str]:
    return [line for line in agent.log().splitlines() if all(word in line for word in words)]


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["run", "sync"])
def test_signal_stops_the_agent_cleanly_at_any_moment(
    verb: str, number: signal.Signals, agent: AgentProcess, server: FaultyServer
) -> None:
    server.rate = 100_000
    server.add_model("big", "v1", {"w": Content(100_000_000)})
    agent.launch(verb)
    assert agent.process is not None
    eventually("a download", lambda: server.sent() > 10_000)
    began = time.monotonic()
    agent.process.send_signal(number)
    assert agent.wait(10) == (0 if verb == "run" else 128 + number)
    assert time.monotonic() - began < 10
    assert "Traceback" not in agent.log()
    assert not (agent.mirror / "big").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", [("push", "a.jsonl"), ("pull", "big")])
def test_signal_that_ends_a_command_sets_the_exit_code(
    verb: tuple[str, str], number: signal.Signals, agent: AgentProcess, server: FaultyServer
) -> None:
    server.rate = 100_000
    server.add_model("big", "v1", {"w": Content(100_000_000)})
    (agent.home / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 3_000_000 + b'"}\n')
    agent.configure({"transfer": {"bandwidth": "100kB/s"}})
    agent.launch(*verb)
    assert agent.process is not None
    eventually("a transfer", lambda: [True for each in agent.status()["transfers"] if each["bytes_received"] > 10_000])
    agent.process.send_signal(number)
    assert agent.wait(10) == 128 + number
    assert "Traceback" not in agent.log()
    assert "interrupted; run it again to resume" in agent.log()


@pytest.mark.parametrize(("verb", "event", "code"), [(("sync",), "upload_done", 130), (("pull", "m"), "model_published", 0)])
def test_signal_ends_the_hooks_of_a_command_that_ends(
    verb: tuple[str, ...], event: str, code: int, agent: AgentProcess, server: FaultyServer
) -> None:
    """Of a command whose work is done: its hooks run again when the next one, or an agent, comes."""
    begun = agent.home / "begun"
    agent.configure({"hooks": {event: ["sh", "-c", f"echo >> {begun}; exec sleep 600"], "timeout": "10m"}})
    server.add_model("m", "v1", {"w": Content(100)})
    for name in ("a.jsonl", "b.jsonl"):
        (agent.drop / name).write_bytes(name.encode().join((b'{"text": "', b'"}\n')))
    agent.launch(*verb)
    eventually("a hook", begun.exists)
    if verb == ("sync",):
        assert agent.call("poll").returncode == 0, "it takes no requests"
    assert agent.process is not None
    agent.process.send_signal(signal.SIGINT)
    assert agent.wait(10) == code, agent.log()
    assert begun.read_text() == "\n", "the next hook began after the signal"
    assert "Traceback" not in agent.log()


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 0.6])
def test_signal_during_the_start_stops_cleanly(moment: float, agent: AgentProcess) -> None:
    agent.launch("run")
    assert agent.process is not None
    maps = Path(f"/proc/{agent.process.pid}/maps")
    eventually("the program", lambda: b"python" in maps.read_bytes())
    handled = Path(f"/proc/{agent.process.pid}/status")

    def listens() -> bool:
        caught = next(line for line in handled.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))

    eventually("somebody who listens", listens)
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline:
        os.sched_yield()
    assert agent.terminate() == 0
    assert "Traceback" not in agent.log()


def test_stop_ends_in_time_while_storage_hangs(sandbox_factory: SandboxFactory, tmp_path: Path) -> None:
    sandbox = sandbox_factory(rate=100_000)
    model = tmp_path / "model"
    model.mkdir()
    (model / "w.bin").write_bytes(os.urandom(1_000_000))
    sandbox.publish_model("big", "v1", model)
    with AgentProcess(tmp_path / "box", sandbox.url, sandbox.key, {"transfer": {"stall": "60s"}}) as agent:
        (agent.drop / "big.jsonl").write_bytes(b'{"text": "' + b"x" * 1_000_000 + b'"}\n')
        agent.start()

        eventually("transfers both ways", lambda: [r for r, _ in transfers(agent).values() if r > 0][1:])
        sandbox.rate = 0
        assert agent.terminate() == 0
        assert agent.status()["agent"]["running"] is False
        sandbox.rate = None
        sandbox.relay.drop_connections()
        agent.sync()
        assert (agent.mirror / "big" / "v1" / "w.bin").read_bytes() == (model / "w.bin").read_bytes()
        assert [row["state"] for row in agent.uploads()] == ["uploaded"]


def test_stop_ends_in_time_while_another_program_locks_the_ledger(agent: AgentProcess) -> None:
    agent.start()
    with locked(agent.state):
        (agent.drop / "a.jsonl").write_bytes(b'{"text": "a"}\n')  # so that workers wait for the lock, too
        assert agent.terminate() == 0
    assert "Traceback" not in agent.log()
    agent.sync()
    assert [row["state"] for row in agent.uploads()] == ["uploaded"]


def test_a_failure_of_the_start_lets_go_of_the_state_folder(agent: AgentProcess) -> None:
    agent.sync()
    loaded = load(agent.config_file, agent.environ)
    with closing(sqlite3.connect(agent.state / "state.db")) as other:
        other.execute("DROP TABLE requests")
    with pytest.raises(LocalFault, match="damaged") as kept:  # with the frames that hold the agent
        Agent(loaded, agent.environ)
    assert holder(agent.state) is None, kept


def test_signals_without_number_end_in_one_clean_stop(agent: AgentProcess) -> None:
    """A signal handler that takes a lock could meet it held by the thread that it interrupts."""
    agent.start()
    assert agent.process is not None
    for _ in range(3000):
        agent.process.send_signal(signal.SIGHUP)
    eventually("a reload", lambda: "reloaded" in agent.log())
    assert agent.terminate() == 0


# Console trouble


def test_console_that_is_down_is_reported_once_and_tried_again(server: FaultyServer, agent: AgentProcess) -> None:
    server.inject(Fault(status=502, body=b"<html>Bad Gateway</html>"), "/api/", times=4)
    agent.start()
    eventually("several polls", lambda: len(server.console_requests("/models")) >= 5)
    eventually("the end of the trouble", lambda: "console: works again" in agent.log())
    assert len(lines_with(agent, "console: ", "answered 502")) == 1
    assert agent.status()["console"] | {"last_poll": None} == {
        "url": server.url,
        "ok": True,
        "last_poll": None,
        "error": None,
    }
    server.add_model("late", "v1", {"w": Content(1000)})
    eventually("the model", (agent.mirror / "late" / "v1" / "w").exists)


def test_status_shows_the_consoles_problem_while_it_lasts(server: FaultyServer, agent: AgentProcess) -> None:
    server.inject(Fault(status=503, headers={"Retry-After": "60"}), "/api/", times=100)
    agent.start()
    eventually("the trouble", lambda: "answered 503" in agent.log())
    status = agent.status()
    assert status["console"]["ok"] is False
    assert "answered 503" in status["console"]["error"]
    (problem,) = status["problems"]
    assert (problem["subject"], problem["next_attempt"] is not None) == ("console", True)
    assert len(server.console_requests("/models")) == 1, "it asked again before the minute was over"


def test_console_that_never_answers_is_reported_before_its_calls_time_out(server: FaultyServer, agent: AgentProcess) -> None:
    answers = threading.Event()
    server.inject(Fault(first=answers.wait), "/api/models", times=100)
    agent.start()
    eventually("the silence", lambda: agent.status()["console"]["error"] == SILENT)
    status = agent.status()
    assert [problem["subject"] for problem in status["problems"]] == ["console"]
    assert len(server.console_requests()) == 1, "the call gave up"
    answers.set()
    eventually("the answer", lambda: agent.status()["console"]["ok"])
    assert agent.status()["problems"] == []
    assert "console: " not in agent.log(), "nothing has failed"


def test_agent_that_only_uploads_knows_that_the_console_answers(server: FaultyServer, tmp_path: Path) -> None:
    """It never polls: the signed URLs of its uploads are the answers."""
    config: dict[str, dict[str, object]] = {"mirror": {"enabled": False}, "web": {"listen": "127.0.0.1:0"}}
    with AgentProcess(tmp_path, server.url, KEY, config) as agent:
        agent.start()
        page = str(eventually("a page", lambda: agent.status()["agent"]["page"]))
        assert agent.status()["console"]["ok"] is None
        assert "console  " in (told := agent.call("status").stdout)
        assert "not asked yet" in told
        (agent.drop / "a.jsonl").write_bytes(ONE_LINE)
        eventually("the upload", lambda: "axomsync_console_up 1.0" in httpx.get(page + "metrics").text)
        assert agent.status()["console"] == {"url": server.url, "ok": True, "last_poll": None, "error": None}
        assert "reachable\n" in agent.call("status").stdout.replace(" ", "")
        assert httpx.get(page + "readyz").status_code == 200
        assert agent.terminate() == 0
        assert "answered the last agent" in agent.call("status").stdout


def test_sync_leaves_its_failures_for_status(server: FaultyServer, agent: AgentProcess) -> None:
    server.inject(Fault(status=503, headers={"Retry-After": "60"}), "/api/", times=1)
    agent.sync(expect=75)
    assert agent.status()["console"]["ok"] is False
    agent.sync()
    assert agent.status()["console"]["ok"] is True
    assert agent.status()["problems"] == []


def test_a_command_tells_what_fails_after_its_work(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("m", "v1", {"w": Content(100)})
    assert agent.call("pull", "m").returncode == 0
    agent.mirror.rename(agent.home / "away")
    agent.mirror.symlink_to(agent.mirror.name)  # not even root can look into it
    done = agent.call("prune", "--dry-run")
    (told,) = [line for line in done.stderr.splitlines() if "promotion: " in line]
    assert str(agent.mirror / "m") in told
    assert "promotion" in {problem["subject"] for problem in agent.status()["problems"]}


# Reloading


def test_reload_replaces_the_configuration_of_a_running_agent(server: FaultyServer, agent: AgentProcess) -> None:
    server.add_model("wanted", "v1", {"w": Content(100)})
    agent.configure({"mirror": {"include": ["nothing"]}})
    agent.start()
    eventually("polls", lambda: len(server.console_requests("/models")) > 1)
    assert [row["state"] for row in agent.models()] == ["ignored"]
    agent.configure({})
    agent.hangup()
    eventually("the model", (agent.mirror / "wanted" / "v1" / "w").exists)
    assert agent.process is not None
    assert agent.process.poll() is None
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("drop", {"settel": "5s"}, "[drop] settel: unknown key; did you mean settle?"),
        ("state", {"folder": "/somewhere/else"}, "[state] folder can't change while the agent runs; restart it"),
        ("console", {"ca_file": "/nowhere/ca.pem"}, "[console] ca_file /nowhere/ca.pem: can't be used: No such file"),
    ],
)
def test_reload_with_a_bad_configuration_keeps_the_old_one_and_reports_it(
    section: str, values: dict[str, object], told: str, server: FaultyServer, agent: AgentProcess
) -> None:
    agent.start()
    agent.configure({section: values})
    agent.hangup()
    eventually("the reason", lambda: lines_with(agent, "the new configuration is bad, the old one stays"))
    assert len(lines_with(agent, told)) == 1
    agent.configure({})
    (problem,) = agent.status()["problems"]
    assert problem["subject"] == "configuration"
    assert told in problem["reason"]
    server.add_model("after", "v1", {"w": Content(100)})
    eventually("work by the old configuration", (agent.mirror / "after" / "v1" / "w").exists)
    agent.hangup()
    eventually("the problem to be over", lambda: "configuration: works again" in agent.log())
    eventually("status to say so", lambda: agent.status()["problems"] == [])  # the ledger is written after the log
    assert agent.terminate() == 0


def test_reload_rotates_the_key_without_interrupting_transfers(sandbox: Sandbox, tmp_path: Path) -> None:
    key_file, model = tmp_path / "key", tmp_path / "model"
    model.mkdir()
    (model / "w.bin").write_bytes(os.urandom(2_000_000))
    first = sandbox.create_key(["read", "models", "datasets"])
    key_file.write_text(first)
    key_file.chmod(0o600)
    sandbox.rate = 1_000_000
    sandbox.publish_model("big", "v1", model)
    with AgentProcess(tmp_path / "box", sandbox.url, None, {"console": {"key_file": str(key_file)}}) as agent:
        agent.start()
        eventually("a download", lambda: transfers(agent))
        sandbox.revoke_key(first)
        eventually("the refusal", lambda: "the console refuses the API key" in agent.log())
        eventually(
            "status to say so", lambda: agent.status()["console"]["ok"] is False
        )  # the ledger is written after the log
        key_file.write_text(sandbox.key)
        began = time.monotonic()
        agent.hangup()
        eventually("the console to work again", lambda: "console: works again" in agent.log())
        assert time.monotonic() - began < 10, "a new key was not tried at once"
        eventually("the model", (agent.mirror / "big" / "v1" / "w.bin").exists)
        requests = [r for r in sandbox.relay.requests if r.method == "GET"]  # type: ignore[attr-defined]
        assert sum(request.body_sent for request in requests) < 2_100_000, "the download began anew"
        assert first not in agent.log()
        assert agent.terminate() == 0


def test_reload_that_changes_transfers_restarts_them_without_loss(server: FaultyServer, agent: AgentProcess) -> None:
    server.rate = 300_000  # for each of the first four lanes
    content = Content(20_000_000, seed=3)
    server.add_model("big", "v1", {"w": content})
    agent.start()
    eventually("some durable bytes", lambda: transfers(agent).get("down", (0, 0))[1])
    agent.configure({"transfer": {"connections": 3}})
    agent.hangup()
    eventually("the reload", lambda: lines_with(agent, "reloaded"))
    server.rate = None
    eventually("the model", (agent.mirror / "big" / "v1" / "w").exists)
    assert content.fault_in(agent.mirror / "big" / "v1" / "w") is None
    assert server.sent() < 2 * content.size
    assert agent.terminate() == 0
    assert "Traceback" not in agent.log()


# The service manager


def test_systemd_gets_ready_reloading_status_and_stopping(server: FaultyServer, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with AgentProcess(tmp_path / "box", server.url, KEY, environ=environ) as agent:

            def hear(word: str) -> str:
                while True:
                    said = manager.recv(4096).decode()
                    if word in said.splitlines() or any(line.startswith(word) for line in said.splitlines()):
                        return said

            agent.launch("run")
            assert "STATUS=working" in hear("READY=1")
            hear("WATCHDOG=1")
            assert "nothing to do" in hear("STATUS=")
            agent.hangup()
            assert "MONOTONIC_USEC=" in hear("RELOADING=1")
            hear("READY=1")
            hear("WATCHDOG=1")
            assert agent.terminate() == 0
            hear("STOPPING=1")


FROM_WITHIN = """
import os, sys, threading
from pathlib import Path
from axomsync import config
from axomsync.agent import agent
from axomsync.ops import logs
logs.set_up("console", "info")
made = agent.Agent(config.load(Path(sys.argv[1]), os.environ), os.environ)
"""

TRIPS = """
tries = iter(range(3))
def work():
    if next(tries) < 2:
        raise RuntimeError("https://storage.example/x?X-Amz-Signature=1234 went wrong")
    made._end()
threading.Timer(0.3, made._shared.guard.run, ("upkeep", "upkeep", work, threading.Event())).start()
agent.exit_now(made.run())
"""

HANGS = """
def work():
    with made._shared.liveness.worker("lane"):
        threading.Event().wait()
made._shared.liveness.limit = 7.0
threading.Thread(target=work, daemon=True).start()
agent.exit_now(made.run())
"""


def from_within(program: str, agent: AgentProcess) -> list[str]:
    return [sys.executable, "-c", FROM_WITHIN + program, str(agent.config_file)]


RINGS = """
from axomsync.ledger.doorbell import BELL
agent.TICK_SECONDS = 0.0
with made:
    made.begin(made.settings, 60.0)
    for _ in range(1000):
        os.kill(os.getpid(), BELL)
    made.tick()
    print(made._wakes.qsize())
"""


def test_what_rings_meanwhile_is_for_one_turn(agent: AgentProcess) -> None:
    """Else the agent would go on turning after a flood, and write its transfers in every turn."""
    done = subprocess.run(
        from_within(RINGS, agent), env=agent.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "0\n", done.stderr


def test_worker_with_a_bug_is_reported_once_and_restarted(agent: AgentProcess) -> None:
    done = subprocess.run(
        from_within(TRIPS, agent), env=agent.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    told = "upkeep: unexpected RuntimeError: https://storage.example/x?… went wrong; please report it"
    assert done.stderr.count(told) == 1
    assert done.stderr.count("Traceback") == 1, "a bug is told with its traceback, and once"
    assert "1234" not in done.stderr


def test_worker_that_hangs_is_reported_and_the_watchdog_not_fed(agent: AgentProcess, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environ = agent.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with subprocess.Popen(from_within(HANGS, agent), env=environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "no progress" in line)
            assert said.rstrip().endswith("agent: no progress of: lane; waiting for the watchdog to restart it")
            manager.setblocking(False)
            while True:  # earlier feeds
                try:
                    manager.recv(4096)
                except BlockingIOError:
                    break
            manager.settimeout(1.5)
            with pytest.raises(TimeoutError):
                manager.recv(4096)
            process.kill()
