"""Problems in memory and their copies in the ledger, which other processes read."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from axomsync.ledger import Ledger, Trouble
from axomsync.runtime.problems import Problems


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "state", time.time) as ledger:
        yield ledger


@pytest.mark.parametrize(
    ("call", "tell"),
    [
        ("trouble", lambda problems: problems.keep("console", "no answer", holds=True)),
        ("trouble", lambda problems: problems.report("console", "no answer")),
        ("show_problems", lambda problems: problems.keep_ledger(None)),
    ],
    ids=["keep", "report", "keep_ledger"],
)
def test_a_problem_that_ends_while_it_is_told_does_not_stay_in_the_ledger(
    call: str, tell: Callable[[Problems], None], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread ends it while `call` of the ledger is under way, or has to wait until the ledger knows of it."""
    problems = Problems(ledger)
    if call == "show_problems":
        problems.report("console", "no answer")
        problems.keep_ledger(Trouble.LOCKED)
    other = threading.Thread(target=problems.clear, args=("console",))
    do: Callable[..., Any] = getattr(ledger, call)

    def while_it_ends(*given: Any) -> Any:
        monkeypatch.undo()
        other.start()
        other.join(0.2)
        return do(*given)

    monkeypatch.setattr(ledger, call, while_it_ends)
    tell(problems)
    other.join()
    ledger.write(lambda db: None)  # all that was submitted before it is written
    assert (problems.all(), ledger.read.problems()) == ([], [])


def test_a_silence_that_comes_and_goes_is_shown_each_time_and_not_logged(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    problems = Problems(ledger, lambda: 5.0)
    for end in (partial(problems.keep, "console", "no answer", holds=False), partial(problems.clear, "console")):
        for _ in range(2):
            problems.keep("console", "no answer", holds=True)
        (problem,) = problems.all()
        assert (problem.subject, problem.reason, problem.since) == ("console", "no answer", 5.0)
        assert [shown.reason for shown in ledger.read.problems()] == ["no answer"]
        end()
        assert (problems.all(), ledger.read.problems()) == ([], [])
    assert caplog.messages == []


def test_what_fails_during_a_silence_is_logged_with_its_end(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    problems = Problems(ledger)
    problems.keep("console", "no answer", holds=True)
    problems.report("console", "no answer in time")
    for holds in (True, False):
        problems.keep("console", "no answer", holds=holds)
        assert [problem.reason for problem in problems.all()] == ["no answer in time"]
    problems.forget_workers()
    problems.keep("console", "no answer", holds=True)
    assert [problem.reason for problem in problems.all()] == ["no answer"]
    problems.report("console", "no answer in time")
    problems.clear("console")
    assert caplog.messages == ["console: no answer in time", "console: works again"]
    assert (problems.all(), ledger.read.problems()) == ([], [])
