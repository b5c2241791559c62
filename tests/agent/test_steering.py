"""Requests from another process to a running agent: each verb, requests without an agent, and failures."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from axomsync.agent.requests import Outcome, Request, Steering, Verb, ask, wait_for, withdraw
from axomsync.cli.control import _ask, errand, steer
from axomsync.config import Loaded, load
from axomsync.core.errors import LocalFault, Rejected, Stopping, Transient
from axomsync.core.text import printable
from axomsync.ledger import Ledger
from axomsync.runtime.heartbeat import Beat, Liveness
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import locked
from tests.rig.faults import KEY, Content, Fault, FaultyServer
from tests.rig.old_ledger import old_ledger

SOON = 10.0  # seconds for an answer; an agent needs 0.5 s


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "state", time.time) as ledger:
        yield ledger


def steering(ledger: Ledger, **verbs: Verb) -> Steering:
    return Steering(ledger, verbs, Liveness(60, time.monotonic))


def echo(request: Request, beat: Beat) -> object:
    return [request.argument, dict(request.parameters)]


def test_requests_are_answered_in_order(ledger: Ledger) -> None:
    first = ask(ledger.path, "echo", "a", {"n": 1})
    second = ask(ledger.path, "echo")
    steering(ledger, echo=Verb(echo)).look()
    assert wait_for(ledger.read, first, SOON) == Outcome(["a", {"n": 1}])
    assert wait_for(ledger.read, second, SOON) == Outcome([None, {}])


@pytest.mark.parametrize("argument", ["caf\udce9.jsonl", "line\nline", "no\xa0break", "caf\\xe9.jsonl", "", '"a"'])
def test_an_argument_arrives_as_it_is(argument: str, ledger: Ledger) -> None:
    asked = ask(ledger.path, "echo", argument, {"n": 1})
    steering(ledger, echo=Verb(echo)).look()
    assert wait_for(ledger.read, asked, SOON) == Outcome([argument, {"n": 1}])


def test_wait_for_gives_up_in_time(ledger: Ledger) -> None:
    assert wait_for(ledger.read, ask(ledger.path, "echo"), 0.0) is None


def test_failed_request_reports_its_error_and_the_next_one_works(ledger: Ledger) -> None:
    def refuse(request: Request, beat: Beat) -> None:
        raise Rejected("no such thing")

    def bug(request: Request, beat: Beat) -> None:
        raise ZeroDivisionError("x")

    asked = [ask(ledger.path, verb) for verb in ("refuse", "bug", "dance", "echo")]
    steering(ledger, refuse=Verb(refuse), bug=Verb(bug), echo=Verb(echo)).look()
    outcomes = [wait_for(ledger.read, request, SOON) for request in asked]
    assert [outcome.error if outcome else "" for outcome in outcomes] == [
        "no such thing",
        "unexpected ZeroDivisionError: x; please report it",
        "this agent does not know how to dance",
        None,
    ]


def test_long_request_does_not_delay_others(ledger: Ledger) -> None:
    released: list[bool] = []

    def long(request: Request, beat: Beat) -> str:
        eventually("the other answer", lambda: released)
        return "long"

    first, second = ask(ledger.path, "long"), ask(ledger.path, "echo")
    steering(ledger, long=Verb(long, long=True), echo=Verb(echo)).look()
    assert wait_for(ledger.read, second, SOON) is not None
    released.append(True)
    assert wait_for(ledger.read, first, SOON) == Outcome("long")


def test_long_request_is_repeated_after_a_stop_and_fails_after_a_crash(ledger: Ledger) -> None:
    def stop(request: Request, beat: Beat) -> None:
        raise Stopping("the agent is stopping")

    stopped = ask(ledger.path, "stop")
    steering(ledger, stop=Verb(stop)).look()
    crashed = ask(ledger.path, "echo")
    ledger.begin_request(crashed)
    steering(ledger, stop=Verb(echo), echo=Verb(echo)).look()
    assert wait_for(ledger.read, stopped, SOON) == Outcome([None, {}])
    outcome = wait_for(ledger.read, crashed, SOON)
    assert outcome is not None
    assert outcome.error == "the agent ended in the middle of it; ask again"


def test_an_outcome_that_the_ledger_does_not_take_is_written_later(tmp_path: Path) -> None:
    with ExitStack() as lock, Ledger(tmp_path / "state", time.time, patience=0.05) as ledger:
        done: list[str] = []

        def long(request: Request, beat: Beat) -> str:
            done.append(request.verb)
            if len(done) < 3:
                lock.enter_context(locked(ledger.path.parent))
            if request.verb == "stop" and len(done) == 2:
                raise Stopping("the agent is stopping")
            return request.verb

        agent = steering(ledger, end=Verb(long), stop=Verb(long))
        for verb in ("end", "stop"):
            asked = ask(ledger.path, verb)
            agent.look()
            with pytest.raises(LocalFault, match="keeps it locked"):
                agent.look()
            lock.close()
            agent.look()
            assert wait_for(ledger.read, asked, SOON) == Outcome(verb)
        assert done == ["end", "stop", "stop"]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    with AgentProcess(tmp_path / "box", "https://console.test", KEY) as agent:
        return load(agent.config_file, agent.environ)


def test_a_request_that_nobody_took_is_taken_back(loaded: Loaded) -> None:
    with Ledger(loaded.settings.state.folder, time.time) as ledger:  # as a command holds it, which takes no requests
        with pytest.raises(Transient, match="so it was taken back"):
            steer(loaded, "pause", patience=0.2)
        assert ledger.read.new_requests() == []


def test_a_request_that_can_not_be_taken_back_is_told_to_wait(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axomsync.ledger.requests.BUSY_TIMEOUT_SECONDS", 0.05)
    state = loaded.settings.state.folder
    with Ledger(state, time.time) as ledger, ExitStack() as lock:

        def ask_and_lock(*asked: Any) -> int:
            request = _ask(*asked)
            lock.enter_context(locked(state))
            return request

        monkeypatch.setattr("axomsync.cli.control._ask", ask_and_lock)
        with pytest.raises(Transient, match=r"can't be taken back, so it may still be done .* keeps it locked") as told:
            steer(loaded, "pause", patience=0.1)
        assert "was taken back" not in str(told.value)
        assert [row["verb"] for row in ledger.read.new_requests()] == ["pause"]


def test_a_request_that_is_begun_just_before_it_is_taken_back_is_told_as_begun(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(loaded.settings.state.folder, time.time) as ledger:

        def withdraw_late(path: Path, request: int) -> bool:
            ledger.begin_request(request)
            return withdraw(path, request)

        monkeypatch.setattr("axomsync.agent.requests.withdraw", withdraw_late)
        with pytest.raises(Transient, match="the agent has begun with it"):
            steer(loaded, "pause", patience=0.1)
        assert ledger.read.request(1) is not None


def test_an_errand_that_a_new_agent_has_begun_is_not_asked_for_again(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    with Ledger(loaded.settings.state.folder, time.time) as ledger:

        def no_agent_at_first(folder: Path, request: int, patience: float) -> Outcome | None:
            waits.append(request)
            ledger.begin_request(request)
            return None if len(waits) == 1 else Outcome("done")

        monkeypatch.setattr("axomsync.cli.control._wait_or_withdraw", no_agent_at_first)
        assert errand(loaded, "pull", "m", patience=1.0) == "done"
    assert waits == [1, 1]


def test_a_request_that_is_taken_back_while_the_agent_looks_is_not_done(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    agent = steering(ledger, pause=Verb(lambda request, beat: done.append(request.verb)))
    asked, kept = ask(ledger.path, "pause"), ask(ledger.path, "pause")
    rows = ledger.read.new_requests()
    withdraw(ledger.path, asked)
    monkeypatch.setattr(ledger.read, "new_requests", lambda: rows)
    agent.look()
    assert (done, ledger.read.request(asked)) == (["pause"], None)
    assert wait_for(ledger.read, kept, SOON) is not None
    assert not withdraw(ledger.path, kept), "it is done"


def test_long_requests_wait_for_workers_that_do_them(ledger: Ledger) -> None:
    ready: list[bool] = []
    verbs = {"long": Verb(echo, long=True), "echo": Verb(echo)}
    agent = Steering(ledger, verbs, Liveness(60, time.monotonic), lambda: bool(ready))
    long, short = ask(ledger.path, "long"), ask(ledger.path, "echo")
    agent.look()
    assert wait_for(ledger.read, short, SOON) == Outcome([None, {}])
    assert (agent.works, wait_for(ledger.read, long, 0.0)) == (False, None)
    ready.append(True)
    agent.look()
    assert wait_for(ledger.read, long, SOON) == Outcome([None, {}])
    eventually("its end", lambda: not agent.works)


def test_answers_are_forgotten_after_a_day(tmp_path: Path) -> None:
    clock = [time.time()]
    with Ledger(tmp_path / "state", lambda: clock[0]) as ledger:
        asked = ask(ledger.path, "echo")
        steering(ledger, echo=Verb(echo)).look()
        clock[0] += 25 * 3600
        steering(ledger)
        assert ledger.read.request(asked) is None


def test_ask_needs_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="there is no ledger yet"):
        ask(tmp_path / "state.db", "pause")


# With a real agent


@pytest.fixture
def agent(tmp_path: Path, server: FaultyServer) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "box", server.url, KEY, {"mirror": {"poll": "1h"}}) as agent:
        yield agent


def say(agent: AgentProcess, *words: str, expect: int = 0) -> str:
    done = agent.call(*words)
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


WITHOUT_TURNS = """
import sys
from axomsync.agent import agent
from axomsync.cli import main
agent.TICK_SECONDS = 600
sys.exit(main())
"""


def test_a_command_need_not_wait_for_the_next_turn(agent: AgentProcess) -> None:
    with agent.log_file.open("wb") as log:
        command = [sys.executable, "-c", WITHOUT_TURNS, "run", "--config", str(agent.config_file)]
        agent.process = subprocess.Popen(command, env=agent.environ, stdout=log, stderr=log)
    eventually("a running agent", lambda: "works with" in agent.log())
    for _ in range(3):
        assert say(agent, "poll") == "the agent looks now\n"
    assert agent.terminate() == 0


def test_pause_ends_transfers_keeping_their_bytes_and_resume_goes_on(agent: AgentProcess, server: FaultyServer) -> None:
    server.rate = 8_000_000
    server.add_model("big", "v1", {"w": Content(40_000_000)})
    agent.start()
    eventually("a good part of it", lambda: server.sent() > 20_000_000)
    began = time.monotonic()
    assert "paused until `axomsync resume`" in say(agent, "pause")
    assert time.monotonic() - began < 3  # one second for the agent, the rest for starting a process
    eventually("no transfer", lambda: not agent.status()["transfers"])
    status = agent.status()
    assert status["agent"]["paused"]
    assert status["agent"]["running"]
    sent = server.sent()
    say(agent, "poll")
    server.rate = None
    agent.terminate()
    agent.start()  # a pause outlives the agent
    assert agent.status()["agent"]["paused"]
    assert server.sent() == sent
    assert "goes on" in say(agent, "resume")
    eventually("the model", lambda: (agent.mirror / "big/current").exists())
    assert server.sent() - sent < 40_000_000  # only the rest
    assert not agent.status()["agent"]["paused"]


@pytest.mark.parametrize("running", [True, False])
def test_nothing_is_fetched_during_a_pause_though_it_is_asked_for(
    running: bool, agent: AgentProcess, server: FaultyServer
) -> None:
    server.add_model("bot", "v1", {"w": Content(1000)})
    agent.start()
    eventually("the model", lambda: (agent.mirror / "bot/current").exists())
    say(agent, "pause")
    server.add_model("bot", "v2", {"w": Content(1000, 2)})
    damaged = agent.mirror / "bot/v1/w"
    damaged.write_bytes(bytes(1000))
    if not running:
        agent.terminate()
    server.requests.clear()
    for words in (("pull", "bot/v2"), ("verify", "bot/v1", "--repair")):
        assert "transfers are paused; `axomsync resume` ends the pause" in say(agent, *words, expect=75)
    assert say(agent, "pull", "bot/v1").split() == [str(agent.mirror / "bot/v1")], "it is here"
    assert server.storage_requests() == []
    say(agent, "resume")
    if running:
        assert str(agent.mirror / "bot/v2") in say(agent, "pull", "bot/v2")
        say(agent, "verify", "bot/v1", "--repair")
        assert damaged.read_bytes() != bytes(1000)


def test_pull_that_waits_for_a_place_outlives_a_reload_and_ends_with_a_pause(
    agent: AgentProcess, server: FaultyServer
) -> None:
    server.rate = 20_000
    for number in range(4):
        server.add_model("big", f"v{number}", {"w": Content(100_000_000)})
    agent.start()
    eventually("four downloads", lambda: [m["state"] for m in agent.models()] == ["downloading"] * 4)
    server.add_model("fifth", "v1", {"w": Content(1000)})
    with subprocess.Popen(agent.command("pull", "fifth"), env=agent.environ, stderr=subprocess.PIPE, text=True) as pull:
        eventually("the request", lambda: agent.log().count("request: pull fifth") == 1)
        agent.configure({"transfer": {"connections": 3}, "mirror": {"poll": "1h"}})
        say(agent, "reload")
        eventually("the request, once more", lambda: agent.log().count("request: pull fifth") == 2)
        assert pull.poll() is None
        say(agent, "pause")
        told = pull.communicate(timeout=SOON)[1]
        assert (pull.returncode, "transfers are paused; `axomsync resume` ends the pause" in told) == (75, True), told
    assert agent.terminate() == 0


def test_a_pass_does_a_pull_that_comes_after_its_own_models(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"mirror": {"include": ["nothing"]}})
    server.add_model("left-out", "v1", {"w": Content(1000)})
    pulled = threading.Event()
    server.inject(Fault(first=pulled.wait), "/bucket/", method="PUT")
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    agent.launch("sync")
    eventually("the models' part of the pass", lambda: agent.call("models", "--json").stdout not in ("", "[]\n"))
    eventually("the file's part", lambda: [r for r in server.storage_requests() if r.method == "PUT"])
    assert say(agent, "pull", "left-out").strip() == str(agent.mirror / "left-out" / "v1")
    pulled.set()
    assert agent.wait() == 0, agent.log()
    assert "Traceback" not in agent.log()


def test_a_pass_lasts_as_long_as_what_it_was_asked_for(agent: AgentProcess, server: FaultyServer) -> None:
    agent.configure({"mirror": {"include": ["nothing"]}})
    server.add_model("left-out", "v1", {"w": Content(1000)})
    asked, over = threading.Event(), threading.Event()
    server.inject(Fault(first=asked.wait), "/bucket/", method="PUT")
    server.inject(Fault(first=over.wait), "/bucket/")
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    agent.launch("sync")
    eventually("the file's part", lambda: [r for r in server.storage_requests() if r.method == "PUT"])
    with subprocess.Popen(agent.command("pull", "left-out"), env=agent.environ, stdout=subprocess.DEVNULL) as pull:
        eventually("the download", lambda: [r for r in server.storage_requests() if r.method == "GET"])
        asked.set()
        eventually("the upload", lambda: (agent.drop / "uploaded/a.jsonl").exists())
        over.set()
        assert pull.wait(SOON) == 0
    assert agent.wait() == 0, agent.log()


def test_pause_with_a_length_ends_by_itself(agent: AgentProcess) -> None:
    agent.start()
    assert json.loads(say(agent, "pause", "--for", "2s", "--json"))["paused_until"] is not None
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    eventually("the upload", lambda: (agent.drop / "uploaded/a.jsonl").exists())
    assert "--for tomorrow" in say(agent, "pause", "--for", "tomorrow", expect=2)


def test_requests_without_an_agent_take_effect_at_its_start(agent: AgentProcess, server: FaultyServer) -> None:
    agent.sync()
    server.add_model("m", "v1", {"w": Content(1000)})
    assert "takes effect when one starts" in say(agent, "pause")
    assert agent.status()["agent"]["asked"] == ["pause"]
    assert "paused" in agent.sync(expect=75).stderr
    agent.start()
    status = agent.status()["agent"]
    assert (status["paused"], status["asked"]) == (True, [])
    assert json.loads(say(agent, "resume", "--json")) == {"running": True}
    eventually("the model", lambda: (agent.mirror / "m/current").exists())


@pytest.mark.parametrize("upgraded", [False, True])
def test_requests_before_the_first_start_take_effect_at_it(upgraded: bool, agent: AgentProcess) -> None:
    if upgraded:
        old_ledger(agent.state)
    for words in (("poll",), ("retry",), ("pause", "--for", "1h")):
        assert "takes effect when one starts" in say(agent, *words)
    assert agent.status()["agent"]["asked"] == ["poll", "retry", "pause"]
    agent.start()
    status = agent.status()["agent"]
    assert (status["paused"], status["asked"]) == (True, [])


def test_request_before_the_first_start_that_can_not_be_stored_is_refused(agent: AgentProcess) -> None:
    agent.environ["AXOMSYNC_STATE__FOLDER"] = "/proc/axomsync"
    assert "the request can't be queued, as no agent has run here yet: /proc/axomsync: " in say(agent, "pause", expect=1)


def test_retry_tries_now_and_names_rows_that_can_not_be_retried(agent: AgentProcess, server: FaultyServer) -> None:
    server.add_model("m", "v1", {"../w": Content(1000)})
    agent.start()
    eventually("a blocked model", lambda: agent.models()[0]["state"] == "blocked")
    asked = len(server.console_requests("/download"))
    assert "tries now: m/v1" in say(agent, "retry", "m")
    eventually("another try", lambda: len(server.console_requests("/download")) > asked)
    assert "neither a file" in say(agent, "retry", "nonsense", expect=1)


def test_forget_makes_a_file_new_again(agent: AgentProcess) -> None:
    agent.start()
    (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
    eventually("the upload", lambda: (agent.drop / "uploaded/a.jsonl").exists())
    assert "uploaded" in say(agent, "retry", "a.jsonl", expect=1)
    assert "forgot: a.jsonl" in say(agent, "forget", "a.jsonl")
    assert agent.uploads() == []
    (agent.drop / "uploaded/a.jsonl").rename(agent.drop / "a.jsonl")
    eventually("the upload anew", lambda: [row["state"] for row in agent.uploads()] == ["uploaded"])


def test_a_path_is_forgotten_alone_and_a_name_of_several_contents_not_at_all(agent: AgentProcess) -> None:
    contents = {"train.jsonl": "top", "a/train.jsonl": "a", "b/train.jsonl": "b", "b/same.jsonl": "s", "c/same.jsonl": "s"}
    for path, text in contents.items():
        (agent.drop / path).parent.mkdir(exist_ok=True)
        (agent.drop / path).write_text(f'{{"text": "{text}"}}\n')
    agent.start()
    eventually("the uploads", lambda: len([row for row in agent.uploads() if row["upload_id"]]) == 5)
    assert say(agent, "forget", "train.jsonl") == "forgot: train.jsonl\n"
    told = say(agent, "forget", "train.jsonl", expect=1)
    assert "2 files with different contents have this name: a/train.jsonl, b/train.jsonl; name one by its path" in told
    assert {row["path"] for row in agent.uploads()} == contents.keys() - {"train.jsonl"}
    for path in ("uploaded/a/train.jsonl", str(agent.drop / "b/train.jsonl")):
        assert say(agent, "forget", path).count("forgot: ") == 1
    assert say(agent, "forget", "same.jsonl") == "forgot: b/same.jsonl\nforgot: c/same.jsonl\n", "it is one content"
    assert agent.uploads() == []


@pytest.mark.parametrize("name", ["caf\udce9.jsonl", "line\nline.jsonl", "no\xa0break.jsonl"])
def test_a_file_is_steered_by_its_name_as_it_is_or_as_it_is_printed(agent: AgentProcess, name: str) -> None:
    agent.start()
    for spelled in (name, printable(name)):
        (agent.drop / name).write_text('{"text": "a"}\n')
        eventually("the upload", lambda: [row["state"] for row in agent.uploads()] == ["uploaded"])
        assert f"{printable(name)} is uploaded" in say(agent, "retry", spelled, expect=1)
        assert say(agent, "forget", spelled) == f"forgot: {printable(name)}\n"


def test_a_model_is_steered_by_its_name_as_it_is_or_as_it_is_printed(agent: AgentProcess, server: FaultyServer) -> None:
    server.add_model("no\xa0break", "v1", {"w": Content(1000)})
    agent.start()
    for spelled in ("no\xa0break", r"no\xa0break/v1"):
        assert say(agent, "pull", spelled) == say(agent, "wait", spelled)
        assert say(agent, "forget", spelled) == "forgot: no\\xa0break/v1\n"


def test_a_model_that_waits_for_a_place_is_forgotten_in_a_pause(agent: AgentProcess, server: FaultyServer) -> None:
    for number in range(5):  # one more than are mirrored at once
        server.add_model(f"m{number}", "v1", {"a.bin": Content(1000)})
    server.inject(Fault(cut=1, ending="stall"), "/download", times=99)
    agent.start()
    eventually("as many as there are places", lambda: len(server.console_requests("/download")) == 4)
    [waiting] = [row["name"] for row in agent.models() if row["state"] == "queued"]
    assert f"{waiting}/v1: under way; `axomsync pause` first" in say(agent, "forget", waiting, expect=1)
    assert "paused" in say(agent, "pause")
    assert f"forgot: {waiting}/v1" in say(agent, "forget", waiting)


def test_requests_are_answered_while_a_reload_waits_for_a_hanging_console(agent: AgentProcess, server: FaultyServer) -> None:
    server.inject(Fault(cut=1, ending="stall"), "/models", times=99)
    agent.start()
    eventually("a request that hangs", lambda: server.console_requests("/models"))
    agent.configure({"transfer": {"connections": 3}})
    agent.hangup()
    assert "paused" in say(agent, "pause")
    assert "reloaded" not in agent.log(), "it was answered while the reload waits"


@pytest.mark.parametrize("barred", ["state", "state/state.db"])
def test_steering_without_the_right_names_the_remedy(agent: AgentProcess, barred: str) -> None:
    agent.sync()
    (agent.home / barred).chmod(0o444)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *agent.command("pause")],
        env=agent.environ, cwd=agent.home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "this user may not steer the agent; use sudo" in done.stderr
    assert done.returncode == 1
