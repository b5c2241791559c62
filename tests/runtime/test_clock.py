"""A wall clock that is set, by hours and by years, and a machine that sleeps: waits keep their length."""

import signal
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest

from axomsync.config.units import parse_bandwidth
from axomsync.core.errors import Transient
from axomsync.core.policy import LONGEST_WAIT_SECONDS, bandwidth_at
from axomsync.core.records import Stamp
from axomsync.drop.setbacks import Setbacks
from axomsync.ledger import Ledger, Reader
from axomsync.ledger.facts import PAUSE_ENDS, PAUSE_SECONDS
from axomsync.runtime.waits import Waits
from axomsync.status.report import pause_left
from axomsync.transport.http import http_date, retry_after
from tests.rig.agent import AgentProcess, eventually
from tests.rig.clocks import WallClock
from tests.rig.contexts import worker_context
from tests.rig.faults import KEY, Content, FaultyServer, s3_error

HOURS, YEAR = 3600.0, 400 * 86400.0
JUMPS = [-YEAR, -4 * HOURS, -0.5 * HOURS, 0.0, 0.5 * HOURS, 4 * HOURS, YEAR]
ASKED = 11  # seconds; shorter waits don't leave the call


class Clocks:
    def __init__(self) -> None:
        self.wall, self.steady = 1.9e9, 1000.0

    def waits(self) -> Waits:
        return Waits(lambda: self.wall, lambda: self.steady)

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("begun_here", [True, False])
def test_wait_keeps_its_length_when_the_clock_is_set(jump: float, begun_here: bool) -> None:
    clocks = Clocks()
    waits = clocks.waits()
    if begun_here:
        due = waits.begin("a", 60)
    else:  # stored by an earlier process
        due = clocks.wall + 60
        assert waits.left("a", due) == 60
    clocks.wall += jump
    assert waits.left("a", due) == pytest.approx(60)
    clocks.advance(59)
    assert waits.left("a", due) == pytest.approx(1)
    clocks.advance(1)
    assert waits.left("a", due) == 0
    clocks.wall -= YEAR
    assert waits.left("a", due) == 0, "it has come once and for all"


@pytest.mark.parametrize("jump", JUMPS)
def test_stored_time_beyond_the_longest_wait_is_due(jump: float) -> None:
    clocks = Clocks()
    due = clocks.waits().begin("a", LONGEST_WAIT_SECONDS)
    clocks.wall += jump
    left = clocks.waits().left("a", due)
    assert left == (0 if jump < 0 or jump >= LONGEST_WAIT_SECONDS else LONGEST_WAIT_SECONDS - jump)


def test_failed_upload_waits_though_the_clock_is_set_before_anybody_looks(tmp_path: Path) -> None:
    clocks = Clocks()
    with closing(Ledger(tmp_path / "state", lambda: clocks.wall)) as ledger:
        row = ledger.read.upload(ledger.push_upload(b"a.jsonl", "a.jsonl", Stamp(1, 2, 3, 4, 5)))
        setbacks = Setbacks(tmp_path, worker_context(ledger, now=lambda: clocks.wall, clock=lambda: clocks.steady))
        setbacks.wait(row, Transient("no answer", 11.0))
        clocks.wall -= 4 * HOURS
        assert setbacks.waits.left(row.id, ledger.read.upload(row.id).next_attempt) == 11.0


def test_waits_are_forgotten_when_over() -> None:
    clocks = Clocks()
    waits = clocks.waits()
    due = waits.begin("a", 60)
    assert waits.left("a", None) == 0
    clocks.wall -= 30
    assert waits.left("a", due) == 90, "it is another wait that has the same end"


@pytest.mark.parametrize("jump", JUMPS)
def test_pause_of_an_earlier_process_keeps_its_length(jump: float) -> None:
    facts = {PAUSE_ENDS: str(1e9 + 2 * HOURS), PAUSE_SECONDS: str(2 * HOURS)}
    expected = 0 if jump < 0 or jump >= 2 * HOURS else 2 * HOURS - jump
    assert pause_left(facts, 1e9 + jump) == expected


@pytest.mark.parametrize(
    ("local", "rate"),
    [
        ("2027-03-28T01:59:59+01:00", 1e6),  # in Berlin the next hour is skipped
        ("2027-03-28T03:00:00+02:00", 2e6),  # so 02:30 is over at once
        ("2027-03-28T03:15:00+02:00", 2e6),
        ("2027-10-31T02:29:00+02:00", 1e6),  # this hour comes twice
        ("2027-10-31T02:31:00+02:00", 2e6),
        ("2027-10-31T02:10:00+01:00", 1e6),  # and counts by its name, both times
        ("2027-10-31T02:31:00+01:00", 2e6),
        ("2027-10-31T12:00:00+01:00", None),
        ("2027-11-01T00:30:00+01:00", None),  # the rule that began last, a day of 25 hours ago
        ("2027-11-01T01:00:00+01:00", 1e6),
    ],
)
def test_bandwidth_timetable_follows_the_wall_clock_through_summer_time(local: str, rate: float | None) -> None:
    rules = parse_bandwidth(["01:00 1MB/s", "02:30 2MB/s", "09:00 off"])
    now = datetime.fromisoformat(local)
    assert bandwidth_at(rules, now.astimezone(ZoneInfo("Europe/Berlin"))) == rate
    assert bandwidth_at(rules, now) == rate, "with the offset alone, as the system tells it"


def test_retry_after_date_is_read_by_the_servers_clock() -> None:
    answer = httpx.Response(
        503, headers={"Date": "Tue, 05 Jan 2027 08:00:00 GMT", "Retry-After": "Tue, 05 Jan 2027 08:00:20 GMT"}
    )
    sent = http_date(answer.headers["Date"])
    assert sent is not None
    for jump in JUMPS:
        assert retry_after(answer.headers, sent + jump) == 20
    del answer.headers["Date"]
    assert retry_after(answer.headers, sent) == 20


def is_published(agent: AgentProcess, name: str) -> bool:
    return (agent.mirror / name / "v1" / "model.bin").exists()


def test_running_agent_survives_a_clock_that_is_set(tmp_path: Path, server: FaultyServer) -> None:
    clock = WallClock(tmp_path)
    coming = server.add_model("coming", "v1", {"model.bin": Content(1000, 1)}, status="training")
    config = {"web": {"listen": "127.0.0.1:0"}, "drop": {"settle": "100ms", "rescan": "500ms"}, "mirror": {"poll": "1s"}}
    with AgentProcess(tmp_path, server.url, KEY, config) as agent:
        agent.start(*clock.prefix)
        refused = s3_error(503, "SlowDown", "Please reduce your request rate.", Retry_After=f"{ASKED}")
        server.inject(refused, "/download")
        server.inject(refused, method="PUT")
        server.add_model("waits", "v1", {"model.bin": Content(1000, 2)})
        (agent.drop / "a.jsonl").write_text('{"text": "a"}\n')
        eventually("both wait", lambda: {"a.jsonl", "waits/v1"} <= {p["subject"] for p in agent.status()["problems"]})

        clock.set(-4 * HOURS)
        next(model for model in server.models if model["id"] == coming)["status"] = "ready"
        polls = len(server.console_requests("/models"))
        eventually("the model that turned ready", lambda: is_published(agent, "coming"))
        assert len([r for r in server.console_requests("/models")[polls:] if r.path.endswith("/models")]) <= 2
        eventually("the model that waited", lambda: is_published(agent, "waits"))
        eventually("the upload that waited", lambda: agent.uploads()[0]["state"] == "uploaded")
        downloads = [r for r in server.console_requests("/download") if coming not in r.path]
        for tries in (downloads, [r for r in server.storage_requests() if r.method == "PUT"]):
            assert [r.status for r in tries] == [503, 200]
            assert ASKED - 0.1 <= tries[1].at - tries[0].at <= ASKED + 8, "it was to be tried again on time"

        page = agent.status()["agent"]["page"]
        for jump in (YEAR, -YEAR, 4 * HOURS):
            clock.set(jump)
            name = f"after{jump:.0f}"
            server.add_model(name, "v1", {"model.bin": Content(1000, 3)})
            eventually("another model", lambda name=name: is_published(agent, name), patience=8)
            assert httpx.get(page + "readyz").text == "ok\n"
        assert agent.terminate() == 0
        assert "trouble" not in agent.log()


def test_pause_survives_a_suspended_process(tmp_path: Path, server: FaultyServer) -> None:
    clock = WallClock(tmp_path)
    with AgentProcess(tmp_path, server.url, KEY) as agent:
        agent.start(*clock.prefix)
        assert agent.call("pause", "--for", "3s").returncode == 0
        paused_at = time.monotonic()
        clock.set(-4 * HOURS)
        server.add_model("a", "v1", {"model.bin": Content(1000, 1)})

        def told() -> float:
            return float(ledger.facts()[PAUSE_ENDS] or 0)

        ledger = Reader(agent.state / "state.db")
        eventually("others are told by the new clock", lambda: told() < time.time() - 3 * HOURS)
        eventually("the end of the pause", lambda: is_published(agent, "a"), patience=10)
        assert time.monotonic() - paused_at >= 3

        assert agent.process is not None
        agent.process.send_signal(signal.SIGSTOP)
        clock.set(4 * HOURS)  # as after a night
        server.add_model("b", "v1", {"model.bin": Content(1000, 2)})
        agent.process.send_signal(signal.SIGCONT)
        eventually("work goes on", lambda: is_published(agent, "b"), patience=8)
        assert agent.status()["problems"] == []
        assert agent.terminate() == 0
