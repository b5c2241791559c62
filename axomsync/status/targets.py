"""Resolves TARGET: the path or name of a dropped file, or the name, version or id of a model. Reads the ledger.

Failures handled: a target that names nothing known (`Rejected`, with the accepted forms).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from axomsync.core.errors import Rejected
from axomsync.core.paths import ARCHIVE, REJECTS
from axomsync.core.records import Model, ModelState, Upload, UploadState
from axomsync.core.text import printable
from axomsync.ledger import Reader
from axomsync.mirror.layout import is_named


@dataclass(frozen=True)
class Targets:
    """All rows that one target names, such as files of one name in several folders."""

    uploads: tuple[Upload, ...]
    models: tuple[Model, ...]

    @property
    def rows(self) -> tuple[Upload | Model, ...]:
        """Uploads and models in one tuple."""
        return (*self.uploads, *self.models)

    def only(self, wanted: Callable[[Upload | Model], bool]) -> "Targets":
        """Keep the rows for which `wanted` is true."""
        return Targets(tuple(filter(wanted, self.uploads)), tuple(filter(wanted, self.models)))


def name_of(row: Upload | Model) -> str:
    """Name of a row for messages: the path below the drop folder, or `name/version`."""
    return printable(os.fsdecode(row.path) if isinstance(row, Upload) else f"{row.name}/{row.version}")


def may_be_retried(row: Upload | Model) -> bool:
    """True when the row waits for another try or is parked."""
    return row.next_attempt is not None or row.state in _PARKED


def parked(ledger: Reader) -> list[str]:
    """Names of the files and models that are tried again only when a person asks for it."""
    rows: tuple[Upload | Model, ...] = (*ledger.uploads_in_drop(), *ledger.models())
    return [name_of(row) for row in rows if row.state in _PARKED and row.next_attempt is None]


def is_under_way(row: Upload | Model) -> bool:
    """True when the row's state says that it is carried; its thread or its place in a queue is known to the agent alone."""
    return row.state in _UNDER_WAY


_PARKED = frozenset({UploadState.FAILED, UploadState.HELD, ModelState.BLOCKED, ModelState.FAILED})
_UNDER_WAY = frozenset({UploadState.CHECKING, UploadState.UPLOADING, ModelState.DOWNLOADING, ModelState.VERIFYING})


def find(ledger: Reader, target: str, drop: Path, mirror: Path) -> Targets:
    """Find the rows that `target` names; `drop` and `mirror` are the two folders. Raises `Rejected` when there are none.

    A file is named by its path (in the drop folder, archive or rejects; absolute or below the drop folder), its name, its
    `upload_id` or its key; a model by `name`, `name/version`, id or a path in the mirror. Each may also be spelled as the
    program prints it. A name without its folder counts only when nothing has it as its path. Of several uploads of one
    path the newest counts.
    """
    below_drop, below_mirror = below(target, drop), list(_ways_below(target, mirror))
    uploads = {upload.path: upload for upload in _uploads(ledger, target, below_drop or target)}
    models = [model for model in ledger.models() if _names(model, target, below_mirror, str(mirror))]
    if not (uploads or models):
        for folder, kind in ((drop, "drop folder"), (mirror, "mirror folder")):
            if os.path.isabs(target) and os.path.realpath(target) == os.path.realpath(folder):
                raise Rejected(f"{printable(target)}: it is the {kind} itself; name something in it")
        if below_mirror:
            raise Rejected(
                f"{printable(target)}: it belongs to no published model; `axomsync models` lists the models and their paths"
            )
        if os.path.isabs(target) and below_drop is None and os.path.lexists(target):
            raise Rejected(
                f"{printable(target)}: it lies outside of the drop folder {printable(str(drop))}; move it there, or "
                "`axomsync push` it"
            )
        raise Rejected(
            f"{printable(target)}: neither a file of the drop folder nor a model; `axomsync uploads` and `axomsync models` "
            "list the known ones"
        )
    return Targets(tuple(uploads.values()), tuple(models))


def _uploads(ledger: Reader, target: str, asked: str) -> list[Upload]:
    """The uploads by the first reading of `target` that names any; `asked` is that target below the drop folder."""
    paths = {os.fsencode(asked).removeprefix(area) for area in (b"", ARCHIVE + b"/", REJECTS + b"/")}
    printed = {os.fsdecode(path) for path in paths}
    readings: tuple[Callable[[Upload], bool], ...] = (
        lambda upload: upload.path in paths or target in (upload.upload_id, upload.key),
        lambda upload: name_of(upload) in printed,
        lambda upload: os.fsdecode(os.path.basename(upload.path)) == target,
        lambda upload: os.path.basename(name_of(upload)) == target,
    )
    uploads = ledger.uploads()
    return next((found for reading in readings if (found := list(filter(reading, uploads)))), [])


def _names(model: Model, target: str, below_mirror: Iterable[str], mirror: str) -> bool:
    if is_named(model, target):
        return True
    folder = below(model.path, Path(mirror)) if model.path else f"{model.name}/{model.version}"
    return folder is not None and any(f"{way}/".startswith(f"{folder}/") for way in below_mirror)


def below(path: str, folder: Path) -> str | None:
    """The part of `path` below `folder`, with its own links as they are; None for a relative path and for one elsewhere."""
    return next(_ways_below(path, folder), None)


def _ways_below(path: str, folder: Path) -> Iterator[str]:
    """The parts of `path` below `folder`: as it is spelled, and where its links lead, such as `current` to a version."""
    if not os.path.isabs(path):
        return
    for root in (os.path.abspath(folder), os.path.realpath(folder)):
        for spelled in (os.path.normpath(path), os.path.realpath(path)):
            if spelled.startswith(f"{root}{os.sep}"):
                yield spelled[len(root) + 1 :]
