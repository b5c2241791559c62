"""What the verbs share: their common options, the loaded configuration, the ledger for reading, the console.

Failures handled: a ledger that is not there yet, or not of this version, a state folder that can't be looked into, one that
belongs to another user than root, who calls."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from axomsync.core.oserrors import local_fault
from axomsync.core.records import UploadState

if TYPE_CHECKING:
    from axomsync.config import Loaded
    from axomsync.console.client import Console
    from axomsync.ledger import Reader

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """`--config FILE`, which every verb takes."""
    return click.option("--config", "config_file", metavar="FILE", help="Configuration file.")(function)


def json_option(function: F) -> F:
    """`--json`, for every verb that prints facts."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def load(config_file: str | None) -> "Loaded":
    """The configuration that holds. Raises `BadConfig`."""
    from axomsync import config

    return config.load(config.find(config_file, os.environ), os.environ)


def load_and_log(config_file: str | None, level: str | None = None) -> "Loaded":
    """As `load`, for a verb that works for long: its log goes where the configuration says, from `level` on."""
    from axomsync.ops import logs

    loaded = load(config_file)
    logs.set_up(loaded.settings.log.format, level or loaded.settings.log.level)
    return loaded


def as_owner(loaded: "Loaded") -> Mapping[str, str]:
    """The environment to work with, after root has become the owner of the state folder for good.

    The key is read before that where only root may read it. Raises `LocalFault`.
    """
    from axomsync.config import load_key
    from axomsync.core.errors import KeyRefused
    from axomsync.ledger import act_as_owner

    key: str | None = None
    if os.geteuid() == 0:
        with suppress(KeyRefused):
            key = load_key(loaded.settings, os.environ)
    if not act_as_owner(loaded.settings.state.folder) or key is None:
        return os.environ
    try:
        load_key(loaded.settings, os.environ)
    except KeyRefused:
        return {**os.environ, "AXOM_KEY": key}
    return os.environ


@contextmanager
def open_ledger(loaded: "Loaded") -> "Iterator[Reader | None]":
    """The ledger for reading, or None before the first start of an agent. Raises `LocalFault`."""
    from axomsync.core.paths import LEDGER_FILE
    from axomsync.ledger import Reader

    path = loaded.settings.state.folder / LEDGER_FILE
    try:
        path.lstat()
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise local_fault(error, str(path)) from None
    reader = Reader(path)
    try:
        yield reader
    finally:
        reader.close()


def status_of(loaded: "Loaded") -> dict[str, Any]:
    """What `status --json` prints."""
    from axomsync.ledger import UnreadyLedger
    from axomsync.status.report import status_document

    try:
        with open_ledger(loaded) as ledger:
            return status_document(loaded.settings, ledger)
    except UnreadyLedger as outdated:
        return status_document(loaded.settings, None, str(outdated))


@dataclass(frozen=True)
class Among:
    """Which uploads are meant: all, or those in one of `states`, changed `since`, the newest; or `ids` alone."""

    states: frozenset[UploadState] = frozenset()
    since: float | None = None
    limit: int | None = None
    ids: Collection[int] | None = None


def uploads_of(loaded: "Loaded", among: Among = Among()) -> list[dict[str, Any]]:
    """What `uploads --json` prints, of those that are meant."""
    from axomsync.status.report import upload_document

    with open_ledger(loaded) as ledger:
        if ledger is None:
            return []
        shards, orphans = ledger.all_shards(), ledger.orphans()
        if among.ids is None:
            rows = ledger.uploads(among.states, among.since, among.limit)
        else:
            rows = ledger.uploads_among(among.ids)
        return [upload_document(row, shards.get(row.id, ()), orphans.get(row.id, ())) for row in rows]


def ca_file_of(loaded: "Loaded") -> str | None:
    """The private certificate authority, as the HTTP parts take it."""
    ca_file = loaded.settings.console.ca_file
    return str(ca_file) if ca_file else None


def console_of(loaded: "Loaded") -> "Console":
    """The console, with the key that the configuration leads to."""
    from axomsync.config import load_key
    from axomsync.console.client import Console

    return Console(loaded.settings.console.url, lambda: load_key(loaded.settings, os.environ), ca_file=ca_file_of(loaded))
