"""Repair of damaged files of a published model: good segments are copied, only damaged ones are fetched.

The new copy is compared with the recorded digests before it replaces the damaged file by one rename: a reader sees the old
or the new file. Failures handled: an object that has changed (`Rejected`, nothing is replaced), a damaged record (storage's
checksum decides), a disk without room (`LocalFault`), a crash (the repair starts again).
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from axomsync.core.errors import LocalFault, Rejected
from axomsync.core.filesystems import sync_folder
from axomsync.core.oserrors import local_fault
from axomsync.core.records import Manifest, ModelFile
from axomsync.core.text import printable
from axomsync.ledger import Ledger
from axomsync.mirror.check.integrity import compare
from axomsync.mirror.check.verify import Damage, Step, examine_file
from axomsync.mirror.fetch.dispatch import CHANGES_OF_A_FILE
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.mirror.publish.access import Access, for_owner
from axomsync.mirror.publish.record import Record, write_record
from axomsync.mirror.publish.staging import make_folders

COPY_SIZE = 16 * 1024 * 1024


def repair(
    folder: Path,
    record: Record,
    damages: Sequence[Damage],
    workshop: Path,
    job: Job,
    lanes: Lanes,
    ledger: Ledger,
    step: Step,
    access: Access,
) -> None:
    """Replace the damaged files of the model of `record`. `workshop` is an empty folder on the same filesystem.

    Raises failures of the download, `Rejected` and `LocalFault`.
    """
    good = {damage.file.rel: _good_part(damage) for damage in damages}
    ledger.replace_files(record.model.id, [good.get(file.rel, file) for file in record.files], damaged=True)
    try:
        for number, damage in enumerate(damages):
            copy = workshop / str(number)
            _copy(folder / damage.file.rel, copy, good[damage.file.rel])
            partial = PartialFile(job, good[damage.file.rel], copy)
            partial.changes = CHANGES_OF_A_FILE  # a changed object must fail the job at once
            partial.direct = True  # one copy that differs must not look like another object
            job.files.append(partial)
        lanes.fetch(job, step)
        fetched = {file.rel: file for file in ledger.read.files(record.model.id)}
        mended = {p.rel: _judged(p, damage.file, fetched[p.rel], step) for p, damage in zip(job.files, damages, strict=True)}
        for partial in job.files:
            _replace(partial.path, folder, partial.rel, access)
        files = tuple(mended.get(file.rel, file) for file in record.files)
        write_record(folder, replace(record, files=files), access)
        sync_folder(folder)
    except OSError as error:
        raise local_fault(error) from None
    finally:
        for partial in job.files:  # a lane that waits for a URL may be about to make its file again
            partial.give_up()
        shutil.rmtree(workshop, ignore_errors=True)
    ledger.replace_files(record.model.id, files)


def check_manifest(manifest: Manifest, damages: Sequence[Damage]) -> None:
    """Check that the console still lists the damaged files with their sizes. Raises `Rejected`."""
    sizes = {file.rel: file.size for file in manifest.files}
    for damage in damages:
        if sizes.get(damage.file.rel) != damage.file.size:
            raise _another(damage.file.rel)


def check_room(room: int, damages: Sequence[Damage]) -> None:
    """Check that the new copies fit into `room` bytes. Raises `LocalFault`."""
    lacking = sum(damage.file.size for damage in damages) - room
    if lacking > 0:
        raise LocalFault(f"{lacking} more bytes must be free to make a repaired copy")


def _good_part(damage: Damage) -> ModelFile:
    return replace(damage.file, segments=tuple(part for part in damage.file.segments if part not in damage.segments))


def _copy(source: Path, target: Path, good: ModelFile) -> None:
    """Copy the good segments of a file into a new one of its full size."""
    with open(target, "xb", opener=for_owner) as file:
        os.truncate(file.fileno(), good.size)
        for part in good.segments:
            with source.open("rb") as original:
                position = part.start
                while position < part.end:
                    piece = os.pread(original.fileno(), min(COPY_SIZE, part.end - position), position)
                    if not piece:
                        break  # the file shrinks; the comparison finds it
                    position += os.pwrite(file.fileno(), piece, position)


def _judged(partial: PartialFile, recorded: ModelFile, fetched: ModelFile, step: Step) -> ModelFile:
    """Return the ledger data of a repaired file. Raises `Rejected` unless it equals the published one."""
    if examine_file(partial.path, recorded, step) is None:
        return recorded
    # Otherwise the record itself may be damaged.
    if fetched.etag == recorded.etag and compare(partial.path, fetched.etag, partial.evidence, step).proven:
        return fetched
    raise _another(partial.rel)


def _replace(fresh: Path, folder: Path, rel: str, access: Access) -> None:
    with fresh.open("rb") as file:
        access.give(file.fileno(), folder=False)
        os.fsync(file.fileno())
    target = folder / rel
    make_folders(target.parent, folder, access)
    os.replace(fresh, target)
    sync_folder(target.parent)


def _another(rel: str) -> Rejected:
    return Rejected(
        f"{printable(rel)}: it can't be repaired, since the console now has a different file; remove the model's folder "
        "to download the model again"
    )
