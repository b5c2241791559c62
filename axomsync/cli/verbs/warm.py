"""`warm`: read what `current` leads to into the page cache.

Failures handled: a model that does not fit (`Rejected`), programs that wait for memory (`Transient`).
"""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.output import print_json
from axomsync.cli.published import find_published
from axomsync.core.errors import Rejected, Transient


@click.command()
@config_option
@json_option
@click.argument("name")
def warm(config_file: str | None, as_json: bool, name: str) -> None:
    """Read what `current` of NAME leads to into the page cache, if it fits into half of the available memory."""
    from axomsync.mirror.warm import Machine, be_idle
    from axomsync.mirror.warm import warm as read_in

    parent = find_published(load(config_file, "mirror"), name)[0][0].parent
    be_idle()
    warmed = read_in(parent, Machine(), lambda: None)
    if as_json:
        print_json({"path": str(warmed.folder), "bytes": warmed.size, "bytes_read": warmed.read, "reason": warmed.reason})
    elif warmed.reason is None:
        click.echo(f"{warmed.folder}: {warmed.size} bytes are in the page cache")
    if warmed.reason is not None:
        failure = Transient if warmed.for_now else Rejected
        raise failure(f"{warmed.folder}: {warmed.read} of {warmed.size} bytes are warm: {warmed.reason}")
