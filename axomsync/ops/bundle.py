"""`axomsync bundle`: one archive with what support asks for, without secrets.

A part is a text with a name. Parts that axomsync itself tells come from its own commands, each a process of its own with
limited time: so a damaged ledger, a dead console or a disk that hangs spoils one part and no other. `PARTS` has all of them:
a new one needs a line there, and nothing else. Every text goes through `redaction`.

Failures handled: programs that are missing, fail, hang or print too much (the part says so), a file or a disk that does not
answer (the part says so; nothing waits for its thread), a configuration that can't be read (`None` for the settings: parts
that need them say so), one that is no file or far too large, a damaged ledger.
"""

import io
import os
import platform
import select
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import unquote, urlsplit

from axomsync import __version__
from axomsync.config import Settings, load_key, load_token
from axomsync.core.bounded_call import BoundedCall, Late
from axomsync.core.disks import disk_of
from axomsync.core.errors import AxomsyncError, LocalFault, Transient
from axomsync.core.named_files import beginning_of
from axomsync.core.oserrors import unforeseen
from axomsync.core.own_program import own_program
from axomsync.core.paths import LEDGER_FILE
from axomsync.ledger.extract import extract
from axomsync.ops.redaction import redacted

T = TypeVar("T")

PART_SECONDS = 8.0
MARGIN_SECONDS = 4.0  # that a part, whose program is ended after `PART_SECONDS`, may take more
LARGEST_PART = 8 * 1024 * 1024  # bytes; of a log, the last ones
LARGEST_FILE = 256 * 1024  # bytes; the first ones
PIECE = 64 * 1024
ROWS_A_TABLE = 10_000
TABLES_WITH_KEYS = frozenset({"uploads", "shards", "orphans"})  # of objects in storage: no secrets
JOURNAL_DAYS = 7
JOURNAL_LINES = 50_000
PROPERTIES = (  # of a unit; never its environment
    "ActiveState,SubState,Result,NRestarts,ExecMainStatus,ActiveEnterTimestamp,FragmentPath,DropInPaths,User,Group,"
    "MemoryCurrent,MemoryPeak,MemoryMax,TasksCurrent,TasksMax,LimitNOFILE,ReadWritePaths,StateDirectory"
)


@dataclass(frozen=True)
class Box:
    """What the parts are made of.

    `options` lead a command to the same configuration. `config` is None if there is none, `settings` if it can't be read.
    """

    options: tuple[str, ...]
    config: Path | None
    settings: Settings | None
    environ: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """One file of the archive. `foreign`: others wrote all of it; if not, it is a document of ours with words of others."""

    name: str
    about: str
    make: Callable[[Box], str]
    foreign: bool = True


@dataclass(frozen=True)
class _Text:
    name: str
    about: str
    text: str
    foreign: bool


def write_bundle(box: Box, stream: IO[bytes], now: float) -> list[str]:
    """Write the archive (gzip'd tar) to `stream`; returns the names of the files in it. Raises `OSError`."""
    secrets = known_secrets(box)
    listed, names = [f"axomsync {__version__}, made {time.strftime('%FT%TZ', time.gmtime(now))}", ""], ["MANIFEST.txt"]
    tables = _limited(partial(_tables, box))
    with tarfile.open(fileobj=stream, mode="w|gz") as archive:
        for made in (*_texts(box), *_ledger_texts(tables)):
            data = redacted(made.text, secrets, foreign=made.foreign).encode(errors="backslashreplace")
            _add(archive, made.name, data, now)
            names.append(made.name)
            listed.append(f"{made.name:28} {len(data):9} bytes  {made.about}")
        listed += ["", "Signed URLs, keys, tokens and passwords are removed. Names of files and models are not."]
        _add(archive, names[0], ("\n".join(listed) + "\n").encode(), now)
    return names


def known_secrets(box: Box) -> set[str]:
    """Return the values that this box holds as secrets: the key, the page's token, passwords of proxies."""
    found = set()
    for name, value in box.environ.items():
        if name == "AXOM_KEY":
            found.add(value)
        elif name.lower().endswith("_proxy") and "@" in value:
            with suppress(ValueError):
                parts = urlsplit(value if "://" in value else f"http://{value}")
                found |= {text for word in (parts.password,) if word for text in (word, unquote(word))}
    if (settings := box.settings) is not None:
        for load in (lambda: load_key(settings, box.environ), lambda: load_token(settings.web) or ""):
            with suppress(AxomsyncError, OSError):
                found.add(_result(_limited(load)))
    return {value.strip() for value in found if value.strip()}


def _limited(call: Callable[[], T]) -> BoundedCall[T]:
    return BoundedCall(call, PART_SECONDS + MARGIN_SECONDS, "bundle")


def _result(call: BoundedCall[T]) -> T:
    """Return the result. Raises what the call raised, and `Transient` when it takes too long."""
    try:
        return call.result()
    except Late:
        raise Transient(f"it took more than {PART_SECONDS + MARGIN_SECONDS:g} s") from None


def _texts(box: Box) -> Iterator[_Text]:
    """All parts, made at the same time: each may have to wait for something that hangs."""
    for part, made in [(part, _limited(partial(part.make, box))) for part in PARTS]:
        try:
            text = _result(made)
        except (OSError, AxomsyncError) as failure:
            text = f"can't be told: {failure}\n"
        except Exception as bug:  # noqa: BLE001  # it is told, and the other parts come
            text = f"can't be told: {unforeseen(bug)}\n"
        yield _Text(part.name, part.about, text, part.foreign)


def _add(archive: tarfile.TarFile, name: str, data: bytes, now: float) -> None:
    entry = tarfile.TarInfo(f"axomsync-bundle/{name}")
    entry.size, entry.mtime, entry.mode = len(data), int(now), 0o600
    archive.addfile(entry, io.BytesIO(data))


def _tables(box: Box) -> list[tuple[str, str]]:
    """The tables of the ledger with their rows, read by one connection."""
    if box.settings is None:
        return []
    path = box.settings.state.folder / LEDGER_FILE
    try:
        return list(extract(path, ROWS_A_TABLE, PART_SECONDS))
    except (sqlite3.Error, OSError) as error:
        raise LocalFault(f"{path}: {error}") from None


def _ledger_texts(tables: BoundedCall[list[tuple[str, str]]]) -> Iterator[_Text]:
    try:
        for table, text in _result(tables):
            yield _Text(f"ledger/{table}.jsonl", "a table of the ledger", text, table not in TABLES_WITH_KEYS)
    except AxomsyncError as failure:
        yield _Text("ledger/error.txt", "why the ledger can't be read", f"{failure}\n", foreign=True)


# What the parts say


def _command(*words: str) -> Callable[[Box], str]:
    """A part that one of axomsync's own commands prints."""

    def make(box: Box) -> str:
        return _output(own_program(*words, *box.options), box.environ)

    return make


def _outputs(commands: Iterable[list[str]], environ: Mapping[str, str]) -> str:
    """Return what programs print, one after the other. All of them together have the time of a part."""
    ends = time.monotonic() + PART_SECONDS
    return "\n".join(_output(command, environ, ends) for command in commands)


def _output(command: list[str], environ: Mapping[str, str], ends: float | None = None) -> str:
    """Return what a program prints, and how it ended. It is ended after a while, with all that it began."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(environ),
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return f"{command[0]}: {error.strerror}\n"
    ends = ends or time.monotonic() + PART_SECONDS
    with process.stdout or io.BytesIO() as stream:
        output, left_out = _last_of(stream, ends)
    try:
        if (left := ends - time.monotonic()) <= 0:
            raise subprocess.TimeoutExpired(command, PART_SECONDS)
        ended = f"exit code {process.wait(left)}"
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        ended = f"ended after {PART_SECONDS:g} s"
        process.wait()
    cut = f"(the first {left_out} bytes are left out)\n" if left_out else ""
    return cut + output.decode(errors="replace") + f"\n({ended})\n"


def _last_of(stream: IO[bytes], ends: float) -> tuple[bytes, int]:
    """Read until the end of a stream, or until that time. Returns the last bytes, and how many came before them."""
    output, left_out = bytearray(), 0
    while (left := ends - time.monotonic()) > 0 and select.select([stream], [], [], left)[0]:
        if not (piece := os.read(stream.fileno(), PIECE)):
            break
        output += piece
        if len(output) > 2 * LARGEST_PART:
            left_out += len(output) - LARGEST_PART
            del output[:-LARGEST_PART]
    return bytes(output[-LARGEST_PART:]), left_out + max(0, len(output) - LARGEST_PART)


def _configuration(box: Box) -> str:
    if box.config is None:
        return "there is none\n"
    text = beginning_of(box.config, LARGEST_FILE + 1)
    cut = f"\n(it has more than {LARGEST_FILE >> 10} KiB; the rest is left out)\n" if len(text) > LARGEST_FILE else ""
    return text[:LARGEST_FILE].decode(errors="replace") + cut


def _machine(box: Box) -> str:
    told = [f"axomsync {__version__}", f"Python {sys.version}", platform.platform(), f"user {os.geteuid()}"]
    told += [f"{name} is set" for name in sorted(box.environ) if name.startswith(("AXOM", "AXOMSYNC"))]
    files = ("/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/self/limits", "/proc/self/cgroup",
             "/proc/pressure/memory", "/proc/pressure/io", "/proc/net/if_inet6")  # fmt: skip
    return "\n".join([*told, *(f"\n{file}\n{_first_bytes(Path(file))}" for file in files)])


def _packages(_: Box) -> str:
    from importlib.metadata import distributions

    return "\n".join(sorted(f"{each.metadata['Name']} {each.version}" for each in distributions())) + "\n"


def _first_bytes(file: Path) -> str:
    try:
        return beginning_of(file, LARGEST_FILE).decode(errors="replace")
    except OSError as error:
        return f"{error.strerror}"


def _disks(box: Box) -> str:
    told = [_first_bytes(Path("/proc/self/mountinfo"))]
    if (settings := box.settings) is not None:
        disks = [disk_of(part.folder) for part in (settings.state, settings.drop, settings.mirror)]
        silent = [disk for disk in disks if disk.look().disk == "silent"]  # `df` would wait for it, and tell nothing
        told += [f"{disk.fault()}\n" for disk in silent]
        folders = [str(disk.folder) for disk in disks if disk not in silent]
        if folders:
            told.append(_outputs((["df", words, *folders] for words in ("-hT", "-hi")), box.environ))
    return "\n".join(told)


def _journal(box: Box) -> str:
    words = ["--since", f"-{JOURNAL_DAYS}d", "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "short-iso"]
    return _output(["journalctl", *_for_units("--unit"), *words], box.environ)


def _units(box: Box) -> str:
    verbs = (["cat"], ["show", "--property", PROPERTIES])
    return _outputs((["systemctl", "--no-pager", *words, *_for_units()] for words in verbs), box.environ)


def _for_units(option: str = "") -> Iterator[str]:
    for unit in ("axomsync.service", "axomsync@*.service", "axomsync-sync.service", "axomsync-sync.timer"):
        yield from (option, unit) if option else (unit,)


PARTS = (
    Part("machine.txt", "versions, memory, limits", _machine),
    Part("packages.txt", "Python packages", _packages),
    Part("config.toml", "the configuration as it is on disk", _configuration),
    Part("config-effective.txt", "the values in use, and where each comes from", _command("config", "show")),
    Part("doctor.txt", "`axomsync doctor --no-write`", _command("doctor", "--no-write")),
    Part("status.json", "`axomsync status --json`", _command("status", "--json"), foreign=False),
    Part("models.json", "`axomsync models --json`", _command("models", "--json"), foreign=False),
    Part("uploads.json", "the last 500 uploads", _command("uploads", "--json", "--limit", "500"), foreign=False),
    Part("disks.txt", "mounts, and the space of the folders", _disks),
    Part("units.txt", "the systemd units with their drop-ins", _units),
    Part("journal.txt", f"the journal of the last {JOURNAL_DAYS} days", _journal),
)
