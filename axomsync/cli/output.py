"""How the verbs print: JSON and CSV for programs, tables for people."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from axomsync.core.text import printable

if TYPE_CHECKING:
    from axomsync.cli.tables import Listing


def print_documents(
    documents: list[dict[str, Any]],
    as_json: bool,
    layout: "Callable[[list[dict[str, Any]]], Listing]",
    advice: Callable[[list[dict[str, Any]]], Sequence[str]] = lambda _: (),
) -> None:
    """Rows as JSON, or as the table that `layout` makes of them and, in lines below it, what `advice` says to do next."""
    if as_json:
        print_json(documents)
        return
    from axomsync.cli import tables

    if documents:
        tables.show(layout(documents))
        for part in tables.steps(advice(documents)):
            tables.screen().print(part)
    else:
        click.echo("nothing yet")


def print_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """As RFC 4180 wants it, but for the line ends. A spreadsheet must neither run nor hide what is in a cell."""
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    """Text that is shown as it is: no escape sequence of a terminal, and no formula of a spreadsheet."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def print_json(document: Any) -> None:
    """For programs, and readable for people."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: dict[str, Any]) -> None:
    """One document a line, for whoever reads while it is written."""
    click.echo(json.dumps(document))
    sys.stdout.flush()
