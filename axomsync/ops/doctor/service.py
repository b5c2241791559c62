"""Checks of the service: the rights of its user, and the sandbox of its units. What they are made of is in `ops.access`."""

import os
from collections.abc import Iterator

from axomsync.mirror.publish.access import gid_of
from axomsync.ops import access
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation


def rights(installation: Installation) -> Iterator[Finding]:
    """Check that the service's user, or the caller where there is no service, may use the folders."""
    user = installation.service if installation.units else access.caller()
    settings = installation.settings
    drop = settings.drop.folder if settings.drop.enabled else None
    obstacles = access.denied({**installation.folders, **installation.views}, drop, user)
    for obstacle in obstacles:
        yield Finding("rights", Verdict.FAIL if obstacle.grave else Verdict.WARN, obstacle.found, obstacle.fix)
    if not obstacles:
        name = user.pw_name if user else f"the user {os.geteuid()}"
        yield Finding("rights", Verdict.OK, f"{name} may use the folders that people made in the drop folder")
    if drop is not None and (trap := access.umask_trap(drop, user)) is not None:
        yield Finding("rights", Verdict.WARN, trap.found, trap.fix)


def sandbox_of_units(installation: Installation) -> Iterator[Finding]:
    """Check that units let their service write to every folder."""
    for unit in installation.units:
        hidden = access.hidden_by(unit, installation.folders)
        yield from (Finding("unit", Verdict.FAIL, obstacle.found, obstacle.fix) for obstacle in hidden)
        if not hidden:
            yield Finding("unit", Verdict.OK, f"{unit['Id']} lets its service write to every folder")


def group_of_models(installation: Installation) -> Iterator[Finding]:
    """Check that the service's user, or the caller where there is no service, may give files to `[mirror] group`."""
    mirror = installation.settings.mirror
    if not mirror.enabled or not mirror.group:
        return
    gid, place = gid_of(mirror.group), f"[mirror] group {mirror.group}"
    user = installation.service if installation.units else access.caller()
    if gid is None:
        yield Finding("group", Verdict.FAIL, f"{place}: there is no such group", f"groupadd {mirror.group}, or correct it")
    elif user is None or user.pw_uid == 0 or gid in os.getgrouplist(user.pw_name, user.pw_gid):
        yield Finding("group", Verdict.OK, f"{place}: models can be given to it, with mode {mirror.mode}")
    else:
        fix = f"usermod -aG {mirror.group} {user.pw_name}, then restart the agent"
        yield Finding("group", Verdict.FAIL, f"{place}: the user {user.pw_name} is not in it", fix)
