"""The verbs about mirrored models: `pull`, `wait`, `verify`, `pin`, `unpin`, `rollback`, `prune`.

Each works whether an agent runs or not: a running one is asked, else this process does it itself. Failures handled: a model
that nobody knows, one that is not published in time, damage that stays.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axomsync.cli.context import config_option, json_option, load, open_ledger
from axomsync.cli.output import print_documents, print_json
from axomsync.core.errors import LocalFault, Rejected, Transient
from axomsync.core.text import printable

if TYPE_CHECKING:
    from axomsync.config import Loaded
    from axomsync.core.records import Model
    from axomsync.mirror.publish.folder import MirrorFolder
    from axomsync.mirror.publish.record import Record

LOOK_SECONDS = 0.2
LONG_SECONDS = 7 * 86400.0  # as long as a terabyte over a slow line may take


@click.command()
@config_option
@json_option
@click.argument("model")
@click.option("--timeout", metavar="DURATION", help="Give up after so long, such as 10m, with exit code 75.")
def wait(config_file: str | None, as_json: bool, model: str, timeout: str | None) -> None:
    """Block until MODEL (name, name/version or id) is published, and print its path."""
    from axomsync.config.units import parse_duration

    try:
        seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout {timeout}: {error}") from None
    _print_published(_published(load(config_file), model, seconds), as_json)


@click.command()
@config_option
@json_option
@click.argument("model")
def pull(config_file: str | None, as_json: bool, model: str) -> None:
    """Mirror MODEL (name, name/version or id) now, whatever the selection says, and print its path."""
    from axomsync.cli.errands import errand

    loaded = load(config_file)
    with _progress(loaded):
        answer = errand(loaded, "pull", model, patience=LONG_SECONDS)
    _print_published(_published(loaded, answer["id"], 0.0), as_json)


@click.command()
@config_option
@json_option
@click.argument("model", required=False)
@click.option("--repair", is_flag=True, help="Fetch the damaged segments again.")
def verify(config_file: str | None, as_json: bool, model: str | None, repair: bool) -> None:
    """Read mirrored models again, and compare them with what was recorded when they came."""
    from axomsync.cli import tables
    from axomsync.cli.errands import errand
    from axomsync.ledger import holder
    from axomsync.mirror.check.verify import HalfSpeed, examine, full_speed

    loaded = load(config_file)
    step = full_speed if holder(loaded.settings.state.folder) is None else HalfSpeed(full_speed)
    documents = []
    unread: list[LocalFault] = []
    for folder, record in _found(loaded, model, unread):
        damages = examine(folder, record.files, step)
        mended = bool(damages) and repair
        if mended:
            errand(loaded, "repair", record.model.id, patience=LONG_SECONDS)
            damages = examine(folder, record.files, step)
        documents.append(_verified(folder, record, list(map(str, damages)), mended))
    print_documents(documents, as_json, tables.verified)
    if unread:
        raise unread[0]
    if bad := [document for document in documents if document["damage"]]:
        advice = "" if repair else "; `axomsync verify --repair` fetches what is damaged again"
        raise Rejected(f"{len(bad)} of {len(documents)} models are damaged{advice}")


@click.command()
@config_option
@json_option
@click.argument("model")
def pin(config_file: str | None, as_json: bool, model: str) -> None:
    """Hold `current` of a name at MODEL: name/version or id, or the name alone for the version that it leads to now."""
    from axomsync.mirror.publish import current

    loaded = load(config_file)
    found = _found(loaded, model)
    parent = found[0][0].parent
    held = next((folder for folder, _ in found if folder.name == current.leads_to(parent)), found[0][0])
    current.pin(parent, held.name, _place(loaded).staging.scratch())
    _tell_current(parent, as_json)


@click.command()
@config_option
@json_option
@click.argument("name")
def unpin(config_file: str | None, as_json: bool, name: str) -> None:
    """Let `current` of NAME follow the newest version again."""
    from axomsync.mirror.publish import current

    loaded = load(config_file)
    parent = _found(loaded, name)[0][0].parent
    had = current.unpin(parent, _place(loaded).staging.scratch())
    _tell_current(parent, as_json, "" if had else "it was not pinned")


@click.command()
@config_option
@json_option
@click.argument("name")
@click.argument("version", required=False)
def rollback(config_file: str | None, as_json: bool, name: str, version: str | None) -> None:
    """Lead `current` of NAME to VERSION, or to the one before, and pin it there; `unpin` takes that back."""
    from axomsync.mirror.publish import current

    loaded = load(config_file)
    found = _found(loaded, name)
    parent = found[0][0].parent
    folders = list(current.versions(parent))  # newest first
    if version is None:
        now = current.leads_to(parent)
        older = folders[folders.index(now) + 1 :] if now in folders else []
        wanted = older[0] if older else None
    else:
        wanted = next((folder.name for folder, record in found if version in (folder.name, record.model.version)), None)
    if wanted is None:
        raise Rejected(
            f"{parent}: there is no {printable(version) if version else 'older version'}; there are {', '.join(folders)}"
        )
    current.pin(parent, wanted, _place(loaded).staging.scratch())
    _tell_current(parent, as_json, f"`axomsync unpin {printable(name)}` takes that back")


def _tell_current(parent: Path, as_json: bool, remark: str = "") -> None:
    from axomsync.mirror.publish import current

    version, is_pinned = current.leads_to(parent), current.pinned(parent) is not None
    if as_json:
        print_json({"path": str(parent / "current"), "version": version, "pinned": is_pinned})
        return
    told = f"{parent / 'current'} -> {version}" + (", pinned" if is_pinned else "")
    click.echo(f"{told}; {remark}" if remark else told)


@click.command()
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(config_file: str | None, as_json: bool, dry_run: bool) -> None:
    """Apply retention now: remove the versions that [mirror] keep, keep_gone and max_size leave no room for."""
    from axomsync.cli.errands import errand

    answer = errand(load(config_file), "prune", None, {"dry_run": dry_run}, patience=LONG_SECONDS)
    if as_json:
        print_json(answer)
        return
    lines = [f"{'would be removed' if dry_run else 'removed'}: {line}" for line in answer["removed"]]
    lines += [f"stays for now: {line}" for line in answer["spared"]]
    click.echo("\n".join(lines) or "nothing to remove")


def _published(loaded: "Loaded", target: str, seconds: float | None) -> "Model":
    """The newest published model that `target` names, as soon as there is one. Raises `Transient` after `seconds`."""
    from axomsync.core.records import ModelState
    from axomsync.mirror.layout import is_called, is_named

    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        with open_ledger(loaded) as ledger:
            rows = [row for row in (ledger.models() if ledger else []) if is_named(row, target)]
        for row in rows:
            there = row.state is ModelState.PUBLISHED and os.path.isdir(row.path or "")
            if there and (target == row.id or is_called(row.path or "", row)):  # not a name that will be another's
                return row
        if deadline is not None and time.monotonic() >= deadline:
            why = f"it is {rows[0].state}" + (f": {rows[0].reason}" if rows[0].reason else "") if rows else "nobody lists it"
            raise Transient(f"{printable(target)} is not published yet, {why}")
        time.sleep(LOOK_SECONDS)


def _print_published(model: "Model", as_json: bool) -> None:
    from axomsync.status.report import model_document

    if as_json:
        print_json(model_document(model))
    else:
        click.echo(model.path)


def _place(loaded: "Loaded") -> "MirrorFolder":
    from axomsync.mirror.publish.folder import MirrorFolder

    return MirrorFolder(loaded.settings.mirror.folder, "by-hand")


def _found(loaded: "Loaded", target: str | None, unread: list[LocalFault] | None = None) -> "list[tuple[Path, Record]]":
    """The published models that `target` names, all of them without one. Raises `Rejected` when there is none.

    What can't be read now is added to `unread`.
    """
    from axomsync.mirror.layout import is_named

    found, faults = [], []
    for folder, record in _place(loaded).published():
        if isinstance(record, LocalFault):
            faults.append(record)
        elif target is None or is_named(record.model, target):
            found.append((folder, record))
    if unread is not None:
        unread += faults
    if target is not None and not found:
        if faults:
            raise faults[0]
        raise Rejected(f"{printable(target)}: no such model is published in {loaded.settings.mirror.folder}")
    return found


def _verified(folder: Path, record: "Record", damage: list[str], mended: bool) -> dict[str, Any]:
    from axomsync.mirror.publish.record import file_documents

    return {
        "id": record.model.id,
        "name": record.model.name,
        "version": record.model.version,
        "path": str(folder),
        "bytes": sum(file.size for file in record.files),
        "files": file_documents(record),
        "damage": damage,
        "repaired": mended and not damage,
    }


@contextmanager
def _progress(loaded: "Loaded") -> Iterator[None]:
    """On a terminal: a bar for each model that comes down, as the ledger shows it."""
    import sys
    import threading

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from axomsync.ledger import UnreadyLedger

    if not sys.stderr.isatty():
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    done = threading.Event()

    def watch(bars: Progress) -> None:
        tasks: dict[str, Any] = {}
        while not done.wait(LOOK_SECONDS):
            with suppress(UnreadyLedger), open_ledger(loaded) as ledger:  # its first moments
                for transfer in ledger.transfers() if ledger else []:
                    if transfer.direction == "down":
                        task = tasks.setdefault(transfer.name, None)
                        if task is None:
                            task = tasks[transfer.name] = bars.add_task(printable(transfer.name), total=transfer.bytes_total)
                        bars.update(task, completed=transfer.bytes_received)

    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        watcher = threading.Thread(target=watch, args=(bars,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
