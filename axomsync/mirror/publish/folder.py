"""Publication: moves a model from staging to the place where servers read, all at once or not at all.

A published folder appears by one rename, after every byte of it was synced, and disappears by one. Existing files are never
written into; files that are selected later join it, each by a rename.

Failures handled: a crash between any two steps (the next start finds the folder by its record and continues), a folder that
belongs to another model or to none (the model gets another name, or `Rejected` if that is taken too), a symlink in the place
of the model's folder (`Rejected`), a folder that a process opens while it is removed or renamed (put back), a removal that
fails (the model and its place in the views stay), a link or a FIFO that another user put among the collected files (removed,
never followed), a record that can't be read now (`LocalFault`: the folder counts as present), a name's folder that can't be
listed (told, the other names go on), a full disk.
"""

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from axomsync.config import View
from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.filesystems import is_folder, sync_folder
from axomsync.core.locks import held
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import INTERNAL
from axomsync.core.records import Model, ModelFile, Proof, RemoteModel
from axomsync.core.text import printable
from axomsync.core.windows import Promotes
from axomsync.mirror.layout import folder_names
from axomsync.mirror.promotion import Place, wanted
from axomsync.mirror.publish import current
from axomsync.mirror.publish.access import FOR_EVERYBODY, Access
from axomsync.mirror.publish.readers import reader_of
from axomsync.mirror.publish.record import Record, read_record, record_of, write_record
from axomsync.mirror.publish.staging import (
    Staging,
    free_bytes,
    give_access_and_sync,
    kind_of,
    make_folders,
    remove_strangers,
)
from axomsync.mirror.publish.views import Views


class MirrorFolder:
    """The mirror folder: staging below `.axomsync`, published models beside it. `agent` distinguishes several agents.

    `promotes` says when `current` moves; it may change at any time.
    """

    def __init__(
        self,
        root: Path,
        agent: str,
        promotes: Promotes = "now",
        *,
        views: Sequence[View] = (),
        access: Access = FOR_EVERYBODY,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.root, self.promotes, self.views, self._now = root, promotes, Views(root, views), now
        self.access, self.staging = access, Staging(root, agent, access)
        self._changing = threading.Lock()

    def alone(self, step: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock for repairing or extending published models; `step` is called while this thread waits for it."""
        return held(self._changing, step)

    def check(self, published: list[Model]) -> None:
        """Check that the mirror folder exists, and is on the filesystem of the `published` models; and that files can be
        given to the group. Raises `LocalFault`.

        An empty mount point must not look as if all models had been removed: they would be fetched onto another disk.
        """
        free_bytes(self.root)
        _ = self.access.gid
        internal = self.root / INTERNAL
        if published and not is_folder(internal) and not any(is_folder(model.path) for model in published):
            raise LocalFault(
                f"{self.root}: none of the {len(published)} published models is there any more; mount its filesystem, "
                f"or, to have all of them fetched again, create {internal}"
            )

    def holds(self, model: Model) -> bool:
        """Whether the ledger's path of a model lies in this folder; not after `[mirror] folder` was changed."""
        return model.path is not None and Path(model.path).parent.parent == self.root

    def room(self, reserve: int) -> int:
        """Bytes that mirroring may still use. Raises `LocalFault` if the folder is missing."""
        return free_bytes(self.root) - reserve

    def find(self, model: Model) -> Path:
        """Find the folder where `model` is published or can be published.

        It is `<name>/<version>`, or another name if that belongs to another model. Raises `Rejected`.
        """
        remote = RemoteModel(model.id, model.name, model.version, None, None, "", None)
        for clash in (False, True):
            name, version = folder_names(remote, clash=clash)
            parent, folder = self.root / name, self.root / name / version
            if kind_of(parent) not in (None, stat.S_IFDIR):
                raise Rejected(f"{parent} is not a plain folder; move it away so that the model can be published there")
            if kind_of(folder) is None or self.owner(folder) == model.id:
                return folder
        raise Rejected(f"{folder} belongs to something else; move it away so that the model can be published there")

    @staticmethod
    def owner(folder: Path) -> str | None:
        """Id of the model that is published in `folder`; None if it has no record. Raises `LocalFault`."""
        record = read_record(folder)
        return record.model.id if record else None

    def make_ready(self, record: Record, staging: Path, *, extends: bool) -> None:
        """Make a staging folder what it will be when it is published. Raises `LocalFault`.

        `extends`: its files join those that are published.
        """
        try:
            remove_strangers(staging, {file.rel for file in record.files})
            if not extends:
                write_record(staging, record, self.access)
            give_access_and_sync(staging, self.access)
        except OSError as error:
            raise local_fault(error) from None

    def publish(self, record: Record, staging: Path, target: Path, judge: Callable[[], None]) -> None:
        """Move a folder that is made ready to its final place, and update `current`. Raises `LocalFault`.

        `judge` is called immediately before the folder appears, and may raise.
        """
        judge()
        try:
            make_folders(target.parent, self.root, self.access)
            self._rename(staging, target, record.model.id)
            sync_folder(target.parent)
            sync_folder(self.root)
        except OSError as error:
            raise local_fault(error) from None
        self.point_current(target.parent)

    def extend(self, folder: Path, record: Record, judge: Callable[[], None]) -> None:
        """Move the complete files from staging, which is made ready, to the published ones. `record` describes all of them.

        `judge` is called immediately before, and may raise. Raises `LocalFault`. A process that reads meanwhile finds each
        file whole or not at all, and large files before the small ones that describe them. After a crash, another call moves
        the rest.
        """
        staging = self.staging.path(record.model.id)
        largest_first = sorted(record.files, key=lambda file: -file.size)
        try:
            more = [file.rel for file in largest_first if (staging / file.rel).is_file()]
        except OSError as error:
            raise local_fault(error) from None
        judge()
        try:
            for rel in more:
                make_folders((folder / rel).parent, self.root, self.access)
                os.rename(staging / rel, folder / rel)
            for parent in {parent for rel in more for parent in (folder / rel).parents if parent.is_relative_to(folder)}:
                sync_folder(parent)
            write_record(folder, record, self.access)
            sync_folder(folder)
        except OSError as error:
            raise local_fault(error) from None
        self.staging.discard(record.model.id)

    def take_back(self, folder: Path, staging: Path, files: Iterable[ModelFile]) -> None:
        """Move those of `files` back to staging that a crash of `extend` left in a published folder without a record.

        Raises `LocalFault`.
        """
        for file in files:
            here, there = folder / file.rel, staging / file.rel
            parents = here.relative_to(folder).parents
            if kind_of(there) is not None or any(kind_of(folder / parent) != stat.S_IFDIR for parent in parents):
                continue
            try:
                if _is_plain(here, file.size):
                    os.rename(here, there)
            except OSError as error:
                raise local_fault(error) from None

    def adopt(self, folder: Path, record: Record) -> None:
        """Take over a folder that was published before this ledger knew its model; `record` has its labels of today.

        Raises `Rejected` if a file of it is missing or has another size, and `LocalFault`.
        """
        if (rel := self.lacks(folder, record)) is not None:
            raise Rejected(f"{folder}: {printable(rel)} was changed or removed; `axomsync verify --repair` fetches it again")
        if read_record(folder) != record:
            try:
                write_record(folder, record, self.access)
            except OSError as error:
                raise local_fault(error) from None
        self.point_current(folder.parent)
        self.staging.discard(record.model.id)

    @staticmethod
    def lacks(folder: Path, record: Record) -> str | None:
        """Find a file of a published model that is missing or has another size, else None. Raises `LocalFault`."""
        for file in record.files:
            try:
                if (folder / file.rel).stat(follow_symlinks=False).st_size == file.size:
                    continue
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise local_fault(error) from None
            return file.rel
        return None

    def follow_labels(self, model: Model) -> tuple[Path, str | None]:
        """Rename the folder of a published model to its name in the console; returns its path, and the reason for a delay.

        Raises `LocalFault`, `Rejected`. After a crash it is done again, or the folder is found in its place.
        """
        old, labels = Path(model.path or ""), RemoteModel(model.id, model.name, model.version, None, None, "", None)
        if old == self.root.joinpath(*folder_names(labels, clash=False)) or not self.holds(model):
            return old, None
        if (new := self.find(model)) == old:
            return old, None
        if not self._changing.acquire(blocking=False):
            return old, "it is being read or mended"
        try:
            record = read_record(old)
            if record is None or record.model.id != model.id or kind_of(new) is not None:
                return old, None
            if (reader := self._rename_unread(old, new)) is not None:
                return old, f"{reader} has it open"
            called = replace(record.model, name=model.name, version=model.version)
            write_record(new, replace(record, model=called), self.access)
            current.finish_move(old, new, self.staging.scratch(), self.choose)
        except OSError as error:
            raise local_fault(error) from None
        finally:
            for parent in {old.parent, new.parent}:
                self.views.follow(parent)
            self._changing.release()
        return new, None

    def _rename_unread(self, old: Path, new: Path) -> str | None:
        """Rename a published folder unless a process has it open; returns that process. Raises `LocalFault`, `OSError`."""
        if (reader := reader_of(old)) is not None:
            return reader
        make_folders(new.parent, self.root, self.access)
        current.prepare_move(old, new, self.staging.scratch())
        self.views.follow(old.parent, without=old.name)
        os.rename(old, new)
        if (reader := reader_of(new)) is not None:  # it opened the folder just now, and will open more of it
            os.rename(new, old)
            current.take_back_move(old, new, self.staging.scratch())
        sync_folder(new.parent)
        sync_folder(old.parent)
        return reader

    def point_current(self, parent: Path) -> None:
        """Point `current` in the folder of a name at its version for servers. Raises `LocalFault`."""
        current.point(parent, self.staging.scratch(), self.choose)
        self.views.follow(parent)

    def choose(self, place: Place) -> str | None:
        """The version that `current` of a name is to lead to now."""
        return wanted(place, self.promotes, self._now())

    def tend_current(self, parent: Path) -> str | None:
        """Make `current` of a name if it is missing or leads nowhere. Raises `LocalFault`.

        Returns a remark if another file has its place, or if only a person may lead it elsewhere.
        """
        if (fault := current.foreign(parent)) is not None or current.leads_somewhere(parent):
            return fault
        self.point_current(parent)
        led = current.leads_to(parent)
        if led is None or current.leads_somewhere(parent):
            return None
        return f"it leads to {printable(led)}, which is not there; `axomsync promote` leads it to another version"

    def published(self) -> Iterator[tuple[Path, Record | LocalFault]]:
        """Yields every folder of a version, with its record or the reason why it can't be read. Raises `LocalFault`.

        The folder of a name that can't be listed is told in the place of its versions.
        """
        for parent in current.parents(self.root):
            try:
                records = current.records(parent)
            except LocalFault as fault:
                yield parent, fault
                continue
            for version, record in records.items():
                yield parent / version, record

    def remove(self, folder: Path, model_id: str) -> str | None:
        """Move a published model out of sight by one rename, then delete it. Raises `LocalFault`.

        Returns the process that opened it at that moment, if there was one: the model is back in its place then, also after
        a fault.
        """
        grave = self.staging.grave(model_id)
        self.views.follow(folder.parent, without=folder.name)
        try:
            os.rename(folder, grave)
            try:
                sync_folder(folder.parent)
                reader = reader_of(grave)
            except (LocalFault, OSError):
                os.rename(grave, folder)
                raise
            if reader is not None:  # it will open more of the model
                os.rename(grave, folder)
                return reader
        except FileNotFoundError:
            return None  # another process has removed it
        except OSError as error:
            raise local_fault(error) from None
        finally:
            self.views.follow(folder.parent)
        shutil.rmtree(grave, ignore_errors=True)
        return None

    def restore_record(self, model: Model, files: Iterable[ModelFile]) -> None:
        """Write the record of a published folder again if it can't be read. Raises `LocalFault`."""
        folder = Path(model.path or "")
        if not is_folder(folder) or read_record(folder) is not None:
            return
        listed = tuple(files)
        proofs = {file.rel: Proof.SIZE for file in listed}
        try:
            record = record_of(model, listed, proofs, model.left_out, model.updated_at, model.remarks)
            write_record(folder, record, self.access)
        except OSError as error:
            raise local_fault(error) from None

    def _rename(self, staging: Path, target: Path, model_id: str) -> None:
        try:
            os.rename(staging, target)
        except OSError:
            if self.owner(target) != model_id:
                raise
            shutil.rmtree(staging, ignore_errors=True)  # another agent was faster


def _is_plain(path: Path, size: int) -> bool:
    """Check that a file of this size, which has no other name, is there. Raises `OSError`."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == size


def shown(model: Model) -> str:
    """A model's labels on one line, for logs and tables."""
    return printable(f"{model.name}/{model.version}")
