"""`explain`: the state of one file or model, and the reason for it.

Failures handled: a target that names nothing (`Rejected`), no ledger yet (a file is explained by the rules alone).
"""

import os
from typing import TYPE_CHECKING, Any

import click

from axomsync.cli.common import config_option, json_option, load, open_ledger, status_of
from axomsync.cli.output import print_json
from axomsync.core.errors import Rejected
from axomsync.core.text import printable

if TYPE_CHECKING:
    from axomsync.config import Loaded


@click.command()
@config_option
@json_option
@click.argument("target")
def explain(config_file: str | None, as_json: bool, target: str) -> None:
    """Explain the state of TARGET (a path, a model or an id): the reason for it, and the time of the next try."""
    from axomsync.core.disks import answer_or_fault

    loaded = load(config_file, "state")
    settings = loaded.settings
    documents = answer_or_fault([settings.drop.folder, settings.mirror.folder], lambda: _explained(loaded, target))
    if as_json:
        print_json(documents)
        return
    from axomsync.cli import tables

    for document in documents:
        for line in tables.explanation(document):
            tables.screen().print(line)


def _explained(loaded: "Loaded", target: str) -> list[dict[str, Any]]:
    """Return a document for each row that `target` names, after that of the file at this path, if it adds something."""
    from axomsync.cli import advice
    from axomsync.drop.rules import Selection
    from axomsync.status.explain import explain as explain_targets
    from axomsync.status.explain import explain_file, obstacles
    from axomsync.status.targets import find

    settings, agent = loaded.settings, status_of(loaded)["agent"]
    drop, start = settings.drop, advice.start(settings.instance)
    of_files = obstacles(agent, start, None if drop.enabled else "drop")
    of_models = obstacles(agent, start, None if settings.mirror.enabled else "mirror")
    selection = Selection(drop.include, drop.exclude, os.fsencode(drop.done_marker))
    file = explain_file(drop.folder, target, selection, of_files)
    documents = []
    with open_ledger(loaded) as ledger:
        if ledger is not None:
            try:
                targets = find(ledger, target, drop.folder, settings.mirror.folder)
                documents = explain_targets(ledger, targets, settings.mirror.promote, of_files=of_files, of_models=of_models)
            except Rejected:
                if file is None:
                    raise
        elif file is None:
            raise Rejected(f"{printable(target)}: nothing is known yet, since no agent has run; `axomsync run` begins")
    if file is not None and (file["facts"]["rule"] is not None or not documents):
        documents.insert(0, file)
    return [_for_instance(document, settings.instance) for document in documents]


def _for_instance(document: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The same document, with commands for the agent of this name."""
    from axomsync.cli.advice import for_instance

    def own(words: str | None) -> str | None:
        return None if words is None else for_instance(words, name)

    facts = document["facts"]
    return {
        **document,
        "means": own(document["means"]),
        "reason": own(document["reason"]),
        "keeps": list(map(own, document["keeps"])),
        "facts": {**facts, "fix": own(facts["fix"])} if "fix" in facts else facts,
    }
