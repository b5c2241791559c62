"""`pin`: hold `current` at one version."""

import click

from axomsync.cli.common import config_option, json_option
from axomsync.cli.published import find_published, load_to_move_current, mirror_folder, show_current


@click.command()
@config_option
@json_option
@click.argument("model")
def pin(config_file: str | None, as_json: bool, model: str) -> None:
    """Hold `current` of a name at MODEL: name/version or id, or the name alone for the version that it leads to now."""
    from axomsync.mirror.publish import current

    loaded = load_to_move_current(config_file)
    found = find_published(loaded, model)
    parent = found[0][0].parent
    held = next((folder for folder, _ in found if folder.name == current.leads_to(parent)), found[0][0])
    place = mirror_folder(loaded)
    current.pin(parent, held.name, place.staging.scratch(), place.choose)
    show_current(loaded, parent, as_json)
