"""Which version `current` leads to, and which ones wait: tables."""

import pytest

from axomsync.core.errors import Rejected
from axomsync.core.windows import Promotes, Window
from axomsync.mirror.promotion import Place, Waiting, promoted, waiting, wanted

ALWAYS, NEVER = (Window(frozenset(range(7)), 0, 1440),), ()  # a window that is open, and none that ever is
THREE = ("v3", "v2", "v1")


@pytest.mark.parametrize(
    ("place", "now", "manual", "opened", "closed"),
    [
        (Place((), None), None, None, None, None),
        (Place(THREE, None), "v3", None, "v3", "v3"),
        (Place(THREE, "v1"), "v3", "v1", "v3", "v1"),
        (Place(THREE, "v3"), "v3", "v3", "v3", "v3"),
        (Place(THREE, "gone"), "v3", None, "v3", "v3"),
        (Place(THREE, "v3", pinned="v1"), "v1", "v1", "v1", "v1"),
        (Place(THREE, None, pinned="v1"), "v1", "v1", "v1", "v1"),
        (Place(THREE, "v2", pinned="gone"), "v3", "v2", "v3", "v2"),
        (Place(THREE, "v2", failed="v3"), "v2", "v2", "v2", "v2"),
        (Place(THREE, "v1", failed="v3"), "v1", "v1", "v1", "v1"),
        (Place(THREE, "v1", failed="v2"), "v3", "v1", "v3", "v1"),
        (Place(THREE, "v3", failed="v3"), "v3", "v3", "v3", "v3"),
        (Place(THREE, "v1", failed="gone"), "v3", "v1", "v3", "v1"),
        (Place(THREE, None, failed="v3"), "v2", None, "v2", "v2"),
        (Place(("v3",), None, failed="v3"), "v3", None, "v3", "v3"),
        (Place(THREE, "v1", pinned="v1", failed="v3"), "v1", "v1", "v1", "v1"),
    ],
)
def test_where_current_leads(place: Place, now: str, manual: str, opened: str, closed: str) -> None:
    rules: tuple[Promotes, ...] = ("now", "manual", ALWAYS, NEVER)
    assert [wanted(place, rule, 1e9) for rule in rules] == [now, manual, opened, closed]


@pytest.mark.parametrize(
    ("place", "waits"),
    [
        (Place(THREE, "v1"), ["v3", "v2"]),
        (Place(THREE, None), ["v3", "v2", "v1"]),
        (Place(THREE, "v3"), []),
        (Place(THREE, "v1", failed="v2"), ["v3"]),
        (Place(THREE, "v1", failed="v3"), []),
        (Place(THREE, "v1", pinned="v1"), []),
    ],
)
def test_what_waits(place: Place, waits: list[str]) -> None:
    assert waiting(place, "manual", 1e9) == [Waiting(version, None) for version in waits]
    assert waiting(place, "now", 1e9) == []


@pytest.mark.parametrize(
    ("place", "version", "outcome"),
    [
        (Place(THREE, "v1"), None, "v3"),
        (Place(THREE, "v1"), "v2", "v2"),
        (Place(THREE, "v1"), "v1", "v1"),
        (Place(THREE, None), None, "v3"),
        (Place(THREE, "v1", failed="v3"), "v3", "v3"),
        (
            Place(THREE, "v1", failed="v3"),
            None,
            "no version waits: current leads to v1; v3 failed its health check, name it",
        ),
        (Place(THREE, "v3"), None, "no version waits: current leads to v3"),
        (Place(THREE, "v3"), "v2", "v2 does not wait: current leads to v3, which is newer; `axomsync rollback` leads back"),
        (Place(THREE, "v1"), "v9", "there is no v9; there are v3, v2, v1"),
        (Place(THREE, "v1", pinned="v1"), None, "current leads to v1, which is pinned; `axomsync unpin` first"),
    ],
)
def test_what_a_person_promotes(place: Place, version: str | None, outcome: str) -> None:
    if outcome in THREE:
        assert promoted(place, version) == outcome
    else:
        with pytest.raises(Rejected) as refusal:
            promoted(place, version)
        assert str(refusal.value).startswith(outcome)
