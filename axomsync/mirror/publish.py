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
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from axomsync.errors import Rejected, local_fault, printable
from axomsync.mirror.integrity import Proof
from axomsync.mirror.layout import CURRENT, RECORD, folder_names
from axomsync.records import Model, ModelFile, RemoteModel

log = logging.getLogger(__name__)

INTERNAL = ".axomsync"


class Place:
    """The mirror folder: staging below `.axomsync`, published models beside it. `agent` tells several agents apart."""

    def __init__(self, root: Path, agent: str) -> None:
        self.root = root
        self._internal = root / INTERNAL / agent

    def staging(self, model_id: str) -> Path:
        """Where a model's files are collected; on the filesystem that they will stay on."""
        name, _ = folder_names(RemoteModel(model_id, model_id, "-", None, None, "", None), clash=False)
        return self._internal / name

    def prepare(self, model_id: str, rels: Mapping[str, int]) -> Path:
        """The staging folder with the sub-folders that `rels` need. Raises `LocalFault`, or `Rejected` for a symlink."""
        staging = self.staging(model_id)
        try:
            for folder in {staging / os.path.dirname(rel) for rel in rels} | {staging}:
                _make_folders(folder, self.root)
                if os.path.realpath(folder) != os.path.join(os.path.realpath(self.root), folder.relative_to(self.root)):
                    raise Rejected(f"{folder} is reached through a symlink; remove the symlink")
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
        try:
            record = json.loads((folder / RECORD).read_bytes())
            return str(record["model_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def publish(self, model: Model, files: Mapping[str, ModelFile], proofs: Mapping[str, Proof], now: float) -> Path:
        """Move a complete staging folder to its final place and return that."""
        staging, target = self.staging(model.id), self.find(model)
        try:
            _remove_strangers(staging, set(files))
            _write_record(staging / RECORD, record_of(model, files, proofs, now))
            _make_readable_and_sync(staging)
            _make_folders(target.parent, self.root)
            os.rename(staging, target)
            _sync_folder(target.parent)
            _sync_folder(self.root)
        except OSError as error:
            raise local_fault(error) from None
        return target

    def point_current(self, newest: Path) -> None:
        """Make `current` beside `newest` lead to it, by one rename."""
        link = newest.parent / CURRENT
        if os.path.lexists(link) and not link.is_symlink():
            log.warning("%s is not a symlink of ours; it is left alone and does not lead to %s", link, newest.name)
            return
        with suppress(OSError):
            if os.readlink(link) == newest.name:
                return
        try:
            _make_folders(self._internal, self.root)
            fresh = self._internal / f"{CURRENT}.new"
            fresh.unlink(missing_ok=True)
            os.symlink(newest.name, fresh)
            os.rename(fresh, link)
            _sync_folder(link.parent)
        except OSError as error:
            raise local_fault(error, str(link)) from None

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


def _write_record(path: Path, record: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.write("\n")


def _remove_strangers(staging: Path, wanted: set[str]) -> None:
    """Files of an earlier manifest must not be published."""
    for folder, _, names in os.walk(staging, topdown=False):
        for name in names:
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
    """`mkdir -p` that gives new folders 0755 whatever the umask is, and never makes the mirror folder itself."""
    if folder == root or folder.is_dir():
        return
    _make_folders(folder.parent, root)
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest(models: list[Model]) -> Model:
    """The model that `current` shall lead to: the one that was created last; the id decides between equals."""
    return max(models, key=lambda model: (model.created_at or "", model.id))


def shown(model: Model) -> str:
    """A model's labels on one line, for logs and tables."""
    return printable(f"{model.name}/{model.version}")
