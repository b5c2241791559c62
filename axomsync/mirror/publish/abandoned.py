"""Staging that nobody will finish: of agents whose name was lost with their ledger, before it was kept beside it.

Agents may share a mirror, so what is another's is told from what is abandoned by its age alone.

Failures handled: a folder that can't be looked at (it stays), links (not followed).
"""

import logging
import os
import re
import shutil
from pathlib import Path

from axomsync.core.text import printable

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 30 * 86400.0  # without any change in it
_IDENTITY = re.compile(r"[0-9a-f]{12}")


def remove_abandoned(own: Path, now: float) -> None:
    """Remove what lies beside `own`, the staging of this agent, under another agent's name, and was not touched for long."""
    try:
        names = os.listdir(own.parent)
    except OSError:
        return  # none, or whoever makes the agent's own tells why not
    for name in names:
        folder = own.parent / name
        if name != own.name and _IDENTITY.fullmatch(name) and not _changed_since(folder, now - ABANDONED_SECONDS):
            log.info("%s: removed partial downloads of an agent that no longer runs", printable(str(folder)))
            shutil.rmtree(folder, ignore_errors=True)


def _changed_since(folder: Path, begin: float) -> bool:
    try:
        for place, folders, files in os.walk(folder, onerror=_fail):
            if any(os.lstat(os.path.join(place, name)).st_ctime >= begin for name in (".", *folders, *files)):
                return True
    except OSError:
        return True  # perhaps
    return False


def _fail(error: OSError) -> None:
    raise error
