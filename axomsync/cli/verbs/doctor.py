"""`doctor`: test the real thing. Failures handled: those of all checks, as findings; the gravest gives the exit code."""

import os
import sys

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.output import print_documents


@click.command()
@config_option
@json_option
@click.option(
    "--no-write", is_flag=True, help="Send no byte and make no file; the console is still asked for an upload URL."
)
@click.option("--speed", is_flag=True, help="Measure storage too: one connection, then more until more bring nothing.")
def doctor(config_file: str | None, as_json: bool, no_write: bool, speed: bool) -> None:
    """Test key and scopes, clocks, storage, folders and watching; print the remedy for each fault."""
    from axomsync.cli import tables
    from axomsync.ops.doctor import examine
    from axomsync.ops.doctor.findings import exit_code

    loaded = load(config_file)
    findings = list(examine(loaded.settings, loaded.path, os.environ, write=not no_write, measure=speed))
    print_documents([finding.document() for finding in findings], as_json, tables.findings)
    if code := exit_code(findings):
        sys.exit(code)
