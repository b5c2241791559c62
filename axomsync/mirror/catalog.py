"""What the console's list of models means here, pure: which are wanted, which must wait, which are out of sight.

A list that is empty, shrunken, reordered or repeats itself removes nothing: whoever is missing and was not yet published
is `gone` until it is listed again, what was received of it is kept, and what is published stays published.
"""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from axomsync.mirror.layout import selected
from axomsync.records import Model, ModelState, RemoteModel

READY = "ready"
_NOT_BEGUN = frozenset({ModelState.WAITING, ModelState.IGNORED, ModelState.GONE})
_UNDECIDED = _NOT_BEGUN | {ModelState.QUEUED, ModelState.BLOCKED, ModelState.FAILED}


@dataclass(frozen=True)
class Selection:
    """Which models are wanted: the globs of `[mirror]`."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A model whose row must change: its labels, its state, or both."""

    model: RemoteModel
    state: ModelState
    reason: str | None


def reconcile(
    listed: Iterable[RemoteModel],
    known: Iterable[Model],
    selection: Selection,
    is_published: Callable[[Model], bool],
    busy: Container[str] = (),
) -> list[Change]:
    """The rows that must change so that the ledger agrees with the list; running it again on the result changes nothing.

    `is_published` says whether the folder that a row names is really there. The ids in `busy` are being worked on, and
    whoever does that moves their rows: they are left for the next time.
    """
    rows = {row.id: row for row in known if row.id not in busy}
    models: dict[str, RemoteModel] = {}
    for model in listed:
        if model.id not in busy:
            models.setdefault(model.id, model)  # of an id that is listed twice, the newest counts
    changes = []
    for model in models.values():
        row = rows.pop(model.id, None)
        state, reason = _state(model, row, selection, is_published)
        if row is None or (state, reason) != (row.state, row.reason) or _labels(model) != _labels(_remote(row)):
            changes.append(Change(model, state, reason))
    for row in rows.values():
        if row.state in _UNDECIDED - {ModelState.GONE}:
            changes.append(Change(_remote(row), ModelState.GONE, "the console no longer lists it"))
    return changes


def _state(
    model: RemoteModel, row: Model | None, selection: Selection, is_published: Callable[[Model], bool]
) -> tuple[ModelState, str | None]:
    was_removed = row is not None and row.state is ModelState.PUBLISHED and not is_published(row)
    if row is not None and row.state not in _UNDECIDED and not was_removed:
        return row.state, row.reason
    if not selected(model, selection.include, selection.exclude):
        return ModelState.IGNORED, "left out by [mirror] include and exclude"
    if model.status != READY:
        return ModelState.WAITING, f"the console says {model.status[:60]!r}"
    if was_removed:
        return ModelState.QUEUED, "its folder was removed; fetched again"
    if row is None or row.state in _NOT_BEGUN:
        return ModelState.QUEUED, None
    return row.state, row.reason


def _remote(row: Model) -> RemoteModel:
    return RemoteModel(row.id, row.name, row.version, row.params, row.base_model_id, row.remote_status, row.created_at)


def _labels(model: RemoteModel) -> tuple[object, ...]:
    return (model.name, model.version, model.params, model.base_model_id, model.status, model.created_at)
