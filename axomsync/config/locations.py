"""Places of the configuration file: the one to read, and the one that `init` writes; of each instance, one of its name.

`NAME.toml` beside `config.toml` is the configuration of the instance NAME, however a command came to its path.

Failures handled: no configuration anywhere, a file that this user may not see, a user without a home folder, a name that
can't be one of an instance (`BadConfig`).
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from axomsync.config.keys import ENVIRONMENT_PREFIX
from axomsync.core.errors import BadConfig
from axomsync.core.rights import denial_of

SYSTEM_CONFIG = "/etc/axomsync/config.toml"
ENVIRONMENT_ONLY = Path("the environment")  # in place of a path when there is no file
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_TAKEN = frozenset({"config", "drop", "models", "spool"})  # by files and folders of the agent without a name


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file to use: `explicit`, `$AXOMSYNC_CONFIG`, the system's, the user's. Raises `BadConfig`."""
    if explicit or environ.get("AXOMSYNC_CONFIG"):
        return Path(os.path.abspath(explicit or environ["AXOMSYNC_CONFIG"]))  # what it is does not depend on the spelling
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
    if named := instance_names(environ):
        init = f"{init}`, or give this command `--instance {'|'.join(named)}"
    raise BadConfig(
        f"no configuration at {' or '.join(map(str, candidates))}; run `{init}`, or set variables such as "
        "AXOMSYNC_CONSOLE__URL"
    )


def defaults_for_user(explicit: str | None, environ: Mapping[str, str], *, root: bool) -> tuple[Path, dict[str, object]]:
    """Return the file that `init` writes, and folders for its user: the system's for root, else folders below home, or
    beside the file for a user without one. Raises `BadConfig`."""
    path = explicit or environ.get("AXOMSYNC_CONFIG")
    name = instance_of(Path(path), environ) if path else None
    if root:
        return Path(path or SYSTEM_CONFIG), dict(instance_values(name)) if name else {}
    try:
        home = _home(environ)
    except BadConfig:
        if not path:
            raise
        home = Path(path).absolute().parent  # what is named can be written, and in a container lies on a volume
    state = Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "axomsync"
    if name is not None:
        return Path(str(path)), dict(instance_values(name, home / "axom", state))
    folders: dict[str, object] = {
        "drop.folder": str(home / "axom" / "drop"),
        "mirror.folder": str(home / "axom" / "models"),
        "state.folder": str(state),
    }
    return Path(path) if path else _user_config(environ), folders


# Instances


def check_instance(name: str) -> None:
    """Check that an instance may have this name. Raises `BadConfig`."""
    if not _INSTANCE.fullmatch(name) or name in _TAKEN:
        raise BadConfig(
            f"{name[:40]!r} can't be the name of an instance; take up to 32 of a-z, 0-9, - and _, a letter or digit first, "
            f"and none of {', '.join(sorted(_TAKEN))}"
        )


def instance_config(name: str, environ: Mapping[str, str], *, root: bool) -> Path:
    """The configuration of an instance: the system's or the user's, whichever is there; else where the caller's would be.

    Raises `BadConfig`.
    """
    check_instance(name)
    system = Path(SYSTEM_CONFIG).with_name(f"{name}.toml")
    if os.path.exists(system):
        return system
    try:
        own = _user_config(environ).with_name(system.name)
    except BadConfig:
        return system
    if os.path.exists(own):
        return own
    denial = denial_of(str(system))
    return system if root or (denial is not None and denial.bits == 1) else own


def instance_of(path: Path, environ: Mapping[str, str]) -> str | None:
    """The instance whose configuration this is; None for any other file."""
    if path.suffix != ".toml" or not _INSTANCE.fullmatch(path.stem) or path.stem in _TAKEN:
        return None
    return path.stem if Path(os.path.abspath(path)).parent in config_folders(environ) else None


def instance_names(environ: Mapping[str, str]) -> list[str]:
    """Names of all instances that have a configuration."""
    places = [folder / Path(SYSTEM_CONFIG).name for folder in config_folders(environ)]
    found = [one for place in places for one in configurations_beside(place, environ)]
    return list(dict.fromkeys(name for one in found if (name := instance_of(one, environ))))


def configurations_beside(path: Path, environ: Mapping[str, str]) -> list[Path]:
    """All configurations in the folder of this one, `config.toml` first; it alone if that folder is not one of ours."""
    path = Path(os.path.abspath(path))
    if path.parent not in config_folders(environ):
        return [path]
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:  # no such folder, or one that may only be passed
        return [path] * os.path.exists(path)
    main = Path(SYSTEM_CONFIG).name
    found = [path.parent / name for name in names if instance_of(path.parent / name, environ)]
    return [path.with_name(main)] * (main in names) + found


def instance_values(name: str, data: Path = Path("/srv/axom"), state: Path = Path("/var/lib/axomsync")) -> Mapping[str, str]:
    """What an instance has in place of the defaults: nothing that another one uses."""
    return {
        "state.folder": str(state / name),
        "drop.folder": str(data / name / "drop"),
        "mirror.folder": str(data / name / "models"),
        "web.listen": "",
    }


def config_folders(environ: Mapping[str, str]) -> list[Path]:
    """The folders that hold configurations: the system's, and the user's."""
    folders = [Path(SYSTEM_CONFIG).parent]
    with suppress(BadConfig):  # a user without a home folder
        folders.append(Path(os.path.abspath(_user_config(environ).parent)))
    return folders


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
