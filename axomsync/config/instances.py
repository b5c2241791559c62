"""The configurations of all agents of one machine: what each uses, so that none takes what is another's.

Failures handled: a configuration that can't be used (told as it is, or left out where only free places are looked for).
"""

from collections.abc import Mapping
from pathlib import Path

from axomsync.config.load import Loaded, load
from axomsync.config.locations import ENVIRONMENT_ONLY, SYSTEM_CONFIG, config_folders, configurations_beside, find
from axomsync.config.settings import WebSettings
from axomsync.config.values import listen_address
from axomsync.core.errors import BadConfig


def neighbours(path: Path, environ: Mapping[str, str]) -> dict[Path, Loaded | BadConfig]:
    """All configurations beside this one, and this one, each loaded or with its error.

    Variables of the environment override none of them: they are meant for one agent.
    """
    plain = {name: value for name, value in environ.items() if "__" not in name}
    found: dict[Path, Loaded | BadConfig] = {}
    for one in configurations_beside(path, environ):
        try:
            found[one] = load(one, plain)
        except BadConfig as bad:
            found[one] = bad
    return found


def everyone(explicit: str | None, environ: Mapping[str, str]) -> dict[Path, Loaded | BadConfig]:
    """The configurations of all agents, beside the one that a command would use. Raises `BadConfig` when there is none."""
    try:
        path = find(explicit, environ)
        return {path: load(path, environ)} if path == ENVIRONMENT_ONLY else neighbours(path, environ)
    except BadConfig:
        for folder in config_folders(environ):
            if found := neighbours(folder / Path(SYSTEM_CONFIG).name, environ):
                return found
        raise


def free_listen(path: Path, environ: Mapping[str, str]) -> str:
    """An address for the page of a new instance, whose configuration will be at `path`, that no other one names."""
    default = str(WebSettings().listen)
    host, port = listen_address(default)
    others = [loaded.settings.web.listen for loaded in neighbours(path, environ).values() if isinstance(loaded, Loaded)]
    taken = {listen_address(listen)[1] for listen in [default, *others] if listen}
    while port in taken:
        port += 1
    return f"{host}:{port}"
