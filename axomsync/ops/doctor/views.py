"""Checks of `[mirror] views`: folders of links that the agent keeps beside the mirror."""

from collections.abc import Iterator

from axomsync.mirror.publish.view_folder import ViewFolder
from axomsync.ops import access
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation

SUBJECT = "view"


def views(installation: Installation) -> Iterator[Finding]:
    """Check that each view is a folder that the agent may use, and holds nothing else."""
    settings = installation.settings.mirror
    for view in settings.views if settings.enabled else ():
        fault = ViewFolder(view, settings.folder).inspect()
        hidden = [obstacle for unit in installation.units for obstacle in access.hidden_by(unit, {"mirror": view.folder})]
        if fault is not None:
            found, _, fix = fault.partition("; ")
            yield Finding(SUBJECT, Verdict.FAIL, found, fix.removeprefix("run: "))
        for obstacle in hidden:
            yield Finding(SUBJECT, Verdict.FAIL, obstacle.found.replace("[mirror] folder", "[mirror] views:"), obstacle.fix)
        if fault is None and not hidden:
            yield Finding(SUBJECT, Verdict.OK, str(view))
