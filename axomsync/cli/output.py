"""The forms in which verbs print: JSON and CSV for programs, tables for people."""

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
    """Print rows as JSON, or as the table that `layout` makes of them with the next steps of `advice` below."""
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
    """Print CSV by RFC 4180, but with plain line ends. A spreadsheet must neither run nor hide the text of a cell."""
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    """Return text without escape sequences of a terminal, and not as the formula of a spreadsheet."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def print_json(document: Any) -> None:
    """Print JSON that people can read too."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: dict[str, Any]) -> None:
    """Print one document a line, for programs that read line by line."""
    click.echo(json.dumps(document))
    sys.stdout.flush()
