"""`import`: take models from another disk or box.

Failures handled: a model that is refused (told, exit code 1; the others are taken), one that may be taken later (75).
"""

import os
import sys
from pathlib import Path

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import LONG_SECONDS, errand
from axomsync.cli.output import print_documents
from axomsync.core.errors import Transient


@click.command("import")
@config_option
@json_option
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, path_type=Path))
def import_(paths: tuple[Path, ...], config_file: str | None, as_json: bool) -> None:
    """Take models from another disk or box: each byte is compared with its record. Needs no console.

    PATH is a mirror folder, the folder of a name in one, or the folder of one version with its record.
    """
    from axomsync.cli import tables
    from axomsync.cli.progress import show_downloads

    loaded = load(config_file, "state", "mirror")
    parameters = {"paths": [os.path.realpath(path) for path in paths]}
    with show_downloads(loaded):
        documents = errand(loaded, "import", None, parameters, patience=LONG_SECONDS)
    print_documents(documents, as_json, tables.arrivals)
    failed = [document for document in documents if document["outcome"] in ("refused", "failed")]
    if failed:
        sys.exit(Transient.exit_code if all(document["again"] for document in failed) else 1)
