"""Retention, pure: removable versions are those beyond `keep`, those gone upstream, and the oldest beyond `max_size`.

Pinned versions, the target of `current`, the version before it while it is on trial, versions pulled by name and versions
that a process has open are never removed. A model counts as gone upstream only after it was missing from `GONE_POLLS` lists
in a row over `GONE_SECONDS`, and only with `keep_gone = false`. For a version that is coming nothing is removed unless it
fits then: else the removed ones would be fetched again, and removed again, for nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from axomsync.mirror.layout import Age

GONE_POLLS = 10
GONE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Version:
    """A published version, or one that is coming."""

    id: str
    name: str
    age: Age
    size: int  # bytes
    pinned: bool = False
    current: bool = False
    pulled: bool = False
    absent_polls: int = 0
    absent_since: float | None = None
    on_trial: bool = False  # `current` may have to go back to it


@dataclass(frozen=True)
class Policy:
    """The limits in `[mirror]`."""

    keep: int = 0  # newest versions of a name; 0 is all
    max_size: int | None = None  # bytes of all versions together
    keep_gone: bool = True


@dataclass(frozen=True)
class Removal:
    """A removable version and the reason."""

    version: Version
    reason: str


@dataclass(frozen=True)
class Plan:
    """Removable versions in the right order; `spared`: those that would be removable if no process had them open."""

    removals: tuple[Removal, ...]
    spared: tuple[Removal, ...]


def plan(
    published: Iterable[Version],
    policy: Policy,
    now: float,
    is_open: Callable[[Version], bool],
    coming: Version | None = None,
    has_room: Callable[[Iterable[Version]], bool] = lambda removed: True,
) -> Plan:
    """Plan the removals at `now`; after them a second plan is empty.

    `coming` is a version that lacks room: it counts as published, and no younger version is removed for it. `has_room` tells
    whether the disk can take it without the removed ones; if it fits nowhere, the plan is the one without it. `is_open` is
    called only for versions that would be removed.
    """
    versions = sorted(published, key=lambda version: version.age)
    if coming is None:
        return _plan(versions, policy, now, is_open, None)
    for_it = _plan(versions, policy, now, is_open, coming)

    def fits(removals: Sequence[Removal]) -> bool:
        removed = {removal.version.id: removal.version for removal in removals}
        others = sum(version.size for version in versions if version.id not in removed)
        return is_within(coming.size, others, policy.max_size) and has_room(removed.values())

    if fits(for_it.removals):
        return for_it
    without = _plan(versions, policy, now, is_open, None)
    awaited = [*for_it.removals, *for_it.spared]  # it fits once the open ones are closed
    return Plan(without.removals, for_it.spared) if for_it.spared and fits(awaited) else without


def _plan(
    versions: Sequence[Version], policy: Policy, now: float, is_open: Callable[[Version], bool], coming: Version | None
) -> Plan:
    removals: list[Removal] = []
    spared: list[Removal] = []

    def weigh(version: Version, reason: str) -> bool:
        removal = Removal(version, reason)
        goes = not is_open(version)
        (removals if goes else spared).append(removal)
        return goes

    everyone = versions if coming is None else sorted([*versions, coming], key=lambda version: version.age)
    newest = _newest(everyone, policy.keep)
    total = sum(version.size for version in everyone)
    rest = []
    for version in versions:
        reason = None if _is_protected(version) else _why_superfluous(version, policy, newest, now)
        if reason is None:
            rest.append(version)
        elif weigh(version, reason):
            total -= version.size
    for version in rest:
        if policy.max_size is None or total <= policy.max_size or (coming is not None and version.age > coming.age):
            break
        if not _is_protected(version) and weigh(version, "the mirror would be larger than [mirror] max_size"):
            total -= version.size
    return Plan(tuple(removals), tuple(spared))


def is_within(size: int, others: int, max_size: int | None) -> bool:
    """Check that `size` bytes more than `others` stay within `max_size`."""
    return max_size is None or size + others <= max_size


def _is_protected(version: Version) -> bool:
    return version.pinned or version.current or version.pulled or version.on_trial


def _why_superfluous(version: Version, policy: Policy, newest: set[str], now: float) -> str | None:
    if policy.keep and version.id not in newest:
        return f"not among the newest {policy.keep} of its name ([mirror] keep)"
    if not policy.keep_gone and _is_gone(version, now):
        return "removed in the console ([mirror] keep_gone = false)"
    return None


def _is_gone(version: Version, now: float) -> bool:
    since = version.absent_since
    return since is not None and version.absent_polls >= GONE_POLLS and now - since >= GONE_SECONDS


def _newest(by_age: Sequence[Version], keep: int) -> set[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for version in by_age:
        names[version.name].append(version.id)
    return {model_id for ids in names.values() for model_id in ids[-keep:]} if keep else set()
