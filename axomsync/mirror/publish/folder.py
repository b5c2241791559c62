"""From staging to the place where servers read: all at once, or not at all.

A published folder appears by one rename, after every byte of it was synced, and goes by one. What is there already is
never written into; files that are selected later join it, each by a rename. Failures handled: a crash between any two steps
(the next start finds the folder by its record and goes on), a folder that belongs to another model or to nobody (a name of
its own is taken), a symlink where the model's folder should be (`Rejected`), a folder that somebody opens while it is
removed or renamed (put back), a link or a FIFO that somebody has put among what was collected (removed, never followed), a
record that can't be read now (`LocalFault`: it counts as there), a full disk.
"""

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.filesystems import is_folder, sync_folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import INTERNAL, NEW_LINK, REMOVED, REPAIRED, UNFINISHED
from axomsync.core.records import Model, ModelFile, Proof, RemoteModel
from axomsync.core.text import printable
from axomsync.mirror.layout import folder_names
from axomsync.mirror.publish import current
from axomsync.mirror.publish.abandoned import remove_abandoned
from axomsync.mirror.publish.readers import reader_of
from axomsync.mirror.publish.record import Record, read_record, write_record

ABANDONED_SECONDS = 3600.0  # what takes its place within moments, and is still there after so long, nobody waits for


class MirrorFolder:
    """The mirror folder: staging below `.axomsync`, published models beside it. `agent` tells several agents apart."""

    def __init__(self, root: Path, agent: str) -> None:
        self.root = root
        self._internal = root / INTERNAL / agent
        self._changing = threading.Lock()

    @contextmanager
    def alone(self, step: Callable[[], None]) -> Iterator[None]:
        """What is published is mended or extended by one thread at a time; `step` is called while waiting for one's turn."""
        while not self._changing.acquire(timeout=1.0):
            step()
        try:
            yield
        finally:
            self._changing.release()

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
        if published and not is_folder(internal) and not any(is_folder(model.path) for model in published):
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
            _let_go_of_links(staging)
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
            if _kind(parent) not in (None, stat.S_IFDIR):
                raise Rejected(f"{parent} is not a plain folder; move it away so that the model can be published there")
            if _kind(folder) is None or self.owner(folder) == model.id:
                return folder
        raise Rejected(f"{folder} belongs to something else; move it away so that the model can be published there")

    @staticmethod
    def owner(folder: Path) -> str | None:
        """Id of the model that is published in `folder`, None when it has no record. Raises `LocalFault`."""
        record = read_record(folder)
        return record.model.id if record else None

    def publish(self, record: Record, target: Path) -> None:
        """Move a complete staging folder to its final place, and make `current` follow. Raises `LocalFault`."""
        staging = self.staging(record.model.id)
        try:
            _remove_strangers(staging, {file.rel for file in record.files})
            write_record(staging, record)
            _make_readable_and_sync(staging)
            _make_folders(target.parent, self.root)
            self._rename(staging, target, record.model.id)
            sync_folder(target.parent)
            sync_folder(self.root)
        except OSError as error:
            raise local_fault(error) from None
        self.point_current(target.parent)

    def extend(self, folder: Path, record: Record) -> None:
        """Move what is complete in staging to the files that are published already. `record` is of them all.

        Raises `LocalFault`. Whoever reads meanwhile finds each file whole or not at all, and large ones before the small
        ones that describe them; done again after a crash, the rest follows.
        """
        staging = self.staging(record.model.id)
        more = [file.rel for file in sorted(record.files, key=lambda file: -file.size) if (staging / file.rel).is_file()]
        try:
            _remove_strangers(staging, set(more))
            _make_readable_and_sync(staging)
            for rel in more:
                _make_folders((folder / rel).parent, self.root)
                os.rename(staging / rel, folder / rel)
            for parent in {parent for rel in more for parent in (folder / rel).parents if parent.is_relative_to(folder)}:
                sync_folder(parent)
            write_record(folder, record)
            sync_folder(folder)
        except OSError as error:
            raise local_fault(error) from None
        self.discard_staging(record.model.id)

    def adopt(self, folder: Path, record: Record) -> None:
        """Take over a folder in which a model was published before the ledger knew; `record` has its labels of today.

        Raises `Rejected` when a file of it is missing or has another size, and `LocalFault`.
        """
        if (rel := self.lacks(folder, record)) is not None:
            raise Rejected(f"{folder} is not whole, {printable(rel)} was changed or removed; remove the folder")
        if read_record(folder) != record:
            try:
                write_record(folder, record)
            except OSError as error:
                raise local_fault(error) from None
        self.point_current(folder.parent)
        self.discard_staging(record.model.id)

    @staticmethod
    def lacks(folder: Path, record: Record) -> str | None:
        """A file of a published model that is missing or has another size, None when there is none. Raises `LocalFault`."""
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
        """Rename the folder of a published model as the console calls it now; where it is, and why it is not there yet.

        Raises `LocalFault`, `Rejected`. After a crash it is done again, or the folder is found where it is.
        """
        old, labels = Path(model.path or ""), RemoteModel(model.id, model.name, model.version, None, None, "", None)
        if old == self.root.joinpath(*folder_names(labels, clash=False)) or old.parent.parent != self.root:
            return old, None
        if (new := self.find(model)) == old:
            return old, None
        if not self._changing.acquire(blocking=False):
            return old, "it is being read or mended"
        try:
            record = read_record(old)
            if record is None or record.model.id != model.id or _kind(new) is not None:
                return old, None
            if (reader := self._rename_unread(old, new)) is not None:
                return old, f"{reader} has it open"
            write_record(new, replace(record, model=replace(record.model, name=model.name, version=model.version)))
            current.finish_move(old, new, self.scratch())
        except OSError as error:
            raise local_fault(error) from None
        finally:
            self._changing.release()
        return new, None

    def _rename_unread(self, old: Path, new: Path) -> str | None:
        """Rename a published folder unless somebody has it open: then who. Raises `LocalFault`, `OSError`."""
        if (reader := reader_of(old)) is not None:
            return reader
        _make_folders(new.parent, self.root)
        current.prepare_move(old, new, self.scratch())
        os.rename(old, new)
        if (reader := reader_of(new)) is not None:  # in that very moment; it will want to open more of it
            os.rename(new, old)
            current.take_back_move(old, new, self.scratch())
        sync_folder(new.parent)
        sync_folder(old.parent)
        return reader

    def point_current(self, parent: Path) -> None:
        """Make `current` in the folder of a name lead where it should. Raises `LocalFault`."""
        current.point(parent, self.scratch())

    def tend_current(self, parent: Path) -> str | None:
        """Make `current` of a name where there is none; what somebody else has put in its place. Raises `LocalFault`."""
        if (fault := current.foreign(parent)) is None and current.leads_to(parent) is None:
            self.point_current(parent)
        return fault

    def scratch(self) -> Path:
        """A folder of this agent's own on the filesystem of the mirror. Raises `LocalFault`."""
        try:
            _make_folders(self._internal, self.root)
        except OSError as error:
            raise local_fault(error) from None
        return self._internal

    def published(self) -> Iterator[tuple[Path, Record | LocalFault]]:
        """Every folder below the mirror with the model in it, or why that can't be known now. Raises `LocalFault`."""
        try:
            names = [entry for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise local_fault(error, str(self.root)) from None
        for entry in names:
            if entry.name != INTERNAL:
                for version, record in current.records(Path(entry.path)).items():
                    yield Path(entry.path, version), record

    def remove(self, folder: Path, model_id: str) -> str | None:
        """Take a published model out of sight by one rename, then delete it. Raises `LocalFault`.

        Returns who opened it in that very moment, if somebody did: it is back in its place then.
        """
        grave = self.scratch() / f"{REMOVED}{self.staging(model_id).name}"
        try:
            shutil.rmtree(grave, ignore_errors=True)
            os.rename(folder, grave)
            sync_folder(folder.parent)
            if reader := reader_of(grave):  # it will want to open more of it
                os.rename(grave, folder)
                return reader
        except FileNotFoundError:
            return None  # somebody else has removed it
        except OSError as error:
            raise local_fault(error) from None
        shutil.rmtree(grave, ignore_errors=True)
        return None

    def restore_record(self, model: Model, files: Iterable[ModelFile]) -> None:
        """Write the record of a published folder anew where it can't be read any more. Raises `LocalFault`."""
        folder = Path(model.path or "")
        if not is_folder(folder) or read_record(folder) is not None:
            return
        listed = tuple(files)
        proofs = {file.rel: Proof.SIZE for file in listed}
        try:
            write_record(folder, record_of(model, listed, proofs, model.left_out, model.updated_at, model.remarks))
        except OSError as error:
            raise local_fault(error) from None

    def workshop(self, model_id: str) -> Path:
        """An empty folder for the new copies of damaged files. Raises `LocalFault`."""
        folder = self.scratch() / f"{REPAIRED}{self.staging(model_id).name}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
        except OSError as error:
            raise local_fault(error) from None
        return folder

    def sweep(self, now: float) -> None:
        """Delete what a crash has left of what was being removed or repaired, and what agents have that are gone."""
        remove_abandoned(self._internal, now)
        for kind in (REMOVED, REPAIRED):
            for left in self._internal.glob(f"{kind}*"):
                shutil.rmtree(left, ignore_errors=True)
        unfinished = os.fsdecode(UNFINISHED)
        links = self.root.glob(f"{INTERNAL}/*/{NEW_LINK}*")  # of this agent, and of commands that nobody runs any more
        for path in [*links, *self.root.glob(f"*/*/{unfinished}*"), *self.root.glob(f"{INTERNAL}/*/*/{unfinished}*")]:
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()

    def _rename(self, staging: Path, target: Path, model_id: str) -> None:
        try:
            os.rename(staging, target)
        except OSError:
            if self.owner(target) != model_id:
                raise
            self.discard_staging(model_id)  # another agent was faster

    def discard_staging(self, model_id: str) -> bool:
        """What was collected for a model is not needed any more; returns whether there was something."""
        staging = self.staging(model_id)
        collected = staging.is_dir()
        shutil.rmtree(staging, ignore_errors=True)
        return collected


def record_of(
    model: Model,
    files: tuple[ModelFile, ...],
    proofs: Mapping[str, Proof],
    left_out: tuple[str, ...],
    now: float,
    remarks: tuple[str, ...],
) -> Record:
    """The record of a model that is published at `now`."""
    remote = RemoteModel(
        model.id, model.name, model.version, model.params, model.base_model_id, model.remote_status, model.created_at
    )
    published_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Record(remote, files, proofs, published_at, left_out, remarks)


def _let_go_of_links(staging: Path) -> None:
    """What a crash has left linked to a published file must not be written into."""
    for folder, _, names in os.walk(staging):
        for path in (os.path.join(folder, name) for name in names):
            if os.lstat(path).st_nlink > 1:
                os.unlink(path)


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
            _give_mode(os.path.join(parent, name), os.O_NONBLOCK, 0o644)
        _give_mode(parent, os.O_DIRECTORY, 0o755)  # servers run as other users


def _give_mode(path: str | Path, kind: int, mode: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path, root: Path) -> None:
    """`mkdir -p` that gives new folders 0755 whatever the umask is, makes no mirror folder and follows no symlink in it."""
    if folder == root:
        return
    _make_folders(folder.parent, root)
    kind = _kind(folder)
    if kind is None:
        with suppress(FileExistsError):
            folder.mkdir()
            if stat.S_IMODE(folder.lstat().st_mode) != 0o755:
                _give_mode(folder, os.O_DIRECTORY, 0o755)
    elif kind != stat.S_IFDIR:
        raise Rejected(f"{folder} is a symlink or a file where a folder must be; move it away")


def _kind(path: Path) -> int | None:
    """The type of what is there, as stat(2) has it, a link itself and not its target; None when nothing is."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise local_fault(error, str(path)) from None


def shown(model: Model) -> str:
    """A model's labels on one line, for logs and tables."""
    return printable(f"{model.name}/{model.version}")
