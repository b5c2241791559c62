"""What the console's list of models means here, pure: which are wanted, which must wait, which are out of sight.

A list that is empty, shrunken, reordered or repeats itself removes nothing: whoever is missing and was not yet published
is `gone` until it is listed again, what was received of it is kept, and what is published stays published.
"""

from collections.abc import Callable, Iterable
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
    listed: Iterable[RemoteModel], known: Iterable[Model], selection: Selection, is_published: Callable[[Model], bool]
) -> list[Change]:
    """The rows that must change so that the ledger agrees with the list; running it again on the result changes nothing.

    `is_published` says whether the folder that a row names is really there.
    """
    rows = {row.id: row for row in known}
    changes = []
    for model in listed:
        row = rows.pop(model.id, None)
        state, reason = _state(model, row, selection, is_published)
        if row is None or state != row.state or _labels(model) != _labels(_remote(row)):
            changes.append(Change(model, state, reason if row is None or state != row.state else row.reason))
    for row in rows.values():
        if row.state in _UNDECIDED - {ModelState.GONE}:
            changes.append(Change(_remote(row), ModelState.GONE, "the console no longer lists it"))
    return changes


def _state(
    model: RemoteModel, row: Model | None, selection: Selection, is_published: Callable[[Model], bool]
) -> tuple[ModelState, str | None]:
    if row is not None and row.state is ModelState.PUBLISHED:
        if is_published(row) or model.status != READY:
            return ModelState.PUBLISHED, row.reason
        return ModelState.QUEUED, "its folder was removed; fetched again"
    if row is not None and row.state not in _UNDECIDED:
        return row.state, row.reason
    if not selected(model, selection.include, selection.exclude):
        return ModelState.IGNORED, "left out by [mirror] include and exclude"
    if model.status != READY:
        return ModelState.WAITING, f"the console says {model.status[:60]!r}"
    if row is None or row.state in _NOT_BEGUN:
        return ModelState.QUEUED, None
    return row.state, row.reason


def _remote(row: Model) -> RemoteModel:
    return RemoteModel(row.id, row.name, row.version, row.params, row.base_model_id, row.remote_status, row.created_at)


def _labels(model: RemoteModel) -> tuple[object, ...]:
    return (model.name, model.version, model.params, model.base_model_id, model.status, model.created_at)
