"""The ring of gateways: who is asked, who is held out and for how long, and what is told."""

from pathlib import Path

import pytest

from axomsync.ledger import Ledger
from axomsync.runtime.problems import Problems
from axomsync.runtime.ring import (
    BROKEN_OFF_MOST,
    FIRST_HOLD_SECONDS,
    LONGEST_HOLD_SECONDS,
    PROBE_SECONDS,
    WRONG_BYTES_SECONDS,
    Ring,
    Way,
)
from axomsync.transport.gateways import BLOCK, owners
from tests.rig.clocks import HandClock

URL = "https://s3.example/b/k?X-Amz-Signature=1"
GATEWAYS = ["http://a:1", "http://b:1", "http://c:1"]
FIRST, SECOND, THIRD = owners(GATEWAYS, URL, 0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ring(clock: HandClock) -> Ring:
    return Ring(GATEWAYS, clock=clock, random=lambda: 1.0)


def asked(ring: Ring) -> str | None:
    return ring.way(URL, 0, 10).gateway


def test_without_gateways_storage_is_asked_for_all() -> None:
    assert Ring().way(URL, 0, 3 * BLOCK) == Way(3 * BLOCK, None, "storage")


def test_the_owner_is_asked_then_the_next_then_storage(ring: Ring) -> None:
    assert ring.way(URL, 5, 2 * BLOCK) == Way(BLOCK, FIRST, "owner")
    ring.failed(FIRST, "refused")
    assert ring.way(URL, 0, 10) == Way(10, SECOND, "next")
    ring.failed(SECOND, "refused")
    ring.failed(THIRD, "refused")
    assert ring.way(URL, 5, 2 * BLOCK) == Way(BLOCK, None, "storage")
    assert Ring(GATEWAYS).way(URL, 0, 10, {FIRST, SECOND, THIRD}).gateway is None


def test_a_failed_one_is_tried_by_one_request_and_held_out_longer_each_time(ring: Ring, clock: HandClock) -> None:
    ring.failed(FIRST, "refused")
    ring.failed(FIRST, "refused by another request of the same moment")
    clock.now += FIRST_HOLD_SECONDS
    assert (asked(ring), asked(ring)) == (FIRST, SECOND)  # one tries it, the others go on around it
    ring.failed(FIRST, "still refused")
    clock.now += FIRST_HOLD_SECONDS
    assert asked(ring) == SECOND
    clock.now += FIRST_HOLD_SECONDS
    assert asked(ring) == FIRST
    clock.now += PROBE_SECONDS  # that request never ended
    assert asked(ring) == FIRST
    ring.worked(FIRST)
    assert (asked(ring), asked(ring)) == (FIRST, FIRST)
    ring.failed(FIRST, "refused")
    clock.now += FIRST_HOLD_SECONDS
    assert asked(ring) == FIRST  # the row of failures had ended


def test_bodies_that_end_early_count_only_in_a_row(ring: Ring) -> None:
    for _ in range(BROKEN_OFF_MOST - 1):
        ring.broke_off(FIRST, "cut")
    assert asked(ring) == FIRST
    ring.worked(FIRST)
    for _ in range(BROKEN_OFF_MOST - 1):
        ring.broke_off(FIRST, "cut")
    assert asked(ring) == FIRST
    ring.broke_off(FIRST, "cut")
    assert asked(ring) == SECOND


def test_when_storage_fails_too_those_that_said_so_are_free_again(ring: Ring) -> None:
    ring.failed(FIRST, "it answered 502", is_storage=True)
    ring.failed(SECOND, "refused")
    ring.storage_fails_too()
    assert asked(ring) == FIRST
    assert ring.way(URL, 0, 10, {FIRST}).gateway == THIRD


def test_after_an_outage_of_storage_gateways_are_back_soon(ring: Ring, clock: HandClock) -> None:
    for _ in range(50):
        for gateway in GATEWAYS:
            ring.failed(gateway, "it answered 502", is_storage=True)
        assert asked(ring) is None
        ring.storage_fails_too()
    for gateway in GATEWAYS:
        ring.failed(gateway, "it answered 502", is_storage=True)
    clock.now += FIRST_HOLD_SECONDS
    assert asked(ring) == FIRST


def test_one_that_does_not_serve_a_host_is_asked_for_the_others(ring: Ring, clock: HandClock) -> None:
    other = "https://other.example/b/k?X-Amz-Signature=1"
    owner = ring.way(other, 0, 10).gateway or ""
    ring.refused(owner, other, "it does not serve other.example")
    assert ring.way(other, 0, 10).gateway not in (owner, None)
    assert asked(ring) == FIRST
    assert [state.reason for state in ring.states() if not state.up] == ["it does not serve other.example"]
    ring.worked(owner, URL)
    assert [state.gateway for state in ring.states() if not state.up] == [owner]
    clock.now += LONGEST_HOLD_SECONDS
    assert ring.way(other, 0, 10).gateway == owner
    ring.worked(owner, other)
    assert all(state.up for state in ring.states())


def test_a_new_list_counts_from_the_next_request_on(ring: Ring, clock: HandClock) -> None:
    ring.failed(FIRST, "refused")
    ring.change([FIRST, "http://d:1"])
    assert asked(ring) == "http://d:1"  # what failed stays held out
    ring.change([])
    assert ring.way(URL, 0, 2 * BLOCK) == Way(2 * BLOCK)
    ring.failed(SECOND, "it is not in the list any more")
    ring.worked(SECOND)
    assert ring.states() == []


def test_it_is_told_who_is_not_asked_and_why(tmp_path: Path, clock: HandClock) -> None:
    with Ledger(tmp_path, clock) as ledger:
        problems = Problems(ledger)
        ring = Ring(GATEWAYS, ledger, problems, clock=clock, random=lambda: 1.0)
        assert problems.all() == []
        ring.gave_wrong_bytes(FIRST, "chassis/v1: w.bin")
        (problem,) = problems.all()
        assert problem.subject == "gateways"
        assert problem.reason.startswith(
            f"{FIRST}: it gave wrong bytes of chassis/v1: w.bin; empty its cache, and check its"
        )
        assert f'"gateway": "{FIRST}", "up": false' in (ledger.read.facts()["gateways"] or "")
        ring.worked(FIRST)  # the answer to a request that was under way
        assert asked(ring) != FIRST
        assert problems.all() == [problem]
        clock.now += WRONG_BYTES_SECONDS
        assert asked(ring) == FIRST
        ring.worked(FIRST)
        assert problems.all() == []
        assert [state.up for state in ring.states()] == [True, True, True]


def test_bytes_are_counted_by_where_they_came_from(ring: Ring) -> None:
    ring.count("owner", 10)
    ring.count("storage", 5)
    assert ring.totals() == {"owner": 10, "next": 0, "storage": 5, "wrong": 0}
