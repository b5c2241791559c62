"""Abandoned staging: of agents that lost their name together with their ledger.

Agents may share a mirror, so only age distinguishes abandoned staging from that of another agent.

Failures handled: a folder that can't be read (it stays), links (not followed).
"""

import logging
import os
import re
import shutil
from pathlib import Path

from axomsync.core.filesystems import walk_all
from axomsync.core.text import printable

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 30 * 86400.0  # without any change
_IDENTITY = re.compile(r"[0-9a-f]{12}")


def remove_abandoned(own: Path, now: float) -> None:
    """Remove old staging of other agents beside `own`, the staging of this agent."""
    try:
        names = os.listdir(own.parent)
    except OSError:
        return  # none yet; a fault is met when the agent's own is made
    for name in names:
        folder = own.parent / name
        if name != own.name and _IDENTITY.fullmatch(name) and not changed_since(folder, now - ABANDONED_SECONDS):
            log.info("%s: removed partial downloads of an agent that no longer runs", printable(str(folder)))
            shutil.rmtree(folder, ignore_errors=True)


def changed_since(folder: Path, begin: float) -> bool:
    """Check whether anything in a folder was changed since `begin`; what can't be read counts as changed."""
    try:
        for place, folders, files in walk_all(folder):
            if any(os.lstat(os.path.join(place, name)).st_ctime >= begin for name in (".", *folders, *files)):
                return True
    except OSError:
        return True  # unknown counts as changed
    return False
