"""The API key and the page's token: read from files or the environment, and never part of the settings.

So nothing that prints settings can print them. Failures handled: a key that is missing, unreadable or malformed
(`KeyRefused`); a token that is unreadable or malformed (`LocalFault`).
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from axomsync.config.settings import Settings, WebSettings
from axomsync.core.errors import KeyRefused, LocalFault
from axomsync.core.named_files import read_named
from axomsync.core.oserrors import local_fault

SERVICE_KEY = "/etc/axomsync/key"
SHORTEST_TOKEN = 16


def load_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the API key: `$AXOM_KEY`, else `key_file`, else the systemd credential `axom_key`. Raises `KeyRefused`."""
    if environ.get("AXOM_KEY"):
        return _clean_key(environ["AXOM_KEY"], "$AXOM_KEY")
    file = settings.console.key_file or _credential(environ)
    service_key, option = SERVICE_KEY, ""
    if settings.instance is not None:
        service_key, option = f"/etc/axomsync/{settings.instance}.key", f"--instance {settings.instance} "
    if file is None and os.path.exists(service_key):
        raise KeyRefused(
            f"no API key: {service_key} is for the service alone; lend it to this command: "
            f"sudo sh -c 'AXOM_KEY=$(cat {service_key}) axomsync {option}…'"
        )
    if file is None:
        raise KeyRefused(
            "no API key: set $AXOM_KEY, or write the key into a file and name it as [console] key_file, "
            "or give systemd LoadCredential=axom_key:FILE"
        )
    try:
        key = read_named(file).decode()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError):
            raise KeyRefused(f"the API key can't be read: {local_fault(error, str(file))}") from None
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyRefused(f"{file}: the API key can't be read: {reason}; put it there and make it readable") from None
    return _clean_key(key, str(file))


def _credential(environ: Mapping[str, str]) -> Path | None:
    """Return the file of the systemd credential: the one from the start, or a newer one from the unit's ExecReload=."""
    at_start = environ.get("CREDENTIALS_DIRECTORY")
    if not at_start:
        return None
    since = Path(environ.get("RUNTIME_DIRECTORY", at_start).partition(":")[0]) / "axom_key"
    return since if os.path.exists(since) else Path(at_start) / "axom_key"


def _clean_key(text: str, source: str) -> str:
    key = text.strip()
    if not key:
        raise KeyRefused(f"no API key: {source} is empty; put the key there, one word such as axom_live_…")
    if not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
        raise KeyRefused(f"{source}: this is not an API key; it holds one word such as axom_live_…")
    return key


def key_file_warning(settings: Settings) -> str | None:
    """Return a line of advice when other users of the machine can read the key file."""
    file = settings.console.key_file
    try:
        exposed = file is not None and bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return None
    return f"{file}: every user of this machine can read the API key; run chmod 600 {file}" if exposed else None


def load_token(settings: WebSettings) -> str | None:
    """Return the token in `[web] token_file`, None when no file is named. A secret. Raises `LocalFault`."""
    file = settings.token_file
    if file is None:
        return None
    token = read_token(file)
    if len(token) < SHORTEST_TOKEN:
        raise LocalFault(
            f"{file}: the token needs {SHORTEST_TOKEN} characters or more (ASCII, no spaces); make one: openssl rand -hex 32"
        )
    return token


def read_token(file: Path) -> str:
    """Return the token in a file that a person named, one word of ASCII. A secret. Raises `LocalFault`."""
    try:
        token = read_named(file).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LocalFault(f"{file}: the token can't be read: {reason}; write one there and make it readable") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise LocalFault(f"{file}: this is no token; it holds one word (ASCII, no spaces)")
    return token
