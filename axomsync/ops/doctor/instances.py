"""Checks between the agents of one machine: what two of them use that each needs for itself.

Failures handled: a neighbour whose configuration can't be used (told, the others are compared).
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from axomsync import config
from axomsync.config import Loaded, Settings
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation

SUBJECT = "instances"
_OF_BOTH = {
    "[drop] folder": "each file is uploaded by one of the two, whichever is first; name another folder in one of them",
    "[mirror] folder": "both mirror into it and need the same [mirror] keep and promote; or name another folder",
}
_ALL_HOSTS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # nothing is bound here


def shared_places(installation: Installation) -> Iterator[Finding]:
    """Check that no other agent of this machine has the same state folder, page, or a folder that meets one of ours."""
    found = config.neighbours(installation.config, installation.environ)
    here = os.path.abspath(installation.config)
    others = {path: loaded for path, loaded in found.items() if str(path) != here}
    if not others:
        return
    faults = []
    for path, loaded in others.items():
        if isinstance(loaded, Loaded):
            faults += list(_between(installation.settings, loaded.settings, path))
        else:
            first = str(loaded).partition("\n")[0]
            faults.append(Finding(SUBJECT, Verdict.WARN, first, f"axomsync config check --config {path}"))
    yield from faults or [Finding(SUBJECT, Verdict.OK, f"{len(others)} more on this machine, and nothing is used by two")]


def _between(ours: Settings, theirs: Settings, path: Path) -> Iterator[Finding]:
    if _same(ours.state.folder, theirs.state.folder):
        found = f"[state] folder {ours.state.folder} is also that of {path}, so only one of the two can run"
        yield Finding(SUBJECT, Verdict.FAIL, found, "name another [state] folder in one of them")
    if ours.web.listen and theirs.web.listen and _meet(ours.web.listen, theirs.web.listen):
        found = f"[web] listen {ours.web.listen} is also that of {path}, so only one of the two has a page and metrics"
        yield Finding(SUBJECT, Verdict.FAIL, found, "name another port in one of them")
    for (name, folder), (other, their_folder) in _pairs(_places(ours), _places(theirs)):
        if {name, other} == {"[state] folder"} or not config.overlap(folder, their_folder):
            continue
        fix = _OF_BOTH.get(name) if name == other and _same(folder, their_folder) else None
        found = f"{name} {folder} meets {other} {their_folder} of {path}"
        yield Finding(SUBJECT, Verdict.WARN if name == other else Verdict.FAIL, found, fix or "keep them apart")


def _places(settings: Settings) -> dict[str, Path]:
    places = {"[state] folder": settings.state.folder}
    places |= {"[drop] folder": settings.drop.folder} if settings.drop.enabled else {}
    if settings.mirror.enabled:
        places["[mirror] folder"] = settings.mirror.folder
        places |= {f"[mirror] views {view}": view.folder for view in settings.mirror.views}
    return places


def _pairs(ours: Mapping[str, Path], theirs: Mapping[str, Path]) -> Iterator[tuple[tuple[str, Path], tuple[str, Path]]]:
    return (((one, folder), (other, their)) for one, folder in ours.items() for other, their in theirs.items())


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _meet(one: str, other: str) -> bool:
    """Check whether two addresses can't be listened on at once: the same port, and one host or all hosts."""
    (host, port), (their_host, their_port) = config.listen_address(one), config.listen_address(other)
    return port == their_port and (host == their_host or not _ALL_HOSTS.isdisjoint({host, their_host}))
