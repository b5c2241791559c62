"""The command line: one small function a verb. Exit codes are mapped in `main`, and nowhere else.

What is heavy is imported inside the verb that needs it, so that `--help` and `status` answer at once.

Failures handled: every expected failure (one line a problem, without secrets, and the exit code that `interface.md`
fixes), a reader of the output that goes away, an output that can't show every character, a signal while still starting.
"""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from axomsync import __version__
from axomsync.errors import AxomsyncError, BadConfig, KeyRefused, LocalFault, local_fault

if TYPE_CHECKING:
    from axomsync.config import Loaded
    from axomsync.console import Console
    from axomsync.ledger import Reader

F = TypeVar("F", bound=Callable[..., Any])

USAGE_EXIT_CODE = 2


def main() -> None:
    """Run the command line and end the process with the exit code that `interface.md` fixes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli(standalone_mode=False)
        sys.stdout.flush()
    except AxomsyncError as error:
        from axomsync.ops.logs import redact

        click.echo("\n".join(f"axomsync: {line}" for line in redact(str(error)).splitlines()), err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = USAGE_EXIT_CODE
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, as in `axomsync uploads | head`
        code = 0
        _give_up_output()
    except OSError as error:
        code = LocalFault.exit_code
        click.echo(f"axomsync: {local_fault(error, error.filename or 'standard output')}", err=True)
        _give_up_output()
    sys.exit(code)


def _give_up_output() -> None:
    """So that the interpreter's last flush does not fail too."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _config_option(function: F) -> F:
    return click.option("--config", "config_file", metavar="FILE", help="Configuration file.")(function)


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="axomsync")
def cli() -> None:
    """Uploads what is dropped into a folder, and mirrors every ready model to disk."""


@cli.command()
@_config_option
def run(config_file: str | None) -> None:
    """Run the agent in the foreground (what systemd starts)."""
    _stop_at_a_signal()
    from axomsync.agent import Agent, exit_now

    exit_now(Agent(_load_and_log(config_file), os.environ).run())


@cli.command()
@_config_option
@_json_option
def sync(config_file: str | None, as_json: bool) -> None:
    """One pass, then exit: upload every settled file, mirror every ready model."""
    _stop_at_a_signal()
    from axomsync.agent import Agent, exit_now

    loaded = _load_and_log(config_file)
    agent = Agent(loaded, os.environ)
    code = agent.sync()
    if as_json:
        _print_json(_status(loaded))
    sys.stdout.flush()
    exit_now(code)


@cli.command()
@_config_option
@_json_option
def status(config_file: str | None, as_json: bool) -> None:
    """One screen: agent, console, drop folder, mirror, transfers, problems."""
    from axomsync import tables

    document = _status(_load(config_file))
    if as_json:
        _print_json(document)
        return
    screen = tables.screen()
    for part in tables.status(document):
        screen.print(part)


@cli.command()
@_config_option
@_json_option
def uploads(config_file: str | None, as_json: bool) -> None:
    """Every file ever taken from the drop folder."""
    from axomsync import tables
    from axomsync.report import upload_document

    with _Ledger(_load(config_file)) as ledger:
        shards = ledger.all_shards() if ledger else {}
        documents = [upload_document(upload, shards.get(upload.id, ())) for upload in ledger.uploads()] if ledger else []
    _print(documents, as_json, tables.uploads)


@cli.command()
@_config_option
@_json_option
def models(config_file: str | None, as_json: bool) -> None:
    """The console's models, with the local state and path of each."""
    from axomsync import tables
    from axomsync.mirror.catalog import Selection, reconcile
    from axomsync.report import model_document, unseen_model_document

    loaded = _load(config_file)
    with _Ledger(loaded) as ledger:
        known = ledger.models() if ledger else []
    documents = [model_document(model) for model in known]
    refusal: AxomsyncError | None = None
    try:
        wanted = loaded.settings.mirror
        selection = Selection(wanted.include, wanted.exclude, wanted.keep, wanted.max_size)
        changes = reconcile(_console(loaded).models(), known, selection, lambda row: True)
        changed = {change.model.id: change for change in changes}
        documents = [d | _news(changed.pop(d["id"], None)) for d in documents]
        documents += [unseen_model_document(c.model, c.state, c.reason) for c in changed.values()]
        documents.sort(key=lambda d: (d["created_at"] or "", d["id"]), reverse=True)
    except AxomsyncError as failure:
        refusal = failure
    _print(documents, as_json, tables.models)
    if refusal is not None:
        refusal.args = (f"{refusal}; what is listed is what the ledger knows",)
        raise refusal


@cli.command()
@_config_option
@_json_option
def datasets(config_file: str | None, as_json: bool) -> None:
    """The console's datasets."""
    _catalog(
        _load(config_file), "datasets", ("name", "version", "status", "shard_count", "bytes", "created_at", "id"), as_json
    )


@cli.command("base-models")
@_config_option
@_json_option
def base_models(config_file: str | None, as_json: bool) -> None:
    """The console's base models."""
    _catalog(_load(config_file), "base_models", ("family", "name", "version", "params", "precision", "id"), as_json)


@cli.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("check")
@_config_option
def config_check(config_file: str | None) -> None:
    """Validate the configuration: every error at once, with its key and line."""
    from axomsync.config import not_acted_on
    from axomsync.http import tls_context

    loaded = _load(config_file)
    tls_context(_ca_file(loaded))
    for line in not_acted_on(loaded):
        click.echo(line)
    click.echo(f"{loaded.path}: good")


@config_group.command("show")
@_config_option
@_json_option
def config_show(config_file: str | None, as_json: bool) -> None:
    """The effective values, and where each came from."""
    from axomsync import tables
    from axomsync.config import as_toml, effective

    rows = effective(_load(config_file))
    heads = ("KEY", "VALUE", "FROM")
    _print(rows, as_json, lambda rows: tables.table(heads, ((r["key"], as_toml(r["value"]), r["from"]) for r in rows)))


@cli.command()
@_config_option
@click.option("--force", is_flag=True, help="Overwrite an existing configuration.")
@click.option("--url", help="Base URL of the console's API.")
@click.option("--key-file", help="File that holds the API key.")
@click.option("--drop", help="Folder whose files are uploaded.")
@click.option("--mirror", help="Folder in which models appear.")
@click.option("--state", help="Folder of the ledger.")
def init(config_file: str | None, force: bool, url: str | None, key_file: str | None, **folders: str | None) -> None:
    """Write a commented configuration, create the folders, test the key."""
    from axomsync import config

    path, values = config.defaults_for_user(config_file, os.environ, root=os.geteuid() == 0)
    values |= {f"{name}.folder": _absolute(folder) for name, folder in folders.items() if folder}
    values |= {"console.url": url} if url else {}
    values |= {"console.key_file": _absolute(key_file)} if key_file else {}
    text = config.example(values)
    loaded = config.parse(text, path, os.environ)
    if os.path.lexists(path) and not force:
        raise BadConfig(f"{path} exists already; --force overwrites it")
    _write_config(path, text)
    click.echo(f"wrote {path}")
    settings = loaded.settings
    for folder, mode in ((settings.drop.folder, 0o755), (settings.mirror.folder, 0o755), (settings.state.folder, 0o750)):
        _make_folder(folder, mode)
    _test_key(loaded)


@cli.command()
@click.option("--keep", is_flag=True, help="Leave everything running afterwards.")
def demo(keep: bool) -> None:
    """A tour against an embedded sandbox: upload, download, crash, resume."""
    with _sandbox_packages():
        from axomsync.sandbox.demo import tour
    sys.exit(tour(keep=keep))


@cli.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("axomsync-sandbox"), show_default=True,
              help="Where its state and objects are kept.")  # fmt: skip
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Address of the console, on loopback.")
@click.option("--url-lifetime", default="15m", show_default=True, help="How long presigned URLs live.")
@click.option("--rate", default="", help="Speed of each storage connection, such as 10MB/s.")
def sandbox(folder: Path, listen: str, url_lifetime: str, rate: str) -> None:
    """An embedded console and object store, on loopback, for trying things and for CI."""
    import signal
    from datetime import timedelta

    from axomsync.config import parse_bandwidth, parse_duration

    with _sandbox_packages():
        from axomsync.sandbox.console import serve
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        lifetime, rules = timedelta(seconds=parse_duration(url_lifetime)), parse_bandwidth(rate)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    serve(folder.absolute(), listen, lifetime, rules[0].rate if rules else None, _print_json_line, stop)


# What the verbs share


class _Ledger:
    """The ledger for reading, or None before the first start of an agent."""

    def __init__(self, loaded: "Loaded") -> None:
        self._path = loaded.settings.state.folder / "state.db"
        self._reader: Reader | None = None

    def __enter__(self) -> "Reader | None":
        from axomsync.ledger import Reader

        try:
            self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise local_fault(error, str(self._path)) from None
        self._reader = Reader(self._path)
        return self._reader

    def __exit__(self, *exception: object) -> None:
        if self._reader is not None:
            self._reader.close()


class _sandbox_packages:  # noqa: N801  # reads as a statement: with _sandbox_packages()
    """Turns a missing extra into a message."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ModuleNotFoundError):
            raise LocalFault(f"{error.name} is missing; run: pip install 'axomsync[sandbox]'") from None


def _load(config_file: str | None) -> "Loaded":
    from axomsync import config

    return config.load(config.find(config_file, os.environ), os.environ)


def _load_and_log(config_file: str | None) -> "Loaded":
    from axomsync.http import keep_loopback_off_proxies
    from axomsync.ops import logs

    keep_loopback_off_proxies(os.environ)
    loaded = _load(config_file)
    logs.set_up(loaded.settings.log.format, loaded.settings.log.level)
    return loaded


def _status(loaded: "Loaded") -> dict[str, Any]:
    from axomsync.report import status_document

    with _Ledger(loaded) as ledger:
        return status_document(loaded.settings, ledger)


def _stop_at_a_signal() -> None:
    """Until the agent listens itself: a stop that comes while it is still starting is a clean stop too."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _ca_file(loaded: "Loaded") -> str | None:
    ca_file = loaded.settings.console.ca_file
    return str(ca_file) if ca_file else None


def _console(loaded: "Loaded") -> "Console":
    from axomsync.config import load_key
    from axomsync.console import Console

    return Console(loaded.settings.console.url, lambda: load_key(loaded.settings, os.environ), ca_file=_ca_file(loaded))


def _catalog(loaded: "Loaded", what: str, columns: tuple[str, ...], as_json: bool) -> None:
    from dataclasses import asdict

    from axomsync import tables

    console = _console(loaded)
    documents = [asdict(record) for record in (console.datasets() if what == "datasets" else console.base_models())]
    heads = [column.replace("_", " ").upper() for column in columns]
    _print(documents, as_json, lambda rows: tables.table(heads, ([row[c] for c in columns] for row in rows)))


def _news(change: Any) -> dict[str, Any]:
    if change is None:
        return {}
    return {"state": str(change.state), "reason": change.reason, "remote_status": change.model.status}


def _print(documents: list[dict[str, Any]], as_json: bool, layout: Callable[[list[dict[str, Any]]], Any]) -> None:
    if as_json:
        _print_json(documents)
        return
    from axomsync import tables

    tables.screen().print(layout(documents) if documents else "nothing yet")


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _print_json_line(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document))
    sys.stdout.flush()


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _write_config(path: Path, text: str) -> None:
    """Whole or not at all: a crash must not leave half of what was a good file."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except UnicodeEncodeError:
        raise BadConfig(f"{path}: a path that is not UTF-8 can't be written down; name another folder") from None
    except OSError as error:
        raise local_fault(error, error.filename or str(path)) from None


def _make_folder(folder: Path, mode: int) -> None:
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=mode)
    except OSError as error:
        raise local_fault(error, error.filename or str(folder)) from None


def _test_key(loaded: "Loaded") -> None:
    try:
        count = len(_console(loaded).models())
    except AxomsyncError as failure:
        untested = "" if isinstance(failure, KeyRefused) else "the key could not be tested: "
        failure.args = (f"the configuration is written, but {untested}{failure}",)
        raise
    click.echo(f"the key works: the console lists {count} model{'s' if count != 1 else ''}")
    click.echo("next: `axomsync run`, or for a service: systemctl enable --now axomsync")
