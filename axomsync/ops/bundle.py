"""`axomsync bundle`: one archive with what support asks for, without secrets.

A part is a text with a name. Parts that axomsync itself tells come from its own commands, each a process of its own with
limited time: so a damaged ledger, a dead console or a disk that hangs spoils one part and no other. `PARTS` has all of them:
a new one needs a line there, and nothing else. Every text goes through `redaction`.

Failures handled: programs that are missing, fail, hang or print too much (the part says so), a configuration that can't be
read (`None` for the settings: parts that need them say so), a damaged ledger.
"""

import io
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from axomsync import __version__
from axomsync.config import Settings, load_key, load_token
from axomsync.core.errors import AxomsyncError
from axomsync.core.paths import LEDGER_FILE
from axomsync.ledger.extract import extract
from axomsync.ops.redaction import redacted

PART_SECONDS = 8.0
LARGEST_PART = 8 * 1024 * 1024  # bytes; of a log, the last ones
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
    """One file of the archive. `foreign`: others wrote the text, so it may hold secrets of any form."""

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
    with tarfile.open(fileobj=stream, mode="w|gz") as archive:
        for made in (*_texts(box), *_ledger_texts(box)):
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
    if box.settings is not None:
        with suppress(AxomsyncError, OSError):
            found.add(load_key(box.settings, box.environ))
        with suppress(AxomsyncError, OSError):
            found.add(load_token(box.settings.web) or "")
    return {value.strip() for value in found if value.strip()}


def _texts(box: Box) -> Iterator[_Text]:
    """All parts, made at the same time: each may have to wait for something that hangs."""
    with ThreadPoolExecutor(len(PARTS), thread_name_prefix="bundle") as pool:
        for part, made in [(part, pool.submit(_made, part, box)) for part in PARTS]:
            yield _Text(part.name, part.about, made.result(), part.foreign)


def _made(part: Part, box: Box) -> str:
    try:
        return part.make(box)
    except (OSError, AxomsyncError) as failure:
        return f"can't be told: {failure}\n"


def _add(archive: tarfile.TarFile, name: str, data: bytes, now: float) -> None:
    entry = tarfile.TarInfo(f"axomsync-bundle/{name}")
    entry.size, entry.mtime, entry.mode = len(data), int(now), 0o600
    archive.addfile(entry, io.BytesIO(data))


def _ledger_texts(box: Box) -> Iterator[_Text]:
    """The tables of the ledger, read by one connection."""
    if box.settings is None:
        return
    path = box.settings.state.folder / LEDGER_FILE
    try:
        for table, text in extract(path, ROWS_A_TABLE, PART_SECONDS):
            yield _Text(f"ledger/{table}.jsonl", "a table of the ledger", text, table not in TABLES_WITH_KEYS)
    except (sqlite3.Error, OSError) as error:
        yield _Text("ledger/error.txt", "why the ledger can't be read", f"{path}: {error}\n", foreign=True)


# What the parts say


def _command(*words: str) -> Callable[[Box], str]:
    """A part that one of axomsync's own commands prints."""

    def make(box: Box) -> str:
        return _output([sys.executable, "-m", "axomsync", *words, *box.options], box.environ)

    return make


def _output(command: list[str], environ: Mapping[str, str]) -> str:
    """Return what a program prints, and how it ended. It is ended after a while, with all that it began."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(environ),
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return f"{command[0]}: {error.strerror}\n"
    try:
        output, ended = process.communicate(timeout=PART_SECONDS)[0], f"exit code {process.returncode}"
    except subprocess.TimeoutExpired as slow:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, ended = slow.output or b"", f"ended after {PART_SECONDS:g} s"
        process.wait()
    cut = f"(the first {len(output) - LARGEST_PART} bytes are left out)\n" if len(output) > LARGEST_PART else ""
    return cut + output[-LARGEST_PART:].decode(errors="replace") + f"\n({ended})\n"


def _configuration(box: Box) -> str:
    return "there is none\n" if box.config is None else box.config.read_text(errors="replace")


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
        with file.open("rb") as stream:
            return stream.read(64 * 1024).decode(errors="replace")
    except OSError as error:
        return f"{error.strerror}"


def _disks(box: Box) -> str:
    lines = [_first_bytes(Path("/proc/self/mountinfo"))]
    if box.settings is not None:
        folders = (box.settings.state.folder, box.settings.drop.folder, box.settings.mirror.folder)
        return "\n".join([*lines, _output(["df", "-hT", *map(str, folders)], box.environ),
                          _output(["df", "-hi", *map(str, folders)], box.environ)])  # fmt: skip
    return "\n".join(lines)


def _journal(box: Box) -> str:
    words = ["--since", f"-{JOURNAL_DAYS}d", "--lines", str(JOURNAL_LINES), "--no-pager", "--output", "short-iso"]
    return _output(["journalctl", *_for_units("--unit"), *words], box.environ)


def _units(box: Box) -> str:
    return "\n".join(
        _output(["systemctl", "--no-pager", *words, *_for_units()], box.environ)
        for words in (["cat"], ["show", "--property", PROPERTIES])
    )


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
