"""Parts that verbs share: common options, the loaded configuration, the ledger for reading, the console.

Failures handled: a ledger that is not there yet, or not of this version, a state folder that can't be read, one that belongs
to another user while root calls.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from axomsync.core.oserrors import local_fault
from axomsync.core.records import UploadState

if TYPE_CHECKING:
    from axomsync.config import Loaded
    from axomsync.console.client import Console
    from axomsync.ledger import Reader

F = TypeVar("F", bound=Callable[..., Any])


INSTANCE = "axomsync.instance"  # where a click context has the name that `--instance` gave
MOST_SHOWN = 1_000_000_000  # lines or rows that an option may ask for; journalctl takes no number above 2^31


def config_option(function: F) -> F:
    """Add `--config FILE` and `--instance NAME`, which every verb takes; both name the configuration, `config_file`."""
    named = click.option(
        "--instance",
        metavar="NAME",
        expose_value=False,
        is_eager=True,
        callback=_note_instance,
        shell_complete=_instances,
        help="Agent of this name: the configuration /etc/axomsync/NAME.toml.",
    )
    file = click.option("--config", "config_file", metavar="FILE", callback=_configuration, help="Configuration file.")
    return file(named(function))


def _instances(context: click.Context, option: click.Parameter, begin: str) -> list[str]:
    """The instances that a shell completes to."""
    from axomsync import config

    return [name for name in config.instance_names(os.environ) if name.startswith(begin)]


def _note_instance(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None:
        context.meta[INSTANCE] = name


def _configuration(context: click.Context, option: click.Parameter, file: str | None) -> str | None:
    """The file that one of the two options names. Raises `BadConfig` for a name that none can have."""
    from axomsync import config

    name: str | None = context.meta.get(INSTANCE)
    if name is None:
        return file
    named = str(config.instance_config(name, os.environ, root=os.geteuid() == 0))
    if file not in (None, named):  # `named` itself comes from an --instance before the verb
        raise click.UsageError("--config and --instance both name a configuration; leave one away", context)
    return named


def json_option(function: F) -> F:
    """Add `--json`, for verbs that print facts."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def load(config_file: str | None, *needs: Literal["state", "drop", "mirror"]) -> "Loaded":
    """Return the effective configuration, for a verb that can do nothing without the folders of these sections.

    Raises `BadConfig`, and `LocalFault` when the filesystem of one of these folders does not answer.
    """
    from axomsync import config
    from axomsync.core.disks import disk_of

    loaded = config.load(config.find(config_file, os.environ), os.environ)
    for section in needs:
        part = getattr(loaded.settings, section)
        if getattr(part, "enabled", True):
            disk_of(part.folder).demand_answer()
    return loaded


def load_and_log(config_file: str | None, level: str | None = None) -> "Loaded":
    """Load the configuration and set up its log from `level` on, for a verb that works for long.

    Raises `BadConfig`, and `LocalFault` when the state folder's filesystem does not answer.
    """
    from axomsync.ops import logs

    loaded = load(config_file, "state")
    logs.set_up(loaded.settings.log.format, level or loaded.settings.log.level)
    return loaded


def as_owner(loaded: "Loaded") -> Mapping[str, str]:
    """Become the owner of the state folder for good, if root calls. Returns the environment to work with.

    A key that only root may read is read before that. Raises `LocalFault`.
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
    """Open the ledger for reading; yields None before the first start of an agent. Raises `LocalFault`."""
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
    """Return the document that `status --json` prints. Raises `LocalFault`, also when the state folder's disk is silent."""
    from axomsync.core.disks import disk_of
    from axomsync.ledger import UnreadyLedger
    from axomsync.status.report import status_document

    disk_of(loaded.settings.state.folder).demand_answer()
    try:
        with open_ledger(loaded) as ledger:
            return status_document(loaded.settings, ledger)
    except UnreadyLedger as outdated:
        return status_document(loaded.settings, None, str(outdated))


def parked_in(loaded: "Loaded") -> list[str]:
    """Return the files and models that are tried again only when a person asks for it."""
    from axomsync.ledger import UnreadyLedger
    from axomsync.status.targets import parked

    with suppress(UnreadyLedger), open_ledger(loaded) as ledger:
        return parked(ledger) if ledger else []
    return []


@dataclass(frozen=True)
class Among:
    """A choice of uploads: all, or those in one of `states`, changed `since`, the newest `limit`; or `ids` alone."""

    states: frozenset[UploadState] = frozenset()
    since: float | None = None
    limit: int | None = None
    ids: Collection[int] | None = None


def uploads_of(loaded: "Loaded", among: Among = Among()) -> list[dict[str, Any]]:
    """Return the rows that `uploads --json` prints, for this choice."""
    from axomsync.status.documents import upload_document

    with open_ledger(loaded) as ledger:
        if ledger is None:
            return []
        shards, orphans = ledger.all_shards(), ledger.orphans()
        if among.ids is None:
            rows = ledger.uploads(among.states, among.since, among.limit)
        else:
            rows = ledger.uploads_among(among.ids)
        return [upload_document(row, shards.get(row.stored_by, ()), orphans.get(row.id, ())) for row in rows]


def ca_file_of(loaded: "Loaded") -> str | None:
    """Return the file of the private certificate authority, if one is configured."""
    ca_file = loaded.settings.console.ca_file
    return str(ca_file) if ca_file else None


def console_of(loaded: "Loaded") -> "Console":
    """Return a client of the console, with the configured key."""
    from axomsync.config import load_key
    from axomsync.console.client import Console

    return Console(loaded.settings.console.url, lambda: load_key(loaded.settings, os.environ), ca_file=ca_file_of(loaded))
