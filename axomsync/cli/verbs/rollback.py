"""`rollback`: lead `current` to an older version. Failures handled: there is no such version (`Rejected`)."""

from typing import TYPE_CHECKING

import click

from axomsync.cli.common import config_option, json_option
from axomsync.cli.published import find_published, folder_of_version, load_to_move_current, mirror_folder, show_current
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
    wanted = _one_before(parent) if version is None else folder_of_version(found, version)
    place = mirror_folder(loaded)
    current.pin(parent, wanted, place.staging.scratch(), place.choose)
    show_current(loaded, parent, as_json, f"`axomsync unpin {printable(name)}` undoes that")


def _one_before(parent: "Path") -> str:
    """Return the newest version that is older than the one that `current` leads to. Raises `Rejected` if there is none."""
    from axomsync.mirror.publish import current

    now, folders = current.leads_to(parent), list(current.versions(parent))  # newest first
    older = folders[folders.index(now) + 1 :] if now in folders else []
    if not older:
        raise Rejected(f"{parent}: there is no older version; there are {', '.join(map(printable, folders))}")
    return older[0]
