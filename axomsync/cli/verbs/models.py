"""`models`: the console's models, with the local state of each.

Failures handled: a console that does not answer or refuses the key (the ledger's models are
listed, then the error is raised).
"""

from functools import partial

import click

from axomsync.cli.common import config_option, console_of, json_option, load, open_ledger
from axomsync.cli.output import print_documents
from axomsync.core.errors import AxomsyncError


@click.command()
@config_option
@json_option
def models(config_file: str | None, as_json: bool) -> None:
    """List the console's models, with the local state and path of each."""
    from axomsync.cli import advice, tables
    from axomsync.mirror.catalog import Selection, reconcile
    from axomsync.status.documents import model_documents

    loaded = load(config_file)
    with open_ledger(loaded) as ledger:
        known = ledger.models() if ledger else []
    changes = []
    refusal: AxomsyncError | None = None
    try:
        wanted = loaded.settings.mirror
        selection = Selection(wanted.include, wanted.exclude, wanted.keep, wanted.max_size, wanted.files)
        changes = reconcile(console_of(loaded).models(), known, selection, lambda row: True)
    except AxomsyncError as failure:
        refusal = failure
    steps = partial(advice.of_models, instance=loaded.settings.instance)
    print_documents(model_documents(known, changes), as_json, tables.models, steps)
    if refusal is not None:
        refusal.args = (f"{refusal}; this list is what the ledger knows",)
        raise refusal
