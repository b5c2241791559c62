"""`pin`: hold `current` at one version. Failures handled: a name alone whose `current` leads to no version (`Rejected`)."""

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
@click.argument("model")
def pin(config_file: str | None, as_json: bool, model: str) -> None:
    """Hold `current` of a name at MODEL: name/version or id, or the name alone for the version that it leads to now."""
    from axomsync.mirror.publish import current

    loaded = load_to_move_current(config_file)
    found = find_published(loaded, model)
    folder, record = found[0]
    parent = folder.parent
    held = _led_to(parent, model) if model == record.model.name else folder_of_version(found, record.model.version)
    place = mirror_folder(loaded)
    current.pin(parent, held, place.staging.scratch(), place.choose)
    show_current(loaded, parent, as_json)


def _led_to(parent: "Path", name: str) -> str:
    """Return the version that `current` leads to. Raises `Rejected` if there is none: a pin would put one into service."""
    from axomsync.mirror.publish import current

    place = current.place(parent)
    if place.served is None:
        raise Rejected(
            f"{parent}: current leads to no version; name the one to hold, as in `axomsync pin {printable(name)}/VERSION`, "
            f"or its id; there are {', '.join(map(printable, place.versions))}"
        )
    return place.served
