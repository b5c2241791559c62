"""Report of the files that are left alone: in the ledger for `status`, and in the log.

The log names each rule once, and each file at level debug.

Failures handled: a ledger that can't be written (the agent reports that; the report is written once it is possible).
"""

import json
import logging
import os
from contextlib import suppress

from axomsync.core.errors import LocalFault
from axomsync.core.text import printable
from axomsync.drop.rules import MEANINGS, LeftAlone, Rule, amount, document
from axomsync.ledger import Ledger
from axomsync.ledger.facts import LEFT_ALONE

log = logging.getLogger(__name__)

REMEMBERED = 10_000  # paths that were named in the log


class Accounts:
    """Rules and paths that were reported already."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._written: str | None = None
        self._rules: set[Rule] = set()
        self._named: set[bytes] = set()

    def observe(self, left: LeftAlone) -> None:
        """Report the files that one scan of the folder left alone."""
        for rule, count in left.counts.items():
            if rule not in self._rules and rule is not Rule.UNREADABLE:  # unreadable ones are reported as a problem
                folders = left.folders.get(rule, 0)
                files = amount(count - folders, folders) + (" is" if count == 1 else " are")
                first, meaning = printable(os.fsdecode(left.examples[rule][0])), MEANINGS[rule]
                log.info(
                    "drop folder: %s left alone (%s), such as %s: %s; %s", files, rule, first, meaning.what, meaning.fix
                )
        for rule, path in left.every or ():
            self._name(path, rule)
        self._rules |= left.counts.keys()  # also rules of files that come and go, such as x.jsonl.part
        told = json.dumps(document(left))
        if told != self._written:
            with suppress(LocalFault):
                self._ledger.set_facts(**{LEFT_ALONE: told})
                self._written = told

    def _name(self, path: bytes, rule: Rule) -> None:
        if path not in self._named and len(self._named) < REMEMBERED:
            self._named.add(path)
            log.debug("%s: left alone: %s", printable(os.fsdecode(path)), MEANINGS[rule].what)
