"""A configuration that is read again while the agent works: it is either usable as a whole, or nothing changes.

Failures handled: a bad configuration, a key that can't change under way (`BadConfig`), a machine that can't do what the new
one asks for (`LocalFault`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from axomsync import config
from axomsync.agent.workers import Workers
from axomsync.config import Loaded, Reload, Settings
from axomsync.core.errors import BadConfig


@dataclass(frozen=True)
class NewConfiguration:
    """What was read. `workers` are those to work by it, None if the present ones can go on; `changed` names the keys."""

    loaded: Loaded
    workers: Workers | None
    changed: tuple[str, ...]


def read_again(old: Loaded, environ: Mapping[str, str], build: Callable[[Settings], Workers]) -> NewConfiguration:
    """Read the configuration again; `build` makes workers for it. Raises `BadConfig`, `LocalFault`."""
    loaded = config.load(old.path, environ)
    changes = config.changes(old.settings, loaded.settings)
    if Reload.RESTART in changes.values():
        raise BadConfig("[state] folder can't change while the agent runs; restart it")
    workers = build(loaded.settings) if Reload.TRANSFERS in changes.values() else None
    return NewConfiguration(loaded, workers, tuple(changes))
