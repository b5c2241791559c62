"""`verify`: compare mirrored bytes with their records.

Failures handled: damage that stays (`Rejected`), a folder that can't be read now (told after the others).
"""

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import LONG_SECONDS, errand
from axomsync.cli.output import print_documents
from axomsync.cli.published import find_published
from axomsync.core.errors import LocalFault, Rejected


@click.command()
@config_option
@json_option
@click.argument("model", required=False)
@click.option("--repair", is_flag=True, help="Fetch the damaged segments again.")
def verify(config_file: str | None, as_json: bool, model: str | None, repair: bool) -> None:
    """Read mirrored models again, and compare them with their records."""
    from axomsync.cli import tables
    from axomsync.ledger import holder
    from axomsync.mirror.check.verify import HalfSpeed, examine, full_speed
    from axomsync.status.documents import verified_document

    loaded = load(config_file)
    step = full_speed if holder(loaded.settings.state.folder) is None else HalfSpeed(full_speed)
    documents = []
    unread: list[LocalFault] = []
    for folder, record in find_published(loaded, model, unread):
        damages = examine(folder, record.files, step)
        mended = bool(damages) and repair
        if mended:
            errand(loaded, "repair", record.model.id, patience=LONG_SECONDS)
            damages = examine(folder, record.files, step)
        documents.append(verified_document(folder, record, damages, repaired=mended and not damages))
    print_documents(documents, as_json, tables.verified)
    if unread:
        raise unread[0]
    if bad := [document for document in documents if document["damage"]]:
        advice = "" if repair else "; `axomsync verify --repair` fetches what is damaged again"
        raise Rejected(f"{len(bad)} of {len(documents)} models are damaged{advice}")
