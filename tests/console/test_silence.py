"""How long the console has let its callers wait: calls on the wire, time as an argument."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from axomsync.console.client import Console
from axomsync.console.silence import Silence
from axomsync.core.errors import AxomsyncError, Transient
from tests.rig.agent import eventually
from tests.rig.clocks import HandClock
from tests.rig.faults import FOREVER, KEY, Fault, FaultyServer


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def console(server: FaultyServer, clock: HandClock) -> Iterator[Console]:
    console = Console(server.url, lambda: KEY, clock=clock, timeout=httpx.Timeout(20.0))
    yield console
    console.close()


@pytest.mark.parametrize(
    "fault", [Fault(cut=0, ending="reset", headers={"Content-Length": "nonsense"}), Fault(401), Fault(503), Fault(body=b"<")]
)
def test_a_call_that_ended_is_no_silence(fault: Fault, server: FaultyServer, console: Console, clock: HandClock) -> None:
    server.inject(fault, "/api/")
    with pytest.raises(AxomsyncError):
        console.models()
    clock.now += 3600
    assert console.silence() == 0.0


def test_a_refused_connection_is_no_silence(clock: HandClock) -> None:
    server = FaultyServer()
    console = Console(server.url, lambda: KEY, clock=clock)
    server.stop()
    with pytest.raises(Transient, match="no service listens there"):
        console.presign("a.jsonl", "application/jsonl")
    clock.now += 3600
    assert console.silence() == 0.0
    console.close()


def test_a_call_under_way_is_silence_until_it_or_another_one_is_answered(
    server: FaultyServer, console: Console, clock: HandClock
) -> None:
    answers = threading.Event()
    server.inject(Fault(first=answers.wait), "/api/models", times=FOREVER)
    calls = [threading.Thread(target=console.models) for _ in range(2)]
    for number, call in enumerate(calls):
        call.start()
        eventually("a call", lambda number=number: len(server.console_requests()) == number + 1)
        clock.now += 15
    assert console.silence() == 30.0, "the oldest one counts"
    assert console.presign("a.jsonl", "application/jsonl").upload_id
    assert console.silence() == 0.0, "it answers others"
    clock.now += 7
    assert console.silence() == 7.0
    answers.set()
    for call in calls:
        call.join()
    assert console.silence() == 0.0


def test_calls_of_many_threads_leave_nothing_behind() -> None:
    silence = Silence(lambda: 0.0)

    def call() -> None:
        for _ in range(1000):
            with silence.until_answered():
                pass

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert silence._under_way == {}
