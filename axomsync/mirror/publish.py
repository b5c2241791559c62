"""From staging to the place where servers read: all at once, or not at all.

A published folder appears by one rename, after every byte of it was synced; `current` moves by one rename too. What is
there already is never written into. Failures handled: a crash between any two steps (the next start finds the folder by
its record and goes on), a folder that belongs to another model or to nobody (a name of its own is taken), a symlink where
the model's folder should be (`Rejected`), a `current` that somebody else made (left alone, told), a full disk.
"""

import json
import logging
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from axomsync.errors import LocalFault, Rejected, local_fault, printable
from axomsync.mirror.integrity import Proof
from axomsync.mirror.layout import CURRENT, RECORD, folder_names
from axomsync.records import DurableSegment, Model, ModelFile, RemoteModel

log = logging.getLogger(__name__)

INTERNAL = ".axomsync"


@dataclass(frozen=True)
class Record:
    """What `.axomsync.json` in a published folder says."""

    model: RemoteModel
    files: tuple[ModelFile, ...]


class Place:
    """The mirror folder: staging below `.axomsync`, published models beside it. `agent` tells several agents apart."""

    def __init__(self, root: Path, agent: str) -> None:
        self.root = root
        self._internal = root / INTERNAL / agent

    def staging(self, model_id: str) -> Path:
        """Where a model's files are collected; on the filesystem that they will stay on."""
        name, _ = folder_names(RemoteModel(model_id, model_id, "-", None, None, "", None), clash=False)
        return self._internal / name

    def check(self, published: list[Model]) -> None:
        """Raise `LocalFault` unless the mirror folder is there, with the filesystem that it had when these were published.

        An empty mount point must not look as if somebody had removed all models: they would be fetched onto another disk.
        """
        self.room(0)
        internal = self.root / INTERNAL
        if published and not internal.exists() and not any(os.path.lexists(model.path or "") for model in published):
            raise LocalFault(
                f"{self.root}: none of the {len(published)} published models is there any more; mount its filesystem, "
                f"or, to have all of them fetched again, create {internal}"
            )

    def prepare(self, model_id: str, rels: Mapping[str, int]) -> Path:
        """The staging folder with the sub-folders that `rels` need. Raises `LocalFault`, or `Rejected` for a symlink."""
        self.room(0)
        staging = self.staging(model_id)
        try:
            for folder in {staging / os.path.dirname(rel) for rel in rels} | {staging}:
                _make_folders(folder, self.root)
        except OSError as error:
            raise local_fault(error) from None
        return staging

    def room(self, reserve: int) -> int:
        """Bytes that mirroring may still use. Raises `LocalFault` when the folder is missing."""
        try:
            status = os.statvfs(self.root)
        except OSError as error:
            raise local_fault(error, str(self.root)) from None
        return status.f_bavail * status.f_frsize - reserve

    def find(self, model: Model) -> Path:
        """The folder where `model` is published, or where it may be.

        That is `<name>/<version>`, or a name of its own when that belongs to another model. Raises `Rejected`.
        """
        remote = RemoteModel(model.id, model.name, model.version, None, None, "", None)
        for clash in (False, True):
            name, version = folder_names(remote, clash=clash)
            parent, folder = self.root / name, self.root / name / version
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                raise Rejected(f"{parent} is not a plain folder; move it away so that the model can be published there")
            if not os.path.lexists(folder) or self.owner(folder) == model.id:
                return folder
        raise Rejected(f"{folder} belongs to something else; move it away so that the model can be published there")

    @staticmethod
    def owner(folder: Path) -> str | None:
        """Id of the model that is published in `folder`, None when its record can't be read."""
        record = read_record(folder)
        return record.model.id if record else None

    def publish(self, model: Model, files: Mapping[str, ModelFile], proofs: Mapping[str, Proof], now: float) -> Path:
        """Move a complete staging folder to its final place, make `current` follow, and return the place."""
        staging, target = self.staging(model.id), self.find(model)
        try:
            _remove_strangers(staging, set(files))
            _write_record(staging / RECORD, record_of(model, files, proofs, now))
            _make_readable_and_sync(staging)
            _make_folders(target.parent, self.root)
            self._rename(staging, target, model.id)
            _sync_folder(target.parent)
            _sync_folder(self.root)
        except OSError as error:
            raise local_fault(error) from None
        self.point_current(target.parent)
        return target

    def adopt(self, model: Model, folder: Path) -> tuple[ModelFile, ...]:
        """Take over a folder in which `model` was published before the ledger knew, and return its files.

        Raises `Rejected` when a file of it is missing or has another size.
        """
        record = read_record(folder)
        files = record.files if record else ()
        for file in files:
            with suppress(OSError):
                if (folder / file.rel).stat().st_size == file.size:
                    continue
            raise Rejected(f"{folder} is not whole, {printable(file.rel)} was changed or removed; remove the folder")
        self.point_current(folder.parent)
        self.discard_staging(model.id)
        return files

    def point_current(self, parent: Path) -> None:
        """Make `current` in the folder of a name lead to the version that was created last, by one rename.

        What is on disk decides, not a ledger: that one may be new, or that of another agent.
        """
        try:
            versions = {entry.name: read_record(Path(entry.path)) for entry in os.scandir(parent) if _is_folder(entry)}
        except OSError as error:
            raise local_fault(error, str(parent)) from None
        ours = {name: record.model for name, record in versions.items() if record and _belongs(record.model, parent, name)}
        link, newest = parent / CURRENT, max(ours, key=lambda name: _age(ours[name]), default=None)
        if newest is None:
            return
        if os.path.lexists(link) and not link.is_symlink():
            log.warning("%s is not a symlink of ours; it is left alone and does not lead to %s", link, newest)
            return
        with suppress(OSError):
            if os.readlink(link) == newest:
                return
        try:
            _make_folders(self._internal, self.root)
            fresh = self._internal / f"{CURRENT}.new"
            fresh.unlink(missing_ok=True)
            os.symlink(newest, fresh)
            os.rename(fresh, link)
            _sync_folder(parent)
        except OSError as error:
            raise local_fault(error, str(link)) from None

    def _rename(self, staging: Path, target: Path, model_id: str) -> None:
        try:
            os.rename(staging, target)
        except OSError:
            if self.owner(target) != model_id:
                raise
            self.discard_staging(model_id)  # another agent was faster

    def discard_staging(self, model_id: str) -> None:
        """What was collected for a model is not needed any more."""
        shutil.rmtree(self.staging(model_id), ignore_errors=True)


def record_of(model: Model, files: Mapping[str, ModelFile], proofs: Mapping[str, Proof], now: float) -> dict[str, Any]:
    """The content of `.axomsync.json`: enough to rebuild the ledger without fetching a byte."""
    return {
        "format": 1,
        "model_id": model.id,
        "name": model.name,
        "version": model.version,
        "params": model.params,
        "base_model_id": model.base_model_id,
        "created_at": model.created_at,
        "published_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "files": [
            {
                "rel": rel,
                "size": file.size,
                "etag": file.etag,
                "proof": str(proofs[rel]),
                "blake3": [[s.start, s.end, s.blake3] for s in file.segments],
            }
            for rel, file in sorted(files.items())
        ],
    }


def read_record(folder: Path) -> Record | None:
    """The record of a published folder, None when there is none or it is not one of ours."""
    try:
        document = json.loads((folder / RECORD).read_bytes())
        model = RemoteModel(
            str(document["model_id"]), str(document["name"]), str(document["version"]),
            document["params"], document["base_model_id"], "ready", document["created_at"],
        )  # fmt: skip
        files = tuple(
            ModelFile(
                str(file["rel"]), int(file["size"]), file["etag"],
                tuple(DurableSegment(start, end, digest) for start, end, digest in file["blake3"]),
            )
            for file in document["files"]
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Record(model, files)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.write("\n")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _belongs(model: RemoteModel, parent: Path, name: str) -> bool:
    """Whether that is where this model is published; a copy that somebody made of the folder is not."""
    with suppress(Rejected):
        return (parent.name, name) in (folder_names(model, clash=False), folder_names(model, clash=True))
    return False


def _age(model: RemoteModel) -> tuple[float, str]:
    """Grows with the time of creation; the id decides between equals."""
    try:
        created = datetime.fromisoformat(model.created_at or "")
    except (ValueError, TypeError):
        return 0.0, model.id
    return (created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp(), model.id


def _remove_strangers(staging: Path, wanted: set[str]) -> None:
    """Files of an earlier manifest must not be published."""
    for folder, folders, names in os.walk(staging, topdown=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            rel = os.path.relpath(os.path.join(folder, name), staging)
            if rel not in wanted:
                os.unlink(os.path.join(folder, name))
        if folder != str(staging) and not os.listdir(folder):
            os.rmdir(folder)


def _make_readable_and_sync(folder: Path) -> None:
    """Give files 0644 and folders 0755 whatever the umask is, and sync both."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        os.chmod(parent, 0o755)  # noqa: S103  # servers run as other users
        _sync_folder(Path(parent))


def _make_folders(folder: Path, root: Path) -> None:
    """`mkdir -p` that gives new folders 0755 whatever the umask is, makes no mirror folder and follows no symlink in it."""
    if folder == root:
        return
    _make_folders(folder.parent, root)
    try:
        kind = folder.lstat().st_mode
    except FileNotFoundError:
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o755)
        return
    if not stat.S_ISDIR(kind):
        raise Rejected(f"{folder} is a symlink or a file where a folder must be; move it away")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(model: Model) -> str:
    """A model's labels on one line, for logs and tables."""
    return printable(f"{model.name}/{model.version}")
