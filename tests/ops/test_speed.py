"""`axomsync doctor --speed`: when to try more connections, what limits, and real measurements of a server with limits."""

import os

import pytest

from axomsync.config import Settings
from axomsync.ops.doctor.findings import Verdict
from axomsync.ops.doctor.installation import Installation
from axomsync.ops.doctor.speed import Circumstances, Step, judged, measured, more, speed
from axomsync.transport.links import MOST
from tests.rig.faults import FOREVER, KEY, Content, Fault, FaultyServer, s3_error

MEGABIT = 1e6 / 8
MIB = 1024 * 1024


def steps(*rates: float, cpu: float = 0.1) -> list[Step]:
    return [Step(2**number, rate * MEGABIT, cpu) for number, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "most", "then"),
    [
        ((100,), MOST, 2),
        ((100, 200), MOST, 4),
        ((100, 109), MOST, None),
        ((100, 200, 150), MOST, None),
        ((100, 200), 2, None),
        ((100, 200, 400), 6, 6),
        ((0,), MOST, None),
    ],
)
def test_more_connections_are_tried_as_long_as_they_pay(rates: tuple[float, ...], most: int, then: int | None) -> None:
    assert more(steps(*rates), most) == then


@pytest.mark.parametrize(
    ("rates", "around", "cpu", "limit"),
    [
        ((100, 200, 400, 405), Circumstances(), 0.1, "the way to storage, or storage itself"),
        ((100, 101), Circumstances(), 0.1, "the way to storage, or storage itself"),
        ((400, 800, 940), Circumstances(link=1000), 0.1, "this machine's link of 1000 Mbit/s"),
        ((400, 800, 900), Circumstances(link=10000), 0.9, "this machine's CPU"),
        ((100, 200, 150), Circumstances(told_off=True), 0.1, "storage, which asked for fewer requests"),
        ((100, 200, 400), Circumstances(), 0.1, "the number of connections"),
    ],
)
def test_what_limits_is_named(rates: tuple[float, ...], around: Circumstances, cpu: float, limit: str) -> None:
    told = judged("s3.example", steps(*rates, cpu=cpu), around, None)
    assert told.verdict is Verdict.OK
    assert f"the limit is {limit}" in told.found


def test_rate_and_connections_are_told() -> None:
    told = judged("s3.example", steps(100, 200, 390, 400), Circumstances(), None)
    assert "gives 400 Mbit/s; enough connections: 4 (1: 100, 2: 200, 4: 390, 8: 400)" in told.found
    assert "12000 Mbit/s" in judged("s3.example", steps(12000), Circumstances(), None).found
    few = judged("s3.example", steps(100, 200, 400), Circumstances(), 4)
    assert (few.verdict, "auto" in few.fix) == (Verdict.WARN, True)


def test_connections_read_different_parts_and_end_in_time() -> None:
    asked: set[tuple[int, int]] = set()

    def read(start: int, end: int, got: object) -> None:
        asked.add((start, end))

    assert [step.connections for step in measured(read, 200 * MIB, 0.05, MOST)] == [1]
    assert asked == {(0, 64 * MIB), (64 * MIB, 128 * MIB), (128 * MIB, 192 * MIB)}


def examined(server: FaultyServer, connections: int = 4) -> tuple[Verdict, str]:
    sections = {"console": {"url": server.url}, "transfer": {"connections": connections}}
    (told,) = speed(Installation(Settings.model_validate(sections), {**os.environ, "AXOM_KEY": KEY}, [], write=False), 0.4)
    return told.verdict, told.found


def test_a_storage_that_limits_each_connection_is_measured(server: FaultyServer) -> None:
    server.add_model("m", "v1", {"small": Content(10), "w": Content(8 * MIB)})
    server.rate = 2_000_000
    verdict, found = examined(server)
    assert verdict is Verdict.WARN, found
    assert "the limit is the number of connections" in found
    assert 40 < float(found.partition("gives ")[2].partition(" Mbit/s")[0]) < 80, found


def test_what_can_not_be_measured_is_told(server: FaultyServer) -> None:
    assert examined(server)[0] is Verdict.WARN
    server.add_model("m", "v1", {"small": Content(10)})
    assert "to measure with" in examined(server)[1]
    server.add_model("m", "v2", {"w": Content(2 * MIB)})
    server.inject(s3_error(503, "SlowDown", "Reduce your rate"), "/bucket/", times=FOREVER)
    verdict, found = examined(server)
    assert (verdict, "SlowDown" in found) == (Verdict.FAIL, True), found
    server.inject(Fault(401, body=b'{"detail": "revoked"}'), "/api/", times=FOREVER)
    assert "revoked" in examined(server)[1]
