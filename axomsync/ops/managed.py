"""The unit of systemd that runs a configuration: of the machine, or of the calling user.

Failures handled: no systemd, no unit that uses this configuration (None).
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.ops import access

MANAGER_SECONDS = 60.0  # a reload waits for the service's own commands


@dataclass(frozen=True)
class ManagedUnit:
    """A unit that starts the agent with this configuration. `of_user`: the manager of the calling user has it."""

    name: str
    is_active: bool
    of_user: bool

    @property
    def manager(self) -> tuple[str, ...]:
        """The command that asks the manager of this unit."""
        return ("systemctl", "--user") if self.of_user else ("systemctl",)


def managed_units(config: Path) -> list[ManagedUnit]:
    """Return the units that use this configuration: those of the calling user, else those of the machine."""
    for of_user in (True, False):
        if of_user and os.geteuid() == 0:
            continue
        if asked := access.units(config, partial(access.properties_of, of_user=of_user)):
            return [ManagedUnit(unit["Id"], unit.get("ActiveState") == "active", of_user) for unit in asked]
    return []


def call_manager(words: Sequence[str]) -> None:
    """Run a command of systemctl. Raises `LocalFault` with what it said."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=MANAGER_SECONDS, check=False)
    except OSError as error:
        raise LocalFault(f"{words[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        told = f"no answer within {MANAGER_SECONDS:g} s; look at: systemctl list-jobs"
        raise LocalFault(f"{' '.join(words)}: {told}") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LocalFault(f"{' '.join(words)}: {said}")
