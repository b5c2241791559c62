"""`init`: write a configuration, create the folders, test the key.

Failures handled: a configuration that exists (`BadConfig`), a folder or file that can't be made (`LocalFault`), a key that
can't be tested (the console's error, after the configuration is written).
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from axomsync.cli.common import config_option, console_of
from axomsync.core.errors import AxomsyncError, BadConfig, KeyRefused, LocalFault
from axomsync.core.filesystems import is_absent
from axomsync.core.oserrors import local_fault

if TYPE_CHECKING:
    from axomsync.config import Loaded


@click.command()
@config_option
@click.option("--force", is_flag=True, help="Overwrite an existing configuration.")
@click.option("--url", help="Base URL of the console's API.")
@click.option("--key-file", help="File that holds the API key.")
@click.option("--drop", help="Folder whose files are uploaded.")
@click.option("--mirror", help="Folder in which models appear.")
@click.option("--state", help="Folder of the ledger.")
def init(config_file: str | None, force: bool, url: str | None, key_file: str | None, **folders: str | None) -> None:
    """Write a commented configuration, create the folders, test the key."""
    from axomsync import config
    from axomsync.config import instance_of

    path, values = config.defaults_for_user(config_file, os.environ, root=os.geteuid() == 0)
    if instance_of(path, os.environ) is not None:
        values["web.listen"] = config.free_listen(path, os.environ)
    values |= {f"{name}.folder": _absolute(folder) for name, folder in folders.items() if folder}
    values |= {"console.url": url} if url else {}
    values |= {"console.key_file": _absolute(key_file)} if key_file else {}
    text = config.example(values)
    loaded = config.parse(text, path, os.environ)
    if os.path.lexists(path) and not force:
        raise BadConfig(f"{path} exists already; --force overwrites it")
    settings = loaded.settings
    drop, mirror = settings.drop.folder, settings.mirror.folder
    for folder, mode in ((drop, 0o755), (mirror, 0o755), (settings.state.folder, 0o750)):
        _make_folder(folder, mode)  # before the file: what fails here can be asked for again
    _write_config(path, text, force=force)
    click.echo(f"wrote {path}")
    click.echo(f"datasets go into {drop}, models come into {mirror}")
    found = _read_by_itself()
    option = "" if found == path else f" --config {shlex.quote(str(path))}"
    if option and found is not None and config_file is None:
        click.echo(
            f"but {found} wins over it: give every command{option}, or set AXOMSYNC_CONFIG; "
            "to write the configuration of the machine: sudo axomsync init --force"
        )
    if settings.console.key_file is not None and is_absent(settings.console.key_file):
        click.echo(f"but the key file {settings.console.key_file} is not there yet: write the key into it")
    _test_key(loaded)
    click.echo(f"next: `axomsync run{option}`, or for a service: {_service_command(path)}")


def _read_by_itself() -> Path | None:
    """The configuration that commands read when they are given none."""
    from axomsync import config

    try:
        return config.find(None, os.environ)
    except BadConfig:
        return None


def _service_command(path: Path) -> str:
    from axomsync.config import SYSTEM_CONFIG, instance_of
    from axomsync.ops.service import PACKAGED_UNIT, SYSTEM_UNITS

    instance = instance_of(path, os.environ)
    option = f" --instance {instance}" if instance else ""
    if path.parent != Path(SYSTEM_CONFIG).parent or (instance is None and str(path) != SYSTEM_CONFIG):
        return f"axomsync service install --user{option}"
    is_installed = PACKAGED_UNIT.exists() or (SYSTEM_UNITS / PACKAGED_UNIT.name).exists()
    unit = f"axomsync@{instance}" if instance else "axomsync"
    return f"systemctl enable --now {unit}" if is_installed else f"axomsync service install{option}"


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _write_config(path: Path, text: str, *, force: bool) -> None:
    """Write the whole file or nothing: a crash must not leave half a file, and no planted link is written through."""
    from axomsync.core.folders import Folder

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Folder.open(path.parent) as folder:
            write = folder.replace if force else folder.write_new
            write(os.fsencode(path.name), text.encode())
    except UnicodeEncodeError:
        raise BadConfig(f"{path}: a path that is not UTF-8 can't be written down; name another folder") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and os.path.isdir(path.parent):  # such as /proc
            raise LocalFault(f"{path}: no file can be made there; name another place") from None
        raise local_fault(error, error.filename or str(path)) from None


def _make_folder(folder: Path, mode: int) -> None:
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=mode)
    except OSError as error:
        raise local_fault(error, error.filename or str(folder)) from None


def _test_key(loaded: "Loaded") -> None:
    try:
        count = len(console_of(loaded).models())
    except AxomsyncError as failure:
        untested = "" if isinstance(failure, KeyRefused) else "the key could not be tested: "
        failure.args = (f"the configuration is written, but {untested}{failure}",)
        raise
    click.echo(f"the key works: the console lists {count} model{'s' if count != 1 else ''}")
