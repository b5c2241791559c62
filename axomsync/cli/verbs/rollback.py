"""`rollback`: lead `current` to an older version. Failures handled: there is no such version (`Rejected`)."""

from typing import TYPE_CHECKING

import click

from axomsync.cli.common import config_option, json_option
from axomsync.cli.published import find_published, load_to_move_current, mirror_folder, show_current
from axomsync.core.errors import Rejected
from axomsync.core.text import printable

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@config_option
@json_option
@click.argument("name")
@click.argument("version", required=False)
def rollback(config_file: str | None, as_json: bool, name: str, version: str | None) -> None:
    """Lead `current` of NAME to VERSION, or to the one before, and pin it there; `unpin` undoes that."""
    from axomsync.mirror.publish import current

    loaded = load_to_move_current(config_file)
    found = find_published(loaded, name)
    parent = found[0][0].parent
    folders = list(current.versions(parent))  # newest first
    if version is None:
        wanted = _one_before(parent, folders)
    else:
        wanted = next((folder.name for folder, record in found if version in (folder.name, record.model.version)), None)
    if wanted is None:
        raise Rejected(
            f"{parent}: there is no {printable(version) if version else 'older version'}; there are {', '.join(folders)}"
        )
    place = mirror_folder(loaded)
    current.pin(parent, wanted, place.staging.scratch(), place.choose)
    show_current(loaded, parent, as_json, f"`axomsync unpin {printable(name)}` undoes that")


def _one_before(parent: "Path", folders: list[str]) -> str | None:
    """Return the first of `folders` (newest first) that is older than the one that `current` leads to."""
    from axomsync.mirror.publish import current

    now = current.leads_to(parent)
    older = folders[folders.index(now) + 1 :] if now in folders else []
    return older[0] if older else None
