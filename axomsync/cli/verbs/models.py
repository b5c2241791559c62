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
    from axomsync.core.disks import answer_or_fault
    from axomsync.mirror.catalog import Selection, reconcile
    from axomsync.status.documents import model_documents

    loaded = load(config_file, "state")
    wanted = loaded.settings.mirror
    with open_ledger(loaded) as ledger:
        known = ledger.models() if ledger else []
    changes = []
    refusal: AxomsyncError | None = None
    try:
        selection = Selection(wanted.include, wanted.exclude, wanted.keep, wanted.max_size, wanted.files)
        changes = reconcile(console_of(loaded).models(), known, selection, lambda row: True)
    except AxomsyncError as failure:
        refusal = failure
    steps = partial(advice.of_models, instance=loaded.settings.instance)
    documents = answer_or_fault([wanted.folder], lambda: model_documents(known, changes))
    print_documents(documents, as_json, tables.models, steps)
    if refusal is not None:
        refusal.args = (f"{refusal}; this list is what the ledger knows",)
        raise refusal
