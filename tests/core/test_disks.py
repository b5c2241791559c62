"""Questions to a disk: nobody waits long for one that does not answer, and it is asked again when it answers."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from axomsync.core.disks import LONG_PATIENCE_SECONDS, PATIENCE_SECONDS, Disk, Look, answer_or_fault, disk_of
from axomsync.core.errors import LocalFault
from tests.rig.agent import eventually

Held = tuple[Disk, threading.Event]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """A disk that does not answer until the event is set."""
    disk, answers = Disk(tmp_path), threading.Event()
    disk.ask_or_remember("what", lambda: "before", "nothing")
    assert disk.ask(answers.wait, None) is None
    yield disk, answers
    answers.set()


def test_a_look_tells_the_free_bytes_or_that_the_folder_is_missing(tmp_path: Path) -> None:
    look = Disk(tmp_path).look()
    assert (look.disk, look.free_bytes is not None) == ("ok", True)
    assert Disk(tmp_path / "none").look() == Look("missing", None)
    assert Disk(tmp_path).silent_since() is None


def test_of_a_silent_disk_the_last_answer_counts_and_nobody_waits(held: Held) -> None:
    disk, _ = held
    threads = threading.active_count()
    began = time.monotonic()
    for _ in range(100):
        assert disk.look() == Look("silent")
        assert disk.ask_or_remember("what", lambda: "now", "nothing") == "before"
        assert disk.ask_or_remember("another", lambda: "now", "nothing") == "nothing"
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert threading.active_count() == threads
    assert (since := disk.silent_since()) is not None
    assert PATIENCE_SECONDS <= time.time() - since < 60


def test_a_question_that_gets_on_is_waited_for_and_the_disk_is_not_silent(tmp_path: Path) -> None:
    disk, never = Disk(tmp_path), threading.Event()

    def look_at_many() -> int:
        return sum(not never.wait(0.3) for _ in disk.each(range(5)))

    with ThreadPoolExecutor() as askers:
        many = askers.submit(disk.ask, look_at_many, None)
        next_one = askers.submit(disk.ask, partial(time.sleep, 0.3), None)
        eventually("a question", lambda: disk._waits_since is not None)
        assert disk.look().disk == "ok"
        assert many.result() == 5
        assert disk.silent_since() is None
        assert disk.look().disk == "ok"
        next_one.result()


def test_a_demand_names_the_folder_that_does_not_answer(held: Held) -> None:
    disk, _ = held
    disk._waits_since = time.monotonic() - LONG_PATIENCE_SECONDS
    with pytest.raises(LocalFault, match=f"{disk.folder}: its filesystem does not answer"):
        disk.demand_answer()


def test_who_waits_for_a_silent_disk_is_told_so_and_who_does_not_gets_its_answer(tmp_path: Path) -> None:
    disk, answers = disk_of(tmp_path), threading.Event()
    assert disk.ask(answers.wait, None) is None
    disk._waits_since = time.monotonic() - LONG_PATIENCE_SECONDS
    try:
        with pytest.raises(LocalFault, match=f"{tmp_path}: its filesystem does not answer"):
            answer_or_fault([tmp_path], answers.wait)
        assert answer_or_fault([tmp_path], lambda: 7) == 7
        with pytest.raises(ValueError, match="odd"):
            answer_or_fault([tmp_path], partial(int, "odd"))
    finally:
        answers.set()


def test_a_disk_that_answers_again_is_asked_again(held: Held) -> None:
    disk, answers = held
    answers.set()
    eventually("an answer", lambda: disk.silent_since() is None)
    assert disk.look().disk == "ok"
    assert disk.ask_or_remember("what", lambda: "now", "nothing") == "now"


def test_a_question_that_came_too_late_is_not_asked(tmp_path: Path) -> None:
    disk, answers, asked = Disk(tmp_path), threading.Event(), []
    first = threading.Thread(target=disk.ask, args=(answers.wait, None))
    first.start()
    eventually("the first question", lambda: disk._waits_since is not None)
    assert disk.ask(lambda: asked.append(1), None) is None
    answers.set()
    first.join()
    disk.look()
    assert asked == []


def test_who_has_more_patience_waits_longer(held: Held) -> None:
    disk, answers = held
    threading.Timer(0.5, answers.set).start()
    assert disk.look(20).disk == "ok"


def test_what_a_question_raises_is_raised_by_who_asks(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for error in (TimeoutError(110, "the disk's own"), ValueError("odd")):

        def question(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            disk.ask(question, None)
    assert disk.ask(lambda: os.path.isdir(tmp_path), False) is True
