"""The ledger: everything that must outlive the process, in one SQLite file. The only user of sqlite-utils.

`Ledger` writes, for the one agent that holds the state folder; `Reader` reads, in any process.
"""

from axomsync.ledger.beside import write_beside_agent
from axomsync.ledger.holding import holder
from axomsync.ledger.reader import Reader, UnreadyLedger
from axomsync.ledger.writer import Ledger

__all__ = ["Ledger", "Reader", "UnreadyLedger", "holder", "write_beside_agent"]
