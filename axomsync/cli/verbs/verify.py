"""`verify`: compare mirrored bytes with their records.

Failures handled: damage that stays (`Rejected`), a folder or file that can't be read now, a repair that fails (all are told
after the others are looked at; the exit code is that of the first).
"""

from typing import TYPE_CHECKING

import click

from axomsync.cli.common import config_option, json_option, load
from axomsync.cli.control import LONG_SECONDS, errand
from axomsync.cli.output import print_documents
from axomsync.cli.published import find_published
from axomsync.core.errors import AxomsyncError, Fatal, Interrupted, LocalFault, Rejected, Stopping

if TYPE_CHECKING:
    from axomsync.config import Loaded


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

    loaded = load(config_file, "state", "mirror")
    step = full_speed if holder(loaded.settings.state.folder) is None else HalfSpeed(full_speed)
    documents = []
    unread: list[LocalFault] = []
    failures: list[AxomsyncError] = []
    for folder, record in find_published(loaded, model, unread):
        try:
            damages, mended = examine(folder, record.files, step), False
            if damages and repair:
                if (failure := _repair(loaded, record.model.id)) is None:
                    damages, mended = examine(folder, record.files, step), True
                else:
                    failures.append(failure.about(f"{record.model.name}/{record.model.version}"))
        except LocalFault as fault:
            unread.append(fault)
        else:
            documents.append(verified_document(folder, record, damages, repaired=mended and not damages))
    print_documents(documents, as_json, tables.verified)
    failures += unread
    if bad := [document for document in documents if document["damage"]]:
        advice = "" if repair else "; `axomsync verify --repair` fetches what is damaged again"
        failures.append(Rejected(f"{len(bad)} of {len(documents)} models are damaged{advice}"))
    if failures:
        failed = AxomsyncError("\n".join(map(str, failures)))
        failed.exit_code = failures[0].exit_code
        raise failed


def _repair(loaded: "Loaded", model_id: str) -> AxomsyncError | None:
    """Have a model repaired; returns the failure. Raises those after which no other repair can begin."""
    try:
        errand(loaded, "repair", model_id, patience=LONG_SECONDS)
    except (Fatal, Interrupted, Stopping):
        raise
    except AxomsyncError as failure:
        return failure
    return None
