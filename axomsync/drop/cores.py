"""How many cores this process may use: those of the machine, less what an affinity or a cgroup's quota takes away.

Failures handled: no cgroup, or one that can't be read (the affinity alone counts).
"""

import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores, at least 1."""
    cores = os.cpu_count() or 1
    with suppress(OSError):
        cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        own = Path("/proc/self/cgroup").read_text()
        quota = quota_of(own, CGROUPS)
        if quota is not None:
            cores = min(cores, round(quota))
    return max(1, cores)


def quota_of(table: str, mounted: Path) -> float | None:
    """Return the cores that the cgroups of a process grant it, None where none limits them.

    `table` is the text of /proc/self/cgroup, `mounted` the folder of the cgroups (version 2; source: cgroups(7)).
    """
    path = next((line.removeprefix("0::") for line in table.splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    group = mounted / path.lstrip("/")
    quotas = []
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):
            most, period = (folder / "cpu.max").read_text().split()
            if most != "max":
                quotas.append(int(most) / int(period))
        if folder == mounted:
            break
    return min(quotas, default=None)
