"""Answers of the page's routes: status document, events, health, throughput."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from axomsync.core.errors import LocalFault
from axomsync.core.records import UploadState
from axomsync.runtime.meter import Meter
from axomsync.runtime.throughput import PIECE_SECONDS, PIECES, Throughput
from axomsync.status.report import status_document
from axomsync.web.facts import Facts
from tests.rig.agent import AgentProcess, eventually
from tests.rig.disks import locked
from tests.rig.faults import KEY, FaultyServer
from tests.web.scenes import Stage, staged


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, "problem") as stage:
        yield stage


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def _raises(failure: Exception) -> Callable[[Facts], Any]:
    def fail(_: Facts) -> Any:
        raise failure

    return fail


def test_api_status_equals_the_command_lines_and_has_more(stage: Stage) -> None:
    expected = json.loads(json.dumps(status_document(stage.settings, stage.ledger.read)))
    with stage.page() as url:
        told = httpx.get(url + "api/status").json()
    for free in ("drop", "mirror"):
        told[free].pop("free_bytes")
        expected[free].pop("free_bytes")
    assert {key: told[key] for key in expected} == expected
    assert told.keys() - expected.keys() == {"models", "uploads", "events", "throughput"}
    assert {row["state"] for row in told["uploads"]} == {"uploaded", "rejected", "held"}
    assert told["events"][0]["subject"] == "console"


def test_history_has_each_transition_once(stage: Stage) -> None:
    ledger = stage.ledger
    model = next(row for row in ledger.read.models() if row.name == "support-qa-70b")
    before = len(ledger.read.history(500))
    for missing in (5, 6, 7):
        ledger.move_model(model.id, model.state, reason=f"{missing} more bytes", attempts=1)
    assert len(ledger.read.history(500)) == before, "what is tried again and again was told again and again"
    ledger.clear_problem("console").result()
    ledger.clear_problem("console").result()
    assert [line.state for line in ledger.read.history(1)] == ["over"]
    for number in range(600):
        ledger.add_history("agent", "axomsync", "started", str(number))
    assert len(ledger.read.history(1000)) == 500


def test_events_carry_only_changed_parts(stage: Stage) -> None:
    with stage.page() as url, httpx.stream("GET", url + "api/events", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer)
        first = dict(next(told) for _ in range(6))
        assert first.keys() == {"fault", "status", "models", "uploads", "events", "throughput"}
        began = time.monotonic()
        stage.upload("new.jsonl", 10, UploadState.SETTLING)
        name, _ = next(told)
        assert name == "status"
        assert time.monotonic() - began < 2.5
        name, uploads = next(told)
        assert (name, uploads[0]["path"], uploads[0]["state"]) == ("uploads", "new.jsonl", "settling")


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (_raises(ValueError("it is none")), "unexpected ValueError: it is none; please report it"),
        (_raises(LocalFault("/srv/state.db: it is damaged")), "/srv/state.db: it is damaged"),
        (lambda _: {"status": {"folder": "/srv/mo\udcff"}}, "not valid UTF-8: surrogates not allowed; please report it"),
    ],
)
def test_events_tell_any_failure_and_go_on_after_it(
    failing: Callable[[Facts], Any],
    words: str,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed: list[Facts] = []

    def counted(facts: Facts) -> Any:
        failed.append(facts)
        return failing(facts)

    with stage.page() as url, httpx.stream("GET", url + "api/events", timeout=20) as answer:
        told = events(answer)
        assert "status" in dict(next(told) for _ in range(6))
        with monkeypatch.context() as patch:
            patch.setattr(Facts, "sections", counted)
            stage.upload("new.jsonl", 10, UploadState.SETTLING)
            name, fault = next(told)
            assert name == "fault"
            assert words in fault
            eventually("more failures, which are logged once", lambda: len(failed) > 2)
        assert next(told) == ("fault", None)
        assert {next(told)[0], next(told)[0]} == {"status", "uploads"}
    assert caplog.text.count("Traceback") == ("please report it" in words)


def test_events_end_when_the_page_stops(stage: Stage) -> None:
    told: list[str | None] = []
    page = stage.made(told)
    page.start()
    url = str(eventually("a page", lambda: told and told[0]))
    with httpx.stream("GET", url + "api/events", timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        began = time.monotonic()
        page.stop()
        assert time.monotonic() - began < 3
        list(lines)  # ends, and properly


def test_health_and_readiness(stage: Stage) -> None:
    with stage.page() as url:
        assert (httpx.get(url + "healthz").status_code, httpx.get(url + "healthz").text) == (200, "ok\n")
        unready = httpx.get(url + "readyz")
        assert unready.status_code == 503
        assert unready.text.startswith("console: ")
        stage.problems.clear("console")
        stage.polled()
        assert httpx.get(url + "readyz").status_code == 200
        stage.liveness.limit = -1.0
        with stage.liveness.worker("lane"):
            hanging = httpx.get(url + "healthz")
        assert (hanging.status_code, hanging.text) == (503, "no progress of: lane\n")


def test_probes_do_not_wait_for_the_other_routes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.problems.clear("console")
    stage.polled()
    held, go_on = threading.Semaphore(0), threading.Event()

    def never(_: Facts) -> dict[str, Any]:
        held.release()
        go_on.wait(30)
        return {}

    monkeypatch.setattr(Facts, "whole", never)
    with stage.page() as url, httpx.Client(timeout=20) as client, ThreadPoolExecutor(45) as readers:
        answers = [readers.submit(client.get, url + "api/status") for _ in range(45)]
        try:
            assert all(held.acquire(timeout=20) for _ in range(40)), "all threads of the page are in use"
            assert client.get(url + "healthz").text == client.get(url + "readyz").text == "ok\n"
            stage.problems.report("ledger", "broken")
            assert client.get(url + "readyz").text == "ledger: broken\n"
        finally:
            go_on.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_problems_are_read_while_one_is_being_written(stage: Stage) -> None:
    stage.problems.clear("console")
    with ThreadPoolExecutor(2) as others, locked(stage.ledger.path.parent):
        kept = others.submit(stage.problems.keep, "console", "no answer", holds=True)
        (problem,) = eventually("it", lambda: others.submit(stage.problems.all).result(10))
        assert (problem.reason, kept.done(), stage.ledger.read.problems()) == ("no answer", False, [])
    assert [problem.reason for problem in stage.ledger.read.problems()] == ["no answer"]


def test_static_files_are_not_sent_again_when_known(stage: Stage) -> None:
    with stage.page() as url:
        first = httpx.get(url + "page.js")
        again = httpx.get(url + "page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_throughput_covers_one_hour_at_most() -> None:
    throughput = Throughput(0.0)
    assert throughput.rates(0.0) == {"up": [], "down": []}
    throughput.observe({"up": 0, "down": 50}, 3.0)
    throughput.observe({"up": 20, "down": 100}, 9.0)
    assert throughput.rates(9.0) == {"up": [], "down": []}, "a piece that is not over has no rate"
    assert throughput.rates(25.0) == {"up": [2, 0], "down": [10, 0]}
    for piece in range(10_000):
        throughput.observe({"up": 20 + piece, "down": 100 + 10 * piece}, 100.0 + piece * PIECE_SECONDS)
    rates = throughput.rates(100.0 + 10_000 * PIECE_SECONDS)
    assert len(rates["down"]) == PIECES
    assert set(rates["down"]) == {1}


def test_totals_never_go_backwards_though_names_repeat() -> None:
    meter = Meter(time.monotonic)
    with meter.transfer("down", "a/1", 100) as one, meter.transfer("down", "a/1", 100) as other:
        one.receive(30)
        other.receive(5)
        other.receive(-5)
        assert meter.totals() == {"up": 0, "down": 35}
    assert meter.totals() == {"up": 0, "down": 35}


def test_agent_serves_its_page_and_a_reload_moves_it(tmp_path: Path) -> None:
    with FaultyServer() as server, AgentProcess(tmp_path, server.url, KEY, {"web": {"listen": "127.0.0.1:0"}}) as agent:
        agent.start()
        page = str(eventually("a page", lambda: agent.status()["agent"]["page"]))
        eventually("readiness", lambda: httpx.get(page + "readyz").status_code == 200)
        assert "axomsync_healthy 1.0" in httpx.get(page + "metrics").text
        agent.configure({"web": {"listen": ""}})
        agent.hangup()
        eventually("no page", lambda: agent.status()["agent"]["page"] is None)
        with pytest.raises(httpx.TransportError):
            httpx.get(page)
        assert agent.terminate() == 0
