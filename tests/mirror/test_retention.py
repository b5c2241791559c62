"""Retention never removes a version in use, whatever the console says, and its removals then suffice."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axomsync.core.records import Model, ModelState, RemoteModel
from axomsync.mirror.catalog import READY, Selection, reconcile
from axomsync.mirror.layout import age
from axomsync.mirror.retention import GONE_POLLS, GONE_SECONDS, Policy, Version, plan
from tests.rig.anything import some

S = ModelState
NOW = 1e9
DAY = 86400.0
POLICIES = [
    Policy(keep, max_size, keep_gone)
    for keep in (0, 1, 2)
    for max_size in (None, 0, 100, 250)
    for keep_gone in (True, False)
]


def version(number: int, **facts: object) -> Version:
    return Version(**{"id": str(number), "name": "n", "age": (float(number), str(number)), "size": 100, **facts})  # type: ignore[arg-type]


def removed(
    versions: list[Version], policy: Policy, coming: Version | None = None, *opened: str, room: bool = True
) -> list[str]:
    planned = plan(versions, policy, NOW, lambda v: v.id in opened, coming, lambda gone: room)
    return [r.version.id for r in planned.removals]


def test_keep_keeps_the_newest() -> None:
    versions = [version(n) for n in (3, 1, 4, 2)]
    assert removed(versions, Policy()) == []
    assert removed(versions, Policy(keep=2)) == ["1", "2"]
    assert removed([*versions, version(9, name="other")], Policy(keep=1)) == ["1", "2", "3"]
    assert removed([version(1, pinned=True), version(2), version(3)], Policy(keep=1)) == ["2"]
    assert removed([version(1), version(2, current=True), version(3)], Policy(keep=1)) == ["1"]
    assert removed([version(1, pulled=True), version(2)], Policy(keep=1)) == []


def test_max_size_removes_the_oldest() -> None:
    versions = [version(n) for n in (1, 2, 3)]
    assert removed(versions, Policy(max_size=300)) == []
    assert removed(versions, Policy(max_size=250)) == ["1"]
    assert removed([version(1, current=True), version(2), version(3)], Policy(max_size=250)) == ["2"]
    assert removed(versions, Policy(max_size=300), version(4)) == ["1"]
    assert removed([version(5), version(6)], Policy(max_size=200), version(4)) == [], "the younger make no room"
    assert removed(versions, Policy(keep=3), version(4)) == ["1"], "what is coming counts"


def test_nothing_is_removed_for_a_version_that_does_not_fit_then() -> None:
    versions = [version(1), version(2, current=True)]
    assert removed(versions, Policy(max_size=250), version(3)) == ["1"]
    assert removed(versions, Policy(max_size=250), version(3, size=200)) == []
    assert removed(versions, Policy(keep=2), version(3), room=False) == []
    assert removed([version(0), *versions], Policy(keep=2), version(3), room=False) == ["0"], "it goes whatever comes"
    planned = plan([version(0), *versions], Policy(max_size=300), NOW, lambda v: v.id == "1", version(3, size=200))
    assert ([*planned.removals], [r.version.id for r in planned.spared]) == ([], ["1"]), "it fits once that is closed"


flags = st.sets(st.sampled_from(["pinned", "current", "pulled", "on_trial"]), max_size=1)
sizes = st.sampled_from([10, 60, 150])
anything_published = st.lists(st.tuples(st.sampled_from("nm"), sizes, flags, st.booleans()), max_size=6)


@settings(max_examples=some(2000), deadline=None, suppress_health_check=list(HealthCheck))
@given(anything_published, st.sampled_from(POLICIES), st.integers(0, 6), sizes, st.integers(0, 200))
def test_what_is_removed_for_a_version_lets_it_fit(
    drawn: list[tuple[str, int, set[str], bool]], policy: Policy, place: int, size: int, lacking: int
) -> None:
    versions = [version(n, name=name, size=of, **dict.fromkeys(is_, True)) for n, (name, of, is_, _) in enumerate(drawn)]
    opened = {str(n) for n, (*_, is_open) in enumerate(drawn) if is_open}
    coming = version(9, age=(place - 0.5, "9"), size=size)

    def planned(coming: Version | None) -> set[str]:
        found = plan(versions, policy, NOW, lambda v: v.id in opened, coming, lambda gone: size_of(gone) >= lacking)
        return {removal.version.id for removal in found.removals}

    gone = planned(coming)
    freed = size_of(v for v in versions if v.id in gone)
    fits = policy.max_size is None or size_of(versions) - freed + size <= policy.max_size
    assert gone == planned(None) or (fits and freed >= lacking)


def size_of(versions: Iterable[Version]) -> int:
    return sum(version.size for version in versions)


def test_open_versions_are_spared_and_listed() -> None:
    planned = plan([version(1), version(2), version(3)], Policy(keep=1), NOW, lambda v: v.id == "1")
    assert [r.version.id for r in planned.removals] == ["2"]
    assert [r.version.id for r in planned.spared] == ["1"]
    assert removed([version(1), version(2), version(3)], Policy(max_size=250), None, "1") == ["2"]


def test_keep_gone_false_removes_versions_missing_for_long() -> None:
    long = {"absent_polls": GONE_POLLS, "absent_since": NOW - GONE_SECONDS}
    gone = Policy(keep_gone=False)
    assert removed([version(1, **long)], gone) == ["1"]
    assert removed([version(1, **long)], Policy()) == []
    for almost in ({"absent_polls": GONE_POLLS - 1}, {"absent_since": NOW - GONE_SECONDS + 1}, {"pinned": True}):
        assert removed([version(1, **{**long, **almost})], gone) == []


# Any list of the console, in any order, with repetitions. Bytes are drawn much faster than structures.
worlds = st.binary(min_size=4, max_size=36)


def lists_in(world: bytes) -> list[list[tuple[int, str, int]]]:
    """One byte for each entry (number, status, day); 255 starts another list."""
    entries = [(byte & 7, "training" if byte & 0x18 == 0x18 else READY, byte >> 5 & 3) for byte in world]
    cuts = [i for i, byte in enumerate(world) if byte == 255]
    return [entries[i:j] for i, j in zip([0, *cuts], [*cuts, len(world)], strict=True)]


def remote(number: int, status: str, day: int) -> RemoteModel:
    return RemoteModel(str(number), "nm"[number % 2], f"v{number}", None, None, status, f"2026-01-0{day + 1}T00:00:00Z")


@settings(max_examples=some(10_000), deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds)
def test_retention_over_ten_thousand_random_catalogs(world: bytes) -> None:
    """A mirror of eight versions processes lists of any kind."""
    pinned, current, opened = (frozenset(n for n in range(8) if byte >> n & 1) for byte in world[:3])
    policy, poll = POLICIES[world[3] % len(POLICIES)], (60.0, DAY / 4, DAY)[world[3] % 3]
    lists = lists_in(world[4:])
    rows = {str(n): row(remote(n, READY, n % 4)) for n in range(8)}
    selection = Selection(("*",), (), policy.keep, policy.max_size)
    absences: dict[str, tuple[int, float]] = {}
    for count, listed in enumerate(lists):
        now = NOW + count * poll
        catalog = [remote(*entry) for entry in listed]
        for _ in range(2):
            changes = reconcile(catalog, rows.values(), selection, lambda model: True)
            for change in changes:
                before = rows.get(change.model.id)
                assert not (before and before.state is S.PUBLISHED and change.state is not S.PUBLISHED)
                rows[change.model.id] = row(change.model, change.state, change.reason)
        assert changes == [], "a second time it changes nothing"
        ids = {model.id for model in catalog}
        absences = {
            i: (n + 1, since) for i in rows if i not in ids for n, since in [absences.get(i, (0, now))]
        }  # as the ledger notes them
        published = [seen(r, absences, pinned, current) for r in rows.values() if r.state is S.PUBLISHED]
        planned = plan(published, policy, now, lambda v: int(v.id) in opened)
        for removal in planned.removals:
            gone = removal.version
            assert int(gone.id) not in pinned | current | opened
            if policy.keep == 0 and policy.max_size is None:
                assert absences[gone.id][0] >= GONE_POLLS
        left = [v for v in published if v.id not in {r.version.id for r in planned.removals}]
        assert plan(left, policy, now, lambda v: int(v.id) in opened).removals == ()
        for removal in planned.removals:
            rows[removal.version.id] = replace(rows[removal.version.id], state=S.PRUNED, reason=removal.reason)


def row(model: RemoteModel, state: ModelState = S.PUBLISHED, reason: str | None = None) -> Model:
    return Model(
        model.id, model.name, model.version, None, None, model.status, model.created_at, state, reason,
        f"/{model.name}/{model.version}", 0, 60, 0, None, 0.0,
    )  # fmt: skip


def seen(row: Model, absences: dict[str, tuple[int, float]], pinned: frozenset[int], current: frozenset[int]) -> Version:
    polls, since = absences.get(row.id, (0, None))
    number = int(row.id)
    return Version(
        row.id, row.name, age(row.created_at, row.id), 60, number in pinned, number in current, False, polls, since
    )
