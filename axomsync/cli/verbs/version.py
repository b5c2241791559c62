"""`version`: this program and all that it stands on.

Failures handled: a configuration or a ledger that can't be read (told in a remark; the rest is printed all the same).
"""

import os

import click

from axomsync.cli.common import config_option, json_option
from axomsync.cli.output import print_json
from axomsync.core.errors import AxomsyncError


@click.command()
@config_option
@json_option
def version(config_file: str | None, as_json: bool) -> None:
    """Print the versions of this program, Python, its libraries, SQLite, OpenSSL, the system and the ledger."""
    from axomsync import config
    from axomsync.core.disks import disk_of
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import act_as_owner
    from axomsync.ops.versions import versions

    path, ledger = None, None
    remarks: list[str] = []
    try:
        path = config.find(config_file, os.environ)
        state = config.load(path, os.environ).settings.state.folder
        disk_of(state).demand_answer()
        act_as_owner(state)
        ledger = state / LEDGER_FILE
    except AxomsyncError as fault:
        remarks += str(fault).splitlines()
    document = versions(path, ledger, remarks)
    if as_json:
        print_json(document)
        return
    click.echo(f"axomsync, version {document.pop('version')}")
    libraries = document.pop("libraries")
    del document["remarks"]
    for name, value in document.items():
        click.echo(f"{name.replace('_', ' '):14} {value or '-'}")
    for name, value in libraries.items():
        click.echo(f"  {name:18} {value}")
    for remark in remarks:
        click.echo(f"note: {remark}")
