"""`check`: check files as the agent would, before they are dropped.

Failures handled: files that would be rejected, files that can't be read, a file that becomes shorter meanwhile (each is
told, and the others are checked), pipes and compressed files of any size (they are unpacked while they are read).
"""

import contextlib
import os
import stat
import sys
from typing import Any

import click

from axomsync.cli.common import json_option
from axomsync.cli.output import print_json
from axomsync.core.text import printable

SCHEMAS = click.Choice(["report", "chat", "pairs", "preference", "text"])


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--schema", type=SCHEMAS, default="report", help="The shape that the lines must have, as [drop] schema names it."
)
@json_option
def check(files: tuple[str, ...], schema: str, as_json: bool) -> None:
    """Check files as the agent would, and print the shape of their lines; - is standard input.

    Files that end in .gz or .zst are unpacked meanwhile, without a copy.

    This needs no configuration, no key and no agent. The exit code is 1 when a file would be rejected or can't be read.
    """
    from axomsync.cli import tables
    from axomsync.core.errors import SourceChanged
    from axomsync.core.oserrors import local_fault

    documents, unread = [], False
    for name in files:
        try:
            document = _checked(name, None if schema == "report" else schema)
        except FileNotFoundError:
            unread = True
            click.echo(f"axomsync: {printable(name)}: it does not exist; correct the name", err=True)
            continue
        except SourceChanged as changed:
            unread = True
            click.echo(f"axomsync: {printable(name)}: {changed}; check it again when no program writes to it", err=True)
            continue
        except OSError as error:
            unread = True
            click.echo(f"axomsync: {local_fault(error, name)}", err=True)
            continue
        documents.append(document)
        if not as_json:
            for line in tables.checked(document):
                tables.screen().print(line)
    if as_json:
        print_json(documents)
    if unread or not all(document["good"] for document in documents):
        sys.exit(1)


def _checked(name: str, wanted: str | None) -> dict[str, Any]:
    """Return what `check --json` prints for one file. Raises `OSError` and `SourceChanged`."""
    from axomsync.drop import ranges
    from axomsync.drop.jsonl import InvalidDataset, check_stream
    from axomsync.drop.line_workers import LineWorkers
    from axomsync.drop.names import packing_of
    from axomsync.drop.packed_faults import as_invalid
    from axomsync.drop.shapes import Shapes
    from axomsync.drop.unpacking import BrokenArchive, Unpacked
    from axomsync.status.documents import checked_document

    packing = packing_of(os.fsencode(name))
    try:
        with click.open_file(name, "rb") as file:
            shapes = Shapes(wanted)
            if packing is not None:
                unpacked = Unpacked(file.read, packing, os.path.basename(name))
                return checked_document(name, check_stream(unpacked.read, shapes))
            if name == "-" or (size := _size(file.fileno())) is None or size <= ranges.LARGE:
                return checked_document(name, check_stream(file.read, shapes))
            with contextlib.closing(LineWorkers()) as workers:
                checked = ranges.check(file.fileno(), size, "full", lambda: None, workers, shapes=shapes)
            return checked_document(name, checked)
    except (BrokenArchive, InvalidDataset) as fault:
        invalid = as_invalid(fault, packed=packing is not None)
        return checked_document(name, None, invalid.faults, invalid.total)


def _size(file: int) -> int | None:
    """Return the bytes of a regular file; None of anything else."""
    status = os.fstat(file)
    return status.st_size if stat.S_ISREG(status.st_mode) else None
