"""The meaning of the console's list of models, pure: which models are wanted, which wait, which are left out.

An empty, short, reordered or repetitive list removes nothing: a missing model that was not yet published is `gone` until it
is listed again and keeps its received bytes; a published one stays published. A published model that lacks files selected
now is queued for them, and continues whatever the console says meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from axomsync.core.records import Model, ModelState, RemoteModel
from axomsync.core.states import DUE_MODELS, NOT_BEGUN_MODELS, UNWANTED_MODELS
from axomsync.mirror.layout import age, is_called, matches, selected
from axomsync.mirror.retention import is_within

READY = "ready"
_UNDECIDED = NOT_BEGUN_MODELS | DUE_MODELS


@dataclass(frozen=True)
class Selection:
    """The models that `[mirror]` selects, and its limits."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    keep: int = 0  # newest versions of a name; 0 is all
    max_size: int | None = None  # bytes
    files: tuple[str, ...] = ()  # of each model


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
    """List the rows that must change to agree with the list; a second run on the result changes nothing.

    `is_published` tells whether the folder of a row exists. The ids in `busy` are in work and their rows are moved by that
    work: they are left for the next run.
    """
    everyone = list(known)
    rows = {row.id: row for row in everyone if row.id not in busy}
    models: dict[str, RemoteModel] = {}
    for model in listed:
        models.setdefault(model.id, model)  # if an id is listed twice, the newest counts
    judge = _Judge(selection, models.values(), everyone, is_published)
    changes = []
    for model in models.values():
        if model.id in busy:
            continue
        row = rows.pop(model.id, None)
        state, reason = judge.state(model, row)
        if row is None or (state, reason) != (row.state, row.reason) or _labels(model) != _labels(_remote(row)):
            changes.append(Change(model, state, reason))
    for row in rows.values():
        state, reason = judge.state_of_missing(row)
        if (state, reason) != (row.state, row.reason):
            changes.append(Change(_remote(row), state, reason))
    return changes


class _Judge:
    """Decides the state of each model, knowing all others."""

    def __init__(
        self,
        selection: Selection,
        listed: Iterable[RemoteModel],
        known: Iterable[Model],
        is_published: Callable[[Model], bool],
    ) -> None:
        self._selection, self._is_published = selection, is_published
        here = [row for row in known if row.state is ModelState.PUBLISHED]
        self._there = {row.id for row in here if is_published(row)}
        self._published_bytes = sum(row.bytes_total or 0 for row in here if row.id in self._there)
        by_id = {model.id: model for model in listed}
        wanted = {model.id: model for model in by_id.values() if model.status == READY and self._selects(model)}
        # What is here counts for retention, listed or not: no older version may be fetched that it would remove at once.
        kept = {row.id: by_id.get(row.id) or _remote(row) for row in here if row.id in self._there}
        self._newest = _newest((kept | wanted).values(), selection.keep)

    def state(self, model: RemoteModel, row: Model | None) -> tuple[ModelState, str | None]:
        if row is not None and row.state is ModelState.PUBLISHED and row.id in self._there:
            remark = self._remark(model, row)
            if remark == _odd(row) and any(matches((rel,), self._selection.files) for rel in row.left_out):
                return ModelState.QUEUED, "[mirror] files selects more of its files now; the published ones stay"
            return ModelState.PUBLISHED, remark
        if row is not None and self._is_extended(row):
            return row.state, row.reason
        if row is not None and row.state not in _UNDECIDED and row.state is not ModelState.PUBLISHED:
            return row.state, row.reason
        was_removed = row is not None and row.state is ModelState.PUBLISHED
        # A removed folder also cancels the earlier pull of its model.
        pulled = row is not None and row.pulled and not was_removed and row.state not in UNWANTED_MODELS
        if not pulled and not self._selects(model):
            return ModelState.IGNORED, "left out by [mirror] include and exclude"
        if model.status != READY:
            return ModelState.WAITING, f"the console says {model.status[:60]!r}"
        if row is not None and row.state is ModelState.PRUNED and not self._would_stay(row):
            return row.state, row.reason
        if not pulled and model.id not in self._newest:
            keep = self._selection.keep
            return ModelState.IGNORED, f"not among the newest {keep} of its name ([mirror] keep)"
        if was_removed:
            return ModelState.QUEUED, "its folder was removed; it is fetched again"
        if row is None or row.state in NOT_BEGUN_MODELS:
            return ModelState.QUEUED, None
        return row.state, row.reason

    def state_of_missing(self, row: Model) -> tuple[ModelState, str | None]:
        """The state of a model that the console does not list."""
        if row.state is ModelState.PUBLISHED and row.id in self._there:
            return row.state, "the console no longer lists it; its copy stays"
        if self._is_extended(row):
            return row.state, row.reason
        if row.state is ModelState.PUBLISHED or row.state in _UNDECIDED - {ModelState.PRUNED}:
            return ModelState.GONE, "the console no longer lists it"
        return row.state, row.reason

    def _selects(self, model: RemoteModel) -> bool:
        return selected(model, self._selection.include, self._selection.exclude)

    def _remark(self, model: RemoteModel, row: Model) -> str | None:
        """The state that a published model would get today, as a remark."""
        if model.status != READY:
            return f"the console says {model.status[:60]!r} now; its copy stays"
        if row.path is not None and not is_called(row.path, model):
            return f"its folder is still {row.path}: it is renamed once no process reads it"
        if not row.pulled and not self._selects(model):
            return "left out by [mirror] include and exclude now; its copy stays"
        return _odd(row)

    def _is_extended(self, row: Model) -> bool:
        """Check that the model is published and only lacks files."""
        return row.state in DUE_MODELS and row.path is not None and self._is_published(row)

    def _would_stay(self, row: Model) -> bool:
        """Check that retention would keep a removed version now."""
        fits = is_within(row.bytes_total or 0, self._published_bytes, self._selection.max_size)
        return fits and row.id in self._newest


def _newest(models: Iterable[RemoteModel], keep: int) -> set[str]:
    names: dict[str, list[RemoteModel]] = defaultdict(list)
    for model in models:
        names[model.name].append(model)
    newest = set()
    for versions in names.values():
        versions.sort(key=lambda model: age(model.created_at, model.id), reverse=True)
        newest |= {model.id for model in versions[: keep or None]}
    return newest


def _odd(row: Model) -> str | None:
    return "; ".join(row.remarks) or None


def _remote(row: Model) -> RemoteModel:
    return RemoteModel(row.id, row.name, row.version, row.params, row.base_model_id, row.remote_status, row.created_at)


def _labels(model: RemoteModel) -> tuple[object, ...]:
    return (model.name, model.version, model.params, model.base_model_id, model.status, model.created_at)
