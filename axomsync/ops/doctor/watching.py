"""The check of file events in the drop folder. Failures handled: no events, and a kernel that does not tell its limit."""

import os
from collections.abc import Iterator
from pathlib import Path

from axomsync.drop.watch import Watcher
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation

WATCHES_SHARE = 0.8


def file_events(installation: Installation) -> Iterator[Finding]:
    """Check that the kernel reports files that appear in the drop folder."""
    drop = installation.settings.drop
    if not drop.enabled:
        return
    watcher = Watcher(drop.folder, drop.observer, lambda: None)
    try:
        watcher.heal()
        if watcher.fault is not None:
            yield Finding("watching", Verdict.WARN, watcher.fault, "until then files are found by [drop] rescan only")
            return
        yield Finding("watching", Verdict.OK, watcher.kind)
    finally:
        watcher.stop()
    limit = _number_in("/proc/sys/fs/inotify/max_user_watches")
    if watcher.kind == "inotify" and limit is not None:
        yield watches(sum(1 for _ in os.walk(drop.folder)), limit)


def watches(folders: int, limit: int) -> Finding:
    """Judge the number of folders: inotify needs one watch each, and all programs of a user share the limit."""
    found = f"{folders:,} folders of at most {limit:,} watches"
    if folders < limit * WATCHES_SHARE:
        return Finding("inotify", Verdict.OK, found)
    return Finding("inotify", Verdict.WARN, found, f"sysctl fs.inotify.max_user_watches={max(limit, folders) * 2}")


def _number_in(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
