"""Staging of dead agents, beside that of agents that share the mirror."""

import os
import time
from pathlib import Path

from axomsync.mirror.publish.abandoned import ABANDONED_SECONDS, remove_abandoned

OWN, OTHER = "0123456789ab", "ba9876543210"


def test_remove_abandoned_removes_only_old_staging(tmp_path: Path) -> None:
    for name in (OWN, OTHER, "notes", "link-target"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "weights").write_bytes(b"half")
        os.utime(tmp_path / name / "model" / "weights", (0, 0))  # says nothing of when it was received
    (tmp_path / "abcdefabcdef").symlink_to(tmp_path / "link-target")
    now = time.time()
    remove_abandoned(tmp_path / OWN, now + ABANDONED_SECONDS - 60)
    assert (tmp_path / OTHER / "model" / "weights").exists()
    remove_abandoned(tmp_path / OWN, now + ABANDONED_SECONDS + 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == [OWN, "abcdefabcdef", "link-target", "notes"]
    assert (tmp_path / "link-target" / "model" / "weights").exists()
    remove_abandoned(tmp_path / "missing" / OWN, now)
