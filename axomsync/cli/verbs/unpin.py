"""`unpin`: let `current` follow new versions again."""

import click

from axomsync.cli.common import config_option, json_option
from axomsync.cli.published import find_published, load_to_move_current, mirror_folder, show_current


@click.command()
@config_option
@json_option
@click.argument("name")
def unpin(config_file: str | None, as_json: bool, name: str) -> None:
    """Let `current` of NAME follow new versions again, as [mirror] promote says."""
    from axomsync.mirror.publish import current

    loaded = load_to_move_current(config_file)
    parent = find_published(loaded, name)[0][0].parent
    place = mirror_folder(loaded)
    had = current.unpin(parent, place.staging.scratch(), place.choose)
    show_current(loaded, parent, as_json, "" if had else "it was not pinned")
