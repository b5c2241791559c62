"""Everything that has a version here: this program, Python and its libraries, SQLite, OpenSSL, the system, the ledger.

For support, so every part stands alone: what can't be found out is None, with a remark that says why. Failures handled: a
program that was installed without its metadata, no systemd or one that does not answer, a missing, locked or damaged ledger.
"""

import platform
import re
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from axomsync import __version__
from axomsync.ledger.extract import last_migration
from axomsync.ledger.schema import newest_migration

SYSTEMD_SECONDS = 5.0


def versions(config: Path | None, ledger: Path | None, remarks: list[str]) -> dict[str, Any]:
    """Return the document of `axomsync version --json`; `remarks` says why parts are not known, and is added to."""
    return {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": dict(_libraries()),
        "sqlite": sqlite3.sqlite_version,
        "openssl": ssl.OPENSSL_VERSION,
        "platform": platform.platform(),
        "distribution": _distribution(),
        "systemd": _systemd(),
        "config": None if config is None else str(config),
        "ledger": None if ledger is None else str(ledger),
        "schema": None if ledger is None else _schema(ledger, remarks),
        "newest_schema": newest_migration(),
        "remarks": remarks,
    }


def _libraries() -> Iterator[tuple[str, str]]:
    """The libraries that this program names, as far as they are installed."""
    try:
        needed = requires("axomsync") or []
    except PackageNotFoundError:
        return
    for need in needed:
        name = re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0]
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if "extra ==" not in need:
            yield name, found


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _systemd() -> str | None:
    argv = ["systemctl", "--version"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SYSTEMD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.splitlines()), "").removeprefix("systemd ") or None


def _schema(ledger: Path, remarks: list[str]) -> str | None:
    try:
        if not ledger.exists():
            remarks.append(f"{ledger}: no agent has run here yet")
            return None
        return last_migration(ledger)
    except (sqlite3.Error, OSError) as error:
        remarks.append(f"{ledger}: {error}")
        return None
