"""The agent's name among the agents that share its folders; it is in a file beside the ledger, and outlives it.

With it, an agent whose ledger was lost or restored recognises its own claims and staging.

Failures handled: a missing file (the ledger's name is written to it, or a new name), a file with other content or a link in
its place (replaced, never followed), a folder that can't be written now (the name is in the ledger, too).
"""

import re
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import IDENTITY_FILE, UNFINISHED

_FORM = re.compile(r"[0-9a-f]{12}")


def identity_of(folder: Path, known: str | None) -> str:
    """Read or make the identity of the agent that holds the state folder; `known` is its ledger's. Raises `LocalFault`."""
    try:
        with Folder.open(folder) as state:
            for name in state.names():
                if name.startswith(UNFINISHED):  # a life that was killed wrote it: no other agent writes here
                    with suppress(OSError):
                        state.unlink(name)
            kept = _kept(state)
            if _FORM.fullmatch(kept):
                return kept
            identity = known if known and _FORM.fullmatch(known) else uuid.uuid4().hex[:12]
            with suppress(OSError):
                state.replace(IDENTITY_FILE, f"{identity}\n".encode(), 0o640)
            return identity
    except OSError as error:
        raise local_fault(error) from None


def _kept(state: Folder) -> str:
    status = state.status(IDENTITY_FILE)
    if status is None or not stat.S_ISREG(status.st_mode):
        return ""
    return state.read(IDENTITY_FILE, 100).decode("ascii", "replace").strip()
