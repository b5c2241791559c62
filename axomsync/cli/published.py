"""Published models, as verbs name them: find them, wait for one, print one, show where `current` leads.

Failures handled: a model that is unknown, one that is not published in time, a folder that can't be read now, a ledger that
an agent is just making or bringing up to date.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from axomsync.cli.common import load, open_ledger
from axomsync.cli.output import print_json
from axomsync.core.errors import LocalFault, Rejected, Transient
from axomsync.core.text import printable

if TYPE_CHECKING:
    from axomsync.config import Loaded
    from axomsync.core.records import Model
    from axomsync.mirror.publish.folder import MirrorFolder
    from axomsync.mirror.publish.record import Record

LOOK_SECONDS = 0.2
UNREADY_SECONDS = 10.0  # that an agent may take to make its ledger or to bring it up to date


def wait_until_published(loaded: "Loaded", target: str, seconds: float | None) -> "Model":
    """Return the newest published model that `target` names, once there is one. Raises `Transient` after `seconds`."""
    from axomsync.core.records import ModelState
    from axomsync.ledger import UnreadyLedger
    from axomsync.mirror.layout import is_called, is_named

    deadline = None if seconds is None else time.monotonic() + seconds
    unready: float | None = None  # since when the ledger can't be read
    while True:
        rows: list[Model] = []
        try:
            with open_ledger(loaded) as ledger:
                rows = [row for row in (ledger.models() if ledger else []) if is_named(row, target)]
            unready = None
        except UnreadyLedger:
            unready = unready or time.monotonic()
            if time.monotonic() - unready > UNREADY_SECONDS:
                raise
        for row in rows:
            there = row.state is ModelState.PUBLISHED and os.path.isdir(row.path or "")
            if there and (target == row.id or is_called(row.path or "", row)):  # not a name that will be another's
                return row
        if deadline is not None and time.monotonic() >= deadline:
            raise Transient(f"{printable(target)} is not published yet{_obstacle(rows)}")
        time.sleep(LOOK_SECONDS)


def _obstacle(rows: "list[Model]") -> str:
    if not rows:
        return ": the console does not list it"
    return f", it is {rows[0].state}" + (f": {rows[0].reason}" if rows[0].reason else "")


def print_published(model: "Model", as_json: bool) -> None:
    """Print the path of a model, or its row of `models --json`."""
    from axomsync.status.documents import model_document

    if as_json:
        print_json(model_document(model))
    else:
        click.echo(model.path)


def load_to_move_current(config_file: str | None) -> "Loaded":
    """Load the configuration; root becomes the service's user for good, who must be able to keep what is made from here on.

    It is the owner of the state folder, or of the mirror folder where no agent has run. Raises `BadConfig`, `LocalFault`.
    """
    from axomsync.ledger import act_as_owner

    loaded = load(config_file, "state", "mirror")
    state, mirror = loaded.settings.state.folder, loaded.settings.mirror.folder
    act_as_owner(state if os.path.isdir(state) else mirror)
    return loaded


def mirror_folder(loaded: "Loaded") -> "MirrorFolder":
    """Return the configured mirror folder."""
    from axomsync.mirror.publish.access import Access
    from axomsync.mirror.publish.folder import MirrorFolder

    settings = loaded.settings.mirror
    access = Access(int(settings.mode, 8), settings.group)
    return MirrorFolder(settings.folder, "by-hand", settings.promote, views=settings.views, access=access)


def find_published(
    loaded: "Loaded", target: str | None, unread: list[LocalFault] | None = None
) -> "list[tuple[Path, Record]]":
    """Return the published models that `target` names, or all without a target. Raises `Rejected` if it names none.

    Faults of folders that can't be read now are added to `unread`; once the target is found, those of its name alone.
    """
    from axomsync.mirror.layout import is_named

    found, faults = [], []
    for folder, record in mirror_folder(loaded).published():
        if isinstance(record, LocalFault):
            faults.append((folder, record))
        elif target is None or is_named(record.model, target):
            found.append((folder, record))
    if unread is not None:
        names = {folder.parent for folder, _ in found}
        unread += [fault for folder, fault in faults if target is None or folder.parent in names]
    if target is not None and not found:
        if faults:
            raise faults[0][1]
        raise Rejected(f"{printable(target)}: no such model is published in {loaded.settings.mirror.folder}")
    return found


def folder_of_version(found: "list[tuple[Path, Record]]", version: str) -> str:
    """Return the folder of `version` among those of one name: the folder or id that is called so, else the only such label.

    Raises `Rejected` if there is none, or several have that label.
    """
    from axomsync.mirror.publish import current

    for folder, record in found:
        if version in (folder.name, record.model.id):
            return folder.name
    labelled = {folder.name: record.model.id for folder, record in found if record.model.version == version}
    if len(labelled) == 1:
        return next(iter(labelled))
    parent = found[0][0].parent
    if labelled:
        told = printable(", ".join(f"{folder} (id {labelled[folder]})" for folder in sorted(labelled)))
        raise Rejected(f"{parent}: several versions are called {printable(version)}: {told}; name one by its id")
    there = ", ".join(map(printable, current.versions(parent)))
    raise Rejected(f"{parent}: there is no {printable(version)}; there are {there}")


def show_current(loaded: "Loaded", parent: Path, as_json: bool, remark: str = "") -> None:
    """Have the views show where `current` below `parent` leads now, and print that, with `remark` for people.

    Raises `LocalFault` when a view can't follow: who loads through it has what was there before.
    """
    from axomsync.mirror.publish import current
    from axomsync.status.documents import current_document

    faults = mirror_folder(loaded).views.follow(parent)
    version, pinned = current.leads_to(parent), current.pinned(parent) is not None
    if as_json:
        print_json(current_document(parent, version, pinned=pinned))
    else:
        text = f"{parent / 'current'} -> {version}" + (", pinned" if pinned else "")
        click.echo(f"{text}; {remark}" if remark else text)
    if faults:
        raise LocalFault(f"a view does not show that yet: {'; '.join(faults)}; the agent's next poll tries again")
