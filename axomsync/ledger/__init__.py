"""The ledger: everything that must outlive the process, in one SQLite file. The only user of sqlite-utils.

`Ledger` writes, for the one agent that holds the state folder; `Reader` reads, in any process.
"""

from axomsync.core.paths import LEDGER_FILE
from axomsync.ledger.database import LedgerFault, Trouble, check_ledger, ledger_fault, read_only_uri
from axomsync.ledger.lock import act_as_owner, holder
from axomsync.ledger.queries import UnreadyLedger
from axomsync.ledger.reader import Reader
from axomsync.ledger.requests import request_transaction
from axomsync.ledger.rows import stored
from axomsync.ledger.writer import Ledger, trouble_of

__all__ = [
    "LEDGER_FILE",
    "Ledger",
    "LedgerFault",
    "Reader",
    "Trouble",
    "UnreadyLedger",
    "act_as_owner",
    "check_ledger",
    "holder",
    "ledger_fault",
    "read_only_uri",
    "request_transaction",
    "stored",
    "trouble_of",
]
