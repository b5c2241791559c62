"""`axomsync doctor`: try the real thing. Each check reports the state of a part and, if it does not work, the remedy.

A check is one function in the room of its part: it gets the installation and yields findings. `CHECKS` has all of
them in the order of the report: a new one needs a line there, and nothing else.

Every check stands alone: one that fails never keeps the others from being made. Failures handled: all that a part of
axomsync itself can meet (told in its own words), files of the kernel that are not there (that check is left out), a folder
whose filesystem does not answer (what waits for it is given up), any other (a finding of its own).
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from axomsync.config import Settings
from axomsync.core.disks import answer_or_fault
from axomsync.ops import access
from axomsync.ops.doctor import environment, far_side, folders, instances, ledger, service, speed, views, watching
from axomsync.ops.doctor.findings import Finding, standing_alone
from axomsync.ops.doctor.installation import Installation

CHECKS: tuple[Callable[[Installation], Iterator[Finding]], ...] = (
    environment.calling_user,
    environment.misspelt_variables,
    environment.proxies_in_use,
    environment.known_authorities,
    far_side.console_and_storage,
    environment.time_synchronisation,
    folders.folders_in_use,
    folders.growing_archive,
    views.views,
    service.rights,
    service.group_of_models,
    service.sandbox_of_units,
    instances.shared_places,
    watching.file_events,
    ledger.sound_ledger,
)
# The first waits for servers, the second gives up by itself what waits for a folder, and goes on.
PATIENT = frozenset({far_side.console_and_storage, folders.folders_in_use})


def examine(
    settings: Settings, config: Path, environ: Mapping[str, str], *, write: bool, measure: bool = False
) -> Iterator[Finding]:
    """Make all checks as the user who calls; `config` is the path of the configuration. `measure` also tells the speed."""
    installation = Installation(settings, environ, access.units(config), write, config)
    for check in CHECKS:
        yield from standing_alone(check.__name__.replace("_", " "), _made(check, installation))
    if measure:
        yield from standing_alone("speed", speed.speed(installation))


def _made(check: Callable[[Installation], Iterator[Finding]], installation: Installation) -> Iterator[Finding]:
    """Make a check. Raises `LocalFault` if it waits for a filesystem that does not answer."""
    asked = [] if check in PATIENT else [*installation.folders.values(), *installation.views.values()]
    yield from answer_or_fault(asked, lambda: list(standing_alone(check.__name__, check(installation))))
