"""The order of many waiting files, and the cost of fifty thousand of them."""

from concurrent.futures import ThreadPoolExecutor

from axomsync.drop.backlog import KEPT_FOR_SMALL, LARGE_BYTES, SMALL_BYTES, Backlog

PATIENCE = 60.0  # seconds


def test_backlog_gives_the_oldest_first_and_each_once() -> None:
    backlog = Backlog(8)
    for upload, age in ((1, 30), (2, 10), (3, 20), (2, 10)):
        backlog.add(upload, 1, age, 0)
    assert [backlog.take(0) for _ in range(4)] == [2, 3, 1, None]
    backlog.add(3, 1, 20, 0)
    assert backlog.take(0) is None, "it is still carried"
    backlog.done(3)
    backlog.add(3, 1, 20, 0)
    assert backlog.take(0) == 3


def test_backlog_does_not_block_small_files_behind_huge_ones() -> None:
    backlog = Backlog(8)
    for upload in range(20):
        backlog.add(upload, LARGE_BYTES, upload, 0)
    for upload in range(100, 110):
        backlog.add(upload, 1, upload, 0)
    taken = [backlog.take(0) for _ in range(8)]
    assert taken == [*range(8 - KEPT_FOR_SMALL), 100, 101]
    backlog.done(0)
    assert backlog.take(0) == 6, "the oldest of all again"


def test_backlog_puts_failed_files_behind_new_ones() -> None:
    backlog = Backlog(8)
    for upload, size, attempts in ((1, 1, 5), (2, LARGE_BYTES, 1), (3, 1, 1), (4, LARGE_BYTES, 0), (5, 1, 0)):
        backlog.add(upload, size, upload, attempts)
    assert [backlog.take(0) for _ in range(5)] == [4, 5, 2, 3, 1]


def test_backlog_gives_small_files_alone_to_who_asks_for_them() -> None:
    backlog = Backlog(8)
    sizes = (LARGE_BYTES, SMALL_BYTES + 1, SMALL_BYTES, 1)
    for upload, size in enumerate(sizes):
        backlog.add(upload, size, upload, 0)
    assert [backlog.take(0, only_small=True) for _ in range(3)] == [2, 3, None]
    assert not backlog.has_small
    assert [backlog.take(0) for _ in range(3)] == [0, 1, None]
    assert [backlog.is_small(upload) for upload in range(len(sizes))] == [False, False, True, True]
    backlog.done(2)
    assert not backlog.is_small(2)


def test_backlog_wakes_who_can_take_what_came() -> None:
    """Whoever takes small files only has waited longer, and can't take it."""
    backlog = Backlog(8)
    with ThreadPoolExecutor(2) as pool:
        small = pool.submit(backlog.take, PATIENCE, only_small=True)
        any_size = pool.submit(backlog.take, PATIENCE)
        backlog.add(1, SMALL_BYTES + 1, 1, 0)
        assert any_size.result(PATIENCE / 2) == 1
        backlog.add(2, 1, 1, 0)
        assert small.result(PATIENCE / 2) == 2


def test_backlog_waits_until_it_is_empty() -> None:
    backlog = Backlog(2)
    assert backlog.wait_until_empty(0)
    backlog.add(1, 1, 1, 0)
    backlog.add(2, 1, 2, 0)
    assert backlog.take(0) == 1
    backlog.clear()
    assert backlog.members() == {1}
    assert not backlog.wait_until_empty(0)
    backlog.done(1)
    assert backlog.wait_until_empty(0)
