"""Promotion, pure: which published version `current` leads to, and which ones wait for it.

A pinned version always leads. Else `current` follows the newest version: at once, in a window, or when a person says so.
With windows, a name without a `current` gets one at once: nothing that runs is disturbed. With "manual" the first version
waits too, as nobody has agreed to it.

A version that failed its health check, and all that are older, no longer get `current` by themselves; newer ones do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo

from axomsync.core.errors import Rejected
from axomsync.core.text import printable
from axomsync.core.windows import Promotes, is_open, opening


@dataclass(frozen=True)
class Place:
    """What the folder of a name holds; versions are named by their folders."""

    versions: tuple[str, ...]  # newest first
    current: str | None  # what it leads to
    pinned: str | None = None
    failed: str | None = None  # the last version that failed its health check

    @property
    def served(self) -> str | None:
        """The version that `current` leads to; None if there is none, or it is gone."""
        return self.current if self.current in self.versions else None

    @property
    def held(self) -> str | None:
        """The pinned version, if it is there."""
        return self.pinned if self.pinned in self.versions else None


Choose = Callable[[Place], str | None]


@dataclass(frozen=True)
class Waiting:
    """A version that waits for `current`; `until` is None when a person has to promote it."""

    version: str
    until: float | None


def wanted(place: Place, promotes: Promotes, now: float, zone: tzinfo | None = None) -> str | None:
    """The version that `current` is to lead to now; None leaves it as it is."""
    if place.held is not None:
        return place.held
    if promotes == "manual":
        return place.served
    if place.served is None or is_open(promotes, now, zone):
        return _follower(place)
    return place.served


def at_once(place: Place) -> str | None:
    """The choice of `promote = "now"`."""
    return wanted(place, "now", 0.0)


def waiting(place: Place, promotes: Promotes, now: float, zone: tzinfo | None = None) -> list[Waiting]:
    """The versions that wait, newest first: a window promotes the first of them."""
    if place.held is not None or promotes == "now":
        return []
    until = opening(promotes, now, zone)
    return [Waiting(version, until) for version in _newer(place)]


def promoted(place: Place, version: str | None) -> str:
    """The version that a person promotes: the one that is named, or the newest that waits. Raises `Rejected`."""
    leads = f"current leads to {printable(place.served)}" if place.served else "there is no current"
    if place.held is not None and place.held != version:
        raise Rejected(f"{leads}, which is pinned; `axomsync unpin` first")
    if version is None:
        newer = _newer(place)
        if not newer:
            failed = f"; {printable(place.failed)} failed its health check, name it to try it again" if place.failed else ""
            raise Rejected(f"no version waits: {leads}{failed}")
        return newer[0]
    if version not in place.versions:
        raise Rejected(f"there is no {printable(version)}; there are {', '.join(map(printable, place.versions))}")
    if place.served is not None and place.versions.index(version) > place.versions.index(place.served):
        raise Rejected(f"{printable(version)} does not wait: {leads}, which is newer; `axomsync rollback` leads back")
    return version


def _newer(place: Place) -> tuple[str, ...]:
    """Versions that are newer than the one that leads, and than one that failed."""
    bounds = [place.versions.index(bound) for bound in (place.served, place.failed) if bound in place.versions]
    return place.versions[: min(bounds, default=len(place.versions))]


def _follower(place: Place) -> str | None:
    """The newest version that may lead without a person's word."""
    others = tuple(version for version in place.versions if version != place.failed)
    return next(iter([*_newer(place), *filter(None, (place.served,)), *others, *place.versions]), None)
