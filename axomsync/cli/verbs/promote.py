"""`promote`: lead `current` to a version that waits for it. Failures handled: none waits, a pinned name (`Rejected`)."""

import click

from axomsync.cli.common import config_option, json_option
from axomsync.cli.published import find_published, folder_of_version, load_to_move_current, mirror_folder, show_current


@click.command()
@config_option
@json_option
@click.argument("name")
@click.argument("version", required=False)
def promote(config_file: str | None, as_json: bool, name: str, version: str | None) -> None:
    """Lead `current` of NAME to VERSION, or to the newest version that waits for it ([mirror] promote)."""
    from axomsync.mirror.promotion import promoted
    from axomsync.mirror.publish import current

    loaded = load_to_move_current(config_file)
    found = find_published(loaded, name)
    parent = found[0][0].parent
    wanted = promoted(current.place(parent), version and folder_of_version(found, version))
    current.promote(parent, wanted, mirror_folder(loaded).staging.scratch())
    show_current(loaded, parent, as_json)
