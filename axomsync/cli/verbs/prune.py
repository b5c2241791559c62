"""`prune`: apply retention now."""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import LONG_SECONDS, errand
from axomsync.cli.output import print_json


@click.command()
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only print the versions that would be removed.")
def prune(config_file: str | None, as_json: bool, dry_run: bool) -> None:
    """Apply retention now: remove the versions that [mirror] keep, keep_gone and max_size leave no room for."""
    answer = errand(load(config_file, "state", "mirror"), "prune", None, {"dry_run": dry_run}, patience=LONG_SECONDS)
    if as_json:
        print_json(answer)
        return
    lines = [f"{'would be removed' if dry_run else 'removed'}: {line}" for line in answer["removed"]]
    lines += [f"stays for now: {line}" for line in answer["spared"]]
    click.echo("\n".join(lines) or "nothing to remove")
