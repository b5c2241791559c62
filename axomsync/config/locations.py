"""Places of the configuration file: the one to read, and the one that `init` writes.

Failures handled: no configuration anywhere, a file that this user may not see, a user without a home folder (`BadConfig`).
"""

import os
from collections.abc import Mapping
from pathlib import Path

from axomsync.config.keys import ENVIRONMENT_PREFIX
from axomsync.core.errors import BadConfig
from axomsync.core.rights import denial_of

SYSTEM_CONFIG = "/etc/axomsync/config.toml"
ENVIRONMENT_ONLY = Path("the environment")  # in place of a path when there is no file


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file to use: `explicit`, `$AXOMSYNC_CONFIG`, the system's, the user's. Raises `BadConfig`."""
    if explicit or environ.get("AXOMSYNC_CONFIG"):
        return Path(explicit or environ["AXOMSYNC_CONFIG"])
    candidates = [Path(SYSTEM_CONFIG)]
    init = "axomsync init"
    try:
        candidates.append(_user_config(environ))
    except BadConfig:  # a user without a home folder has no such file
        init += "" if os.geteuid() == 0 else " --config FILE"
    for candidate in candidates:
        if os.path.exists(candidate):  # Path.exists raises when a folder above is closed to us
            return candidate
    if any(name.startswith(ENVIRONMENT_PREFIX) and "__" in name for name in environ):
        return ENVIRONMENT_ONLY
    if (denial := denial_of(SYSTEM_CONFIG)) is not None and denial.bits == 1:  # one may be there
        raise BadConfig(f"{SYSTEM_CONFIG}: {denial.words(SYSTEM_CONFIG)}")
    raise BadConfig(
        f"no configuration at {' or '.join(map(str, candidates))}; run `{init}`, or set variables such as "
        "AXOMSYNC_CONSOLE__URL"
    )


def defaults_for_user(explicit: str | None, environ: Mapping[str, str], *, root: bool) -> tuple[Path, dict[str, object]]:
    """Return the file that `init` writes, and folders for its user: the system's for root, else folders below home, or
    beside the file for a user without one. Raises `BadConfig`."""
    path = explicit or environ.get("AXOMSYNC_CONFIG")
    if root:
        return Path(path or SYSTEM_CONFIG), {}
    try:
        home = _home(environ)
    except BadConfig:
        if not path:
            raise
        home = Path(path).absolute().parent  # what is named can be written, and in a container lies on a volume
    state = environ.get("XDG_STATE_HOME")
    folders: dict[str, object] = {
        "drop.folder": str(home / "axom" / "drop"),
        "mirror.folder": str(home / "axom" / "models"),
        "state.folder": str((Path(state) if state else home / ".local" / "state") / "axomsync"),
    }
    return Path(path) if path else _user_config(environ), folders


def _user_config(environ: Mapping[str, str]) -> Path:
    folder = environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else _home(environ) / ".config") / "axomsync" / "config.toml"


def _home(environ: Mapping[str, str]) -> Path:
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        raise BadConfig(
            "this user has no home folder; name the configuration with --config FILE, or do without it by variables such as "
            "AXOMSYNC_CONSOLE__URL"
        ) from None
