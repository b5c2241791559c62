"""`unpin`: let `current` follow the newest version again."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.published import find_published, follow_by_views, mirror_folder, print_current


@click.command()
@config_option
@json_option
@click.argument("name")
def unpin(config_file: str | None, as_json: bool, name: str) -> None:
    """Let `current` of NAME follow the newest version again."""
    from axomsync.mirror.publish import current

    loaded = load(config_file)
    parent = find_published(loaded, name)[0][0].parent
    had = current.unpin(parent, mirror_folder(loaded).staging.scratch())
    follow_by_views(loaded, parent)
    print_current(parent, as_json, "" if had else "it was not pinned")
