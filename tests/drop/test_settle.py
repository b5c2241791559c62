"""Meaning of a scan, and settling of files: pure decisions, time is an argument."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axomsync.core.records import Stamp, Upload, UploadState
from axomsync.drop.settle import FINISHED, Meaning, Settler, interpret, same_file

NOW = 1_000_000.0
STAMP = Stamp(dev=1, ino=2, size=3, mtime_ns=4, ctime_ns=5)
OTHER = replace(STAMP, size=4)

patient = settings(deadline=None)  # for a busy machine


def row(state: UploadState, **changes: object) -> Upload:
    upload = Upload(
        id=1, path=b"a.jsonl", filename="a.jsonl", stamp=STAMP, state=state, reason=None, sha256=None, md5=None, lines=None,
        upload_id=None, key=None, etag=None, duplicate_of=None, attempts=0, next_attempt=None, created_at=0, updated_at=0,
    )  # fmt: skip
    return replace(upload, **changes)  # type: ignore[arg-type]


def meaning_of(
    found: dict[bytes, Stamp],
    rows: list[Upload],
    busy: frozenset[int] = frozenset(),
    now: float = NOW,
    *,
    keeps: bool = False,
    max_put: float = 100,
) -> Meaning:
    return interpret(found, rows, busy, lambda row: max(0.0, (row.next_attempt or 0.0) - now), keeps=keeps, max_put=max_put)


def verdict(meaning: Meaning) -> str:
    """The one meaning of the one path."""
    lists = {
        "new": meaning.new,
        "replaced": meaning.replaced,
        "changed": meaning.changed,
        "settling": meaning.settling,
        "unfinished": meaning.unfinished,
        "vanished": meaning.vanished,
    }
    named = [name for name, content in lists.items() if content]
    assert len(named) <= 1, named
    return named[0] if named else "left alone"


S = UploadState


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"ctime_ns": 6}, True),  # chmod, chown, a link
        ({"ino": 9}, True),  # a filesystem whose inode numbers change at each look
        ({"ino": 9, "ctime_ns": 6}, False),  # another file replaced it
        ({"mtime_ns": 6, "ctime_ns": 6}, False),
        ({"size": 4}, False),
        ({"dev": 9}, True),  # a filesystem that has another number at each mount, such as Btrfs
        ({"dev": 9, "ctime_ns": 6}, False),
        ({"dev": 9, "ino": 9}, False),
    ],
)
def test_same_file_compares_size_time_inode_and_ctime(change: dict[str, int], *, same: bool) -> None:
    assert same_file(STAMP, replace(STAMP, **change)) is same
    assert same_file(replace(STAMP, **change), STAMP) is same


@pytest.mark.parametrize(
    ("state", "keeps", "expected"),
    [
        (S.QUEUED, False, {"touched", "unfinished"}),
        (S.UPLOADING, False, {"touched", "unfinished"}),
        (S.FAILED, False, {"touched"}),
        (S.UPLOADED, True, {"doubtful"}),
        (S.DUPLICATE, True, {"doubtful"}),
        (S.UPLOADED, False, {"unfinished"}),
        (S.REJECTED, False, {"unfinished"}),
        (S.REJECTED, True, {"unfinished"}),
        (S.SETTLING, False, {"settling"}),
    ],
)
def test_touched_file_does_not_start_over(state: UploadState, expected: set[str], *, keeps: bool) -> None:
    touched = replace(STAMP, ctime_ns=6)
    meaning = meaning_of({b"a.jsonl": touched}, [row(state, sha256="0")], keeps=keeps)
    lists = ("new", "replaced", "changed", "settling", "unfinished", "touched", "doubtful", "vanished")
    assert {name for name in lists if getattr(meaning, name)} == expected
    other_number = meaning_of({b"a.jsonl": replace(STAMP, ino=9)}, [row(state, sha256="0")], keeps=keeps)
    begun_anew = (other_number.replaced, other_number.changed, other_number.touched, other_number.doubtful)
    assert not any(begun_anew)


def test_file_settles_despite_changing_ctimes_and_inode_numbers() -> None:
    settler = Settler(10.0)
    for second in range(10):
        assert settler.observe({b"a": replace(STAMP, ctime_ns=second), b"b": replace(STAMP, ino=second)}, second) == []
    assert set(settler.observe({b"a": replace(STAMP, ctime_ns=99), b"b": replace(STAMP, ino=99)}, 10.0)) == {b"a", b"b"}


@pytest.mark.parametrize(
    ("state", "same", "keeps", "expected"),
    [
        (S.SETTLING, True, False, "settling"),
        (S.SETTLING, False, False, "settling"),
        (S.CHECKING, True, False, "settling"),
        (S.CHECKING, False, False, "changed"),
        (S.QUEUED, True, False, "unfinished"),
        (S.QUEUED, False, False, "changed"),
        (S.UPLOADING, True, False, "unfinished"),
        (S.UPLOADING, False, False, "changed"),
        (S.UPLOADED, True, False, "unfinished"),
        (S.UPLOADED, True, True, "left alone"),
        (S.UPLOADED, False, False, "replaced"),
        (S.UPLOADED, False, True, "replaced"),
        (S.DUPLICATE, True, False, "unfinished"),
        (S.DUPLICATE, True, True, "left alone"),
        (S.DUPLICATE, False, True, "replaced"),
        (S.REJECTED, True, False, "unfinished"),
        (S.REJECTED, True, True, "unfinished"),
        (S.REJECTED, False, False, "replaced"),
        (S.FAILED, True, False, "left alone"),
        (S.FAILED, False, False, "changed"),
        (S.HELD, False, False, "changed"),
    ],
)
def test_interpret_decides_by_row_and_stamp(state: UploadState, same: bool, keeps: bool, expected: str) -> None:
    assert verdict(meaning_of({b"a.jsonl": STAMP if same else OTHER}, [row(state)], keeps=keeps)) == expected


@pytest.mark.parametrize(("max_put", "expected"), [(2, "left alone"), (3, "changed")])
def test_held_file_is_taken_when_max_put_allows_it(max_put: int, expected: str) -> None:
    assert verdict(meaning_of({b"a.jsonl": STAMP}, [row(S.HELD)], max_put=max_put)) == expected


def test_interpret_lists_new_and_vanished_files() -> None:
    assert meaning_of({b"b.jsonl": STAMP}, []).new == [b"b.jsonl"]
    assert meaning_of({}, [row(S.UPLOADED)]).vanished == [row(S.UPLOADED)]


waiting_states = st.sampled_from([S.SETTLING, S.CHECKING, S.QUEUED, S.UPLOADING, S.UPLOADED, S.DUPLICATE, S.REJECTED])


@patient
@given(waiting_states, st.floats(0.001, 3600.0))
def test_row_waits_for_its_time_unless_its_file_changes(state: UploadState, wait: float) -> None:
    waiting = row(state, next_attempt=NOW + wait)
    meaning = meaning_of({b"a.jsonl": STAMP}, [waiting])
    assert verdict(meaning) == "left alone"
    assert meaning.next_in == pytest.approx(wait)
    assert verdict(meaning_of({b"a.jsonl": STAMP}, [waiting], now=NOW + wait)) in ("settling", "unfinished")
    assert verdict(meaning_of({b"a.jsonl": OTHER}, [waiting])) in ("settling", "changed", "replaced")


@patient
@given(
    st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from([STAMP, OTHER])),
    st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from(list(UploadState))),
    st.frozensets(st.integers(0, 3)),
    st.booleans(),
)
def test_interpret_gives_each_path_at_most_one_meaning_and_busy_ones_none(
    found: dict[bytes, Stamp], states: dict[bytes, UploadState], busy: frozenset[int], keeps: bool
) -> None:
    rows = [row(state, id=number, path=path) for number, (path, state) in enumerate(states.items())]
    meaning = meaning_of(found, rows, busy, keeps=keeps)
    touched = [upload.path for upload in (*meaning.replaced, *meaning.changed, *meaning.unfinished, *meaning.vanished)]
    touched += [*meaning.settling, *meaning.new]
    assert len(touched) == len(set(touched))
    assert not {upload.path for upload in rows if upload.id in busy} & set(touched)
    assert set(meaning.new) == set(found) - set(states)
    assert {upload.state for upload in meaning.changed} & FINISHED == set()


def test_path_settles_after_its_stamp_was_unchanged() -> None:
    settler = Settler(5)
    assert settler.observe({b"a": STAMP}, 100) == []
    assert settler.due_in(101) == 4
    assert settler.observe({b"a": OTHER}, 104.9) == []  # it changed just before it would have settled
    assert settler.observe({b"a": OTHER}, 109.8) == []
    assert settler.observe({b"a": OTHER}, 109.9) == [b"a"]
    assert settler.due_in(109.9) is None
    assert settler.observe({}, 110) == []
    assert settler.observe({b"a": OTHER}, 111) == []  # it was forgotten while it was gone


def test_settle_0_takes_a_file_at_once() -> None:
    assert Settler(0).observe({b"a": STAMP}, 100) == [b"a"]


def test_settled_paths_are_sorted_by_modification_oldest_first() -> None:
    found = {b"new": replace(STAMP, mtime_ns=9), b"old": replace(STAMP, mtime_ns=1), b"also old": replace(STAMP, mtime_ns=1)}
    assert Settler(0).observe(found, 0) == [b"also old", b"old", b"new"]


looks = st.lists(
    st.tuples(st.floats(0, 10), st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 2))), max_size=30
)


@patient
@given(looks, st.floats(0, 10))
def test_settled_paths_were_unchanged_in_every_scan_for_settle(
    history: list[tuple[float, dict[bytes, int]]], settle: float
) -> None:
    settler, now, seen = Settler(settle), 0.0, list[tuple[float, dict[bytes, int]]]()
    for pause, content in history:
        now += pause
        seen.append((now, content))
        settled = settler.observe({path: replace(STAMP, size=size) for path, size in content.items()}, now)
        assert set(settled) == {path for path in content if _since(seen, path) + settle <= now}
        waits = [end - now for path in content if (end := _since(seen, path) + settle) > now]
        assert settler.due_in(now) == (min(waits) if waits else None)


def _since(seen: list[tuple[float, dict[bytes, int]]], path: bytes) -> float:
    """Time since when `path` looks the same in every scan."""
    since = seen[-1][0]
    for at, content in reversed(seen):
        if content.get(path) != seen[-1][1][path]:
            break
        since = at
    return since
