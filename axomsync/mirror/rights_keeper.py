"""Keeps the rights of what is there as `[mirror] group` and `mode` ask: once in each life, also while the console is down.

Folders come before what is in them, so a change that closes closes at once. Failures handled: files of another user, a group
that can't be given, a folder that can't be read (one problem, told once; the next poll tries again).
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import RECORD
from axomsync.core.text import printable
from axomsync.mirror.context import MirrorContext
from axomsync.mirror.publish.access import opened
from axomsync.mirror.publish.record import Record

log = logging.getLogger(__name__)

SUBJECT = "rights of models"


class RightsKeeper:
    """Keeps the rights in one mirror folder."""

    def __init__(self, context: MirrorContext) -> None:
        self._context, self._access = context, context.mirror_folder.access
        self._done = False

    def tend(self) -> None:
        """Mend the rights, if that was not done yet, and report what keeps them from it."""
        if self._done:
            return
        try:
            _ = self._access.gid
        except LocalFault as fault:  # once, and not for each file
            self._context.problems.report(SUBJECT, str(fault))
            self._tighten_inner()
            return
        faults: list[LocalFault] = []
        mended = sum(self._mend(path, faults) for path in self._published(faults))
        self._tighten_inner()
        if mended:
            group = f", group {self._access.group}" if self._access.group else ""
            log.info("%d published files and folders now have mode %04o%s", mended, self._access.mode, group)
        self._done = not faults
        if faults:
            more = f" (and {len(faults) - 1} more)" * (len(faults) > 1)
            self._context.problems.report(SUBJECT, f"{faults[0]}{more}")
        else:
            self._context.problems.clear(SUBJECT)

    def _published(self, faults: list[LocalFault]) -> Iterator[Path]:
        """Yields what belongs to published models, folders first; faults of folders are added to `faults`."""
        try:
            for folder, record in self._context.mirror_folder.published():
                if isinstance(record, Record):
                    yield folder.parent
                    yield folder
                    yield from _content(folder, record)
                else:
                    faults.append(record)
        except LocalFault as fault:
            faults.append(fault)

    def _mend(self, path: Path, faults: list[LocalFault]) -> bool:
        try:
            status = os.lstat(path)
            if self._access.is_given(status) or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                return False
            with opened(path) as descriptor:
                return self._access.give(descriptor, folder=stat.S_ISDIR(status.st_mode))
        except LocalFault as fault:
            faults.append(fault)
        except FileNotFoundError:
            pass  # retention or a repair was faster; `verify` tells of what is missing
        except OSError as error:
            faults.append(local_fault(error, printable(str(path))))
        return False

    def _tighten_inner(self) -> None:
        """Close partial downloads that an agent with other settings has left; those in work have less than is asked."""
        inner = self._context.mirror_folder.staging.inner
        with suppress(OSError), opened(inner.parent) as descriptor:
            self._access.tighten(descriptor, folder=True)
        for place, folders, names in os.walk(inner):
            for name in (".", *folders, *names):
                with suppress(OSError):
                    is_folder = name not in names
                    with opened(Path(place, name)) as descriptor:
                        self._access.tighten(descriptor, folder=is_folder)


def _content(folder: Path, record: Record) -> Iterator[Path]:
    """Folders and files of a model, folders first."""
    parents = {parent for file in record.files for parent in Path(file.rel).parents if parent != Path()}
    yield from (folder / parent for parent in sorted(parents))
    yield folder / RECORD
    yield from (folder / file.rel for file in record.files)
