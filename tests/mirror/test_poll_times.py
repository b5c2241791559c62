"""When boxes poll: the rules, ten thousand of them simulated, and an agent that keeps to the rules after a restart."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from axomsync.core.policy import BACKOFF_CAP
from axomsync.mirror.poll_times import SPREAD_SECONDS, PollTimes, share_of
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, FaultyServer
from tests.rig.fleet import BOXES, POLL_SECONDS, Fleet, outage

USUAL = BOXES / POLL_SECONDS  # requests a second when all is well
LATE = next(f"{box:012x}" for box in range(1000) if share_of(f"{box:012x}") > 0.9)


def test_shares_are_even_and_never_change() -> None:
    assert share_of("0123456789ab") == share_of("0123456789ab")
    tenths = [int(share_of(f"{box:012x}") * 10) for box in range(BOXES)]
    assert all(800 < tenths.count(tenth) < 1200 for tenth in range(10))


@pytest.mark.parametrize(("poll", "first"), [(60.0, 30.0), (3600.0, SPREAD_SECONDS / 2), (0.5, 0.25)])
def test_a_box_that_was_there_before_waits_its_share(poll: float, first: float) -> None:
    times = PollTimes(0.5, poll)
    times.begin(100.0, polled_before=True)
    assert times.due == 100 + first
    times.begin(100.0, polled_before=False)
    assert times.due < 100, "somebody waits for a new box"
    times.answered(100.0)
    assert times.due == 100 + poll / 2
    times.answered(times.due)
    assert times.due == 100 + poll * 1.5


def test_a_poll_that_was_asked_for_moves_no_other() -> None:
    times = PollTimes(0.5, 60.0)
    times.begin(0.0, polled_before=True)
    times.answered(30.0)
    times.answered(60.0)
    due = times.due
    times.answered(due - 20)
    assert times.due == due
    times.failed(due, lambda: 0.99, 1000)
    times.answered(due + 1)
    assert times.due == due + 61, "nor does it wait any longer for the pause after a failure"


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_pauses_after_failures(chance: float) -> None:
    times = PollTimes(0.5, 60.0)
    waits = [times.failed(0.0, lambda: chance, None) for _ in range(12)]
    assert waits == sorted(waits)
    assert 30 <= waits[0] <= 60
    assert waits[-1] <= BACKOFF_CAP
    assert times.failed(0.0, lambda: chance, 120.0) >= 120 + 30, "not all at the moment that all were told"
    assert times.failed(0.0, lambda: chance, 1e9) <= 3600 + BACKOFF_CAP
    assert (times.tries, PollTimes(0.5, 60.0).tries) == (1, 3)


# Ten thousand boxes


def test_a_restart_of_all_boxes_is_hardly_noticed() -> None:
    fleet = Fleet()
    fleet.run(400)
    assert fleet.peak(0, 120) < 2 * USUAL
    assert fleet.peak(300, 400) < 1.5 * USUAL
    assert all(1 <= len(answers) <= 9 for answers in fleet.answers)


def test_new_boxes_that_start_together_are_spread_from_the_second_poll_on() -> None:
    fleet = Fleet(polled_before=False)
    fleet.run(240)
    assert fleet.requests[0] == BOXES
    assert fleet.peak(1, 240) < 2 * USUAL


def test_polls_that_somebody_asks_all_boxes_for_leave_no_trace() -> None:
    fleet = Fleet(asked_at=[300.0])
    fleet.run(420)
    assert fleet.requests[300] >= BOXES
    assert fleet.peak(301, 420) < 1.5 * USUAL


@pytest.mark.parametrize(("seconds", "retry_after"), [(5, 0.0), (60, 0.0), (400, 0.0), (60, 5.0), (60, 20.0)])
def test_a_herd_takes_half_a_minute_to_be_back(seconds: int, retry_after: float) -> None:
    fleet = Fleet(outage(200, 200 + seconds, retry_after))
    fleet.run(200 + seconds + 400)
    back = fleet.back_after(200, 200 + seconds)
    assert len(back) > BOXES * min(seconds, 60) / 60 / 5
    assert back[int(len(back) * 0.99)] >= 30
    assert back[-1] <= BACKOFF_CAP + retry_after
    assert fleet.peak(200 + seconds, 200 + seconds + 400) < 4 * USUAL
    assert fleet.mean(200, 200 + seconds) < 4 * USUAL, "a console in trouble must not get much more than usual"


# The agent


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def test_an_agent_that_starts_again_waits_its_share_unless_somebody_asks(tmp_path: Path, server: FaultyServer) -> None:
    with AgentProcess(tmp_path / "box", server.url, KEY, {"mirror": {"poll": "1h"}}) as agent:
        agent.state.mkdir()
        (agent.state / "identity").write_text(f"{LATE}\n")
        agent.start()
        eventually("the first poll", lambda: agent.status()["console"]["last_poll"])
        assert agent.terminate() == 0
        polls = len(server.console_requests("/models"))
        agent.start()
        assert agent.status()["console"]["ok"] is True, "as it was told before"
        assert len(server.console_requests("/models")) == polls
        assert "looks now" in agent.call("poll").stdout
        eventually("the poll", lambda: len(server.console_requests("/models")) > polls)
        polls = len(server.console_requests("/models"))
        agent.configure({"mirror": {"poll": "2h"}})
        agent.call("reload")
        eventually("a poll by the new configuration", lambda: len(server.console_requests("/models")) > polls)
