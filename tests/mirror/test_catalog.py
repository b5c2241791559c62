"""Agreement with the console's list: reached at once, and published models stay."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync.core.records import Model, ModelState, RemoteModel
from axomsync.core.states import MODEL_TRANSITIONS
from axomsync.mirror.catalog import READY, Change, Selection, reconcile

S = ModelState
ids = st.sampled_from("abcdef")
remotes = st.builds(
    RemoteModel,
    id=ids,
    name=st.sampled_from(["n", "m"]),
    version=st.sampled_from(["1", "2"]),
    params=st.none(),
    base_model_id=st.none(),
    status=st.sampled_from([READY, "training", "weird"]),
    created_at=st.sampled_from(["2026-01-01T00:00:00Z", None]),
)
selections = st.builds(
    Selection,
    include=st.sampled_from([("*",), ("n",), ("n/1", "m"), ()]),
    exclude=st.sampled_from([(), ("m",), ("a",), ("*/2",)]),
    keep=st.sampled_from([0, 0, 1, 2]),
    max_size=st.sampled_from([None, 100]),
    files=st.sampled_from([("*",), ("*.bin",)]),
)


def row(
    remote: RemoteModel,
    state: ModelState,
    reason: str | None = None,
    size: int | None = None,
    pulled: bool = False,
    left_out: tuple[str, ...] = (),
    path: str | None = None,
) -> Model:
    if state is S.PUBLISHED and path is None:
        path = f"/{remote.name}/{remote.version}"
    return Model(
        remote.id, remote.name, remote.version, None, None, remote.status, remote.created_at, state, reason,
        path, 0, size, 0, None, 0.0, pulled, left_out=left_out,
    )  # fmt: skip


rows = st.lists(
    st.builds(
        row,
        remotes,
        st.sampled_from(S),
        st.sampled_from([None, "why"]),
        st.sampled_from([None, 40, 70]),
        st.booleans(),
        st.sampled_from([(), (), ("c.txt",)]),
        st.sampled_from([None, "/n/1"]),
    ),
    unique_by=lambda r: r.id,
)


def apply(known: list[Model], changes: list[Change]) -> list[Model]:
    after = {model.id: model for model in known}
    for change in changes:
        before = after.get(change.model.id)
        facts = (before.bytes_total, before.pulled, before.left_out, before.path) if before else ()
        after[change.model.id] = row(change.model, change.state, change.reason, *facts)
    return list(after.values())


@given(st.lists(remotes), rows, selections, st.sets(ids), st.sets(ids))
def test_reconcile_twice_changes_nothing(
    listed: list[RemoteModel], known: list[Model], selection: Selection, on_disk: set[str], busy: set[str]
) -> None:
    first = reconcile(listed, known, selection, lambda model: model.id in on_disk, busy)
    again = reconcile(listed, apply(known, first), selection, lambda model: model.id in on_disk, busy)
    assert again == []


@given(st.lists(remotes), rows, selections, st.sets(ids), st.sets(ids))
def test_reconcile_makes_one_legal_change_a_model(
    listed: list[RemoteModel], known: list[Model], selection: Selection, on_disk: set[str], busy: set[str]
) -> None:
    before = {model.id: model.state for model in known}
    changes = reconcile(listed, known, selection, lambda model: model.id in on_disk, busy)
    assert len({change.model.id for change in changes}) == len(changes)
    assert not busy & {change.model.id for change in changes}
    for change in changes:
        old = before.get(change.model.id)
        assert old in (None, change.state) or change.state in MODEL_TRANSITIONS[old]
        if old is None:
            assert change.state in (S.QUEUED, S.WAITING, S.IGNORED)


@given(st.lists(remotes), rows, selections)
def test_published_models_stay_whatever_the_list_says(
    listed: list[RemoteModel], known: list[Model], selection: Selection
) -> None:
    for change in reconcile(listed, known, selection, lambda model: True):
        lacking = {model.id: bool(model.left_out) for model in known if model.state is S.PUBLISHED}
        if change.model.id in lacking:
            assert change.state is S.PUBLISHED or (change.state is S.QUEUED and lacking[change.model.id])


@given(st.lists(remotes, unique_by=lambda r: r.id), rows, selections, st.randoms(use_true_random=False))
def test_reconcile_ignores_order_and_repetition(
    listed: list[RemoteModel], known: list[Model], selection: Selection, dice: object
) -> None:
    shuffled = [*listed, *listed]
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = reconcile(listed, known, selection, lambda model: True)
    found = reconcile(shuffled, known, selection, lambda model: True)
    assert sorted(found, key=lambda c: c.model.id) == sorted(expected, key=lambda c: c.model.id)


@given(st.lists(remotes, unique_by=lambda r: r.id), selections)
def test_empty_list_leaves_no_trace_once_the_models_are_back(listed: list[RemoteModel], selection: Selection) -> None:
    known = apply([], reconcile(listed, [], selection, lambda model: True))
    during = apply(known, reconcile([], known, selection, lambda model: True))
    assert {model.state for model in during} <= {S.GONE}
    after = apply(during, reconcile(listed, during, selection, lambda model: True))
    assert {model.id: model.state for model in after} == {model.id: model.state for model in known}


@given(st.lists(remotes, unique_by=lambda r: r.id), selections)
def test_reconcile_queues_only_ready_and_selected_models(listed: list[RemoteModel], selection: Selection) -> None:
    changes = reconcile(listed, [], selection, lambda model: False)
    queued = {change.model.id for change in changes if change.state is S.QUEUED}
    assert queued <= {model.id for model in listed if model.status == READY}
    assert all(change.reason for change in changes if change.state is not S.QUEUED)


def test_changed_status_changes_the_reason() -> None:
    remote = RemoteModel("a", "n", "1", None, None, "training", None)
    (first,) = reconcile([remote], [], Selection(("*",), ()), lambda model: False)
    known = row(remote, first.state, first.reason)
    (second,) = reconcile(
        [dataclasses.replace(remote, status="on hold")], [known], Selection(("*",), ()), lambda model: False
    )
    assert second.reason == "the console says 'on hold'"


def test_keep_fetches_the_newest_and_pulled_models() -> None:
    listed = [RemoteModel(i, "n", i, None, None, READY, f"2026-01-0{i}T00:00:00Z") for i in "123"]
    pulled = row(listed[0], S.QUEUED, pulled=True)
    changes = {c.model.id: c for c in reconcile(listed, [pulled], Selection(("*",), (), keep=1), lambda model: True)}
    assert changes["3"].state is S.QUEUED
    assert (changes["2"].state, changes["2"].reason) == (S.IGNORED, "not among the newest 1 of its name ([mirror] keep)")
    assert "1" not in changes, "it is asked for by name, and stays queued"


@pytest.mark.parametrize("missing", ["removed in the console", "on hold in the console", "excluded"])
def test_keep_fetches_nothing_that_is_older_than_what_is_here(missing: str) -> None:
    listed = [RemoteModel(i, "n", i, None, None, READY, f"2026-01-0{i}T00:00:00Z") for i in "12"]
    known = [row(listed[0], S.PRUNED, "why", 70), row(listed[1], S.PUBLISHED, None, 70)]
    if missing == "removed in the console":
        listed = listed[:1]
    elif missing == "on hold in the console":
        listed[1] = dataclasses.replace(listed[1], status="on hold")
    selection = Selection(("*",), ("2",) if missing == "excluded" else (), keep=1)
    changes = [change.model.id for change in reconcile(listed, known, selection, lambda model: True)]
    assert changes == ["2"], "the older one would be removed at once"


def test_pruned_models_return_only_if_they_would_stay() -> None:
    listed = [RemoteModel(i, "n", i, None, None, READY, f"2026-01-0{i}T00:00:00Z") for i in "12"]
    known = [row(listed[0], S.PRUNED, "why", 70), row(listed[1], S.PUBLISHED, None, 70)]
    assert reconcile(listed, known, Selection(("*",), (), keep=1), lambda model: True) == []
    assert reconcile(listed, known, Selection(("*",), (), max_size=100), lambda model: True) == []
    (change,) = reconcile(listed, known, Selection(("*",), (), keep=2, max_size=140), lambda model: True)
    assert (change.model.id, change.state) == ("1", S.QUEUED)


def test_published_models_show_remarks_of_console_and_configuration() -> None:
    remote = RemoteModel("a", "n", "1", None, None, READY, None)
    known = [row(remote, S.PUBLISHED)]
    said = {}
    for status, include in ((READY, "*"), ("training", "*"), (READY, "other")):
        changes = reconcile(
            [dataclasses.replace(remote, status=status)], known, Selection((include,), ()), lambda model: True
        )
        said[status, include] = changes[0].reason if changes else None
    assert said == {
        (READY, "*"): None,
        ("training", "*"): "the console says 'training' now; its copy stays",
        (READY, "other"): "left out by [mirror] include and exclude now; its copy stays",
    }
    (gone,) = reconcile([], known, Selection(("*",), ()), lambda model: True)
    assert (gone.state, gone.reason) == (S.PUBLISHED, "the console no longer lists it; its copy stays")


def test_published_models_are_queued_once_for_newly_selected_files() -> None:
    remote = RemoteModel("a", "n", "1", None, None, READY, None)
    known = row(remote, S.PUBLISHED, left_out=("c.txt",))
    assert reconcile([remote], [known], Selection(("*",), (), files=("*.bin",)), lambda model: True) == []
    selection = Selection(("*",), (), files=("*.txt",))
    changes = reconcile([remote], [known], selection, lambda model: True)
    assert [change.state for change in changes] == [S.QUEUED]
    queued = apply([known], changes)
    for listed in [remote], [dataclasses.replace(remote, status="training")], []:
        assert {c.state for c in reconcile(listed, queued, selection, lambda model: True)} <= {S.QUEUED}
    assert [c.state for c in reconcile([], queued, selection, lambda model: False)] == [S.GONE], "but its folder was removed"
