"""Commands that people give, what they mean, and what the agent has said of them."""

import os
from pathlib import Path

from tests.torture.evidence import Life, Truth, folders_of


class Orders:
    """The commands of one run; `mirror` is the box's folder. The `truth` follows what they are to do, and what they did."""

    def __init__(self, truth: Truth, mirror: Path) -> None:
        self._truth, self._mirror = truth, mirror
        self.on_disk: set[str] = set()  # versions that are whole on the disk to import
        self.disk_is_spoilt = False

    def begins(self, verb: tuple[str, ...]) -> None:
        """A life begins whose command may change what is agreed."""
        self._truth.imported_before = set(self._truth.imported)
        if verb[0] in ("promote", "rollback"):
            self._truth.agreed.setdefault(verb[1], set()).update(self._targets(verb))

    def lived(self, life: Life) -> None:
        """Take what a life said for the truth, and hold the agent to it."""
        if life.verb[:2] == ("verify", "--repair") and life.code == 0:
            self._truth.damaged.clear()
        if life.verb[0] in ("promote", "rollback") and life.code == 0:
            self._truth.agreed[life.verb[1]] = set(self._targets(life.verb))
            self._truth.promoted.add(life.verb[1])
        if life.verb[0] == "import" and life.code == 0:
            self._truth.imported |= self.on_disk

    def has_come_about(self, verb: tuple[str, ...]) -> bool:
        """Check that what a command was to do is so, though it ended with another code than 0."""
        if verb[0] == "import":
            return self.disk_is_spoilt or not self.on_disk
        if verb[0] == "promote":
            pinned = (self._mirror / verb[1] / ".pinned").is_symlink()
            return pinned or not self._targets(verb) or self._leads(verb[1]) in self._newer(verb)
        return verb[0] == "rollback" and not self._targets(verb)

    def _leads(self, name: str) -> str | None:
        link = self._mirror / name / "current"
        return os.readlink(link) if link.is_symlink() else None

    def _there(self, name: str) -> list[str]:
        """Versions of a name that are here, oldest first."""
        return [each.version for each in self._truth.published if each.name == name and folders_of(self._mirror, each)]

    def _targets(self, verb: tuple[str, ...]) -> list[str]:
        """The version that `promote` or `rollback` is to lead `current` to, if it is here."""
        there = self._there(verb[1])
        return [version for version in there if version in verb[2:]] if len(verb) > 2 else there[-1:]

    def _newer(self, verb: tuple[str, ...]) -> list[str]:
        """The version that `promote` names, and those that are newer: if one of these leads, it refuses."""
        there, (target,) = self._there(verb[1]), self._targets(verb)
        return there[there.index(target) :]
