"""Configuration: TOML and environment in, frozen settings out.

Reports every error at once, each with file, line and key, and says how to write it right. Unknown keys, sections and
units are errors, since a mistyped key that is ignored is found at 3 a.m. The API key is loaded here too; it is held
outside the settings so that nothing that prints settings can print it.
"""

import difflib
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from axomsync.errors import BadConfig, KeyRefused
from axomsync.policy import BandwidthRule

SYSTEM_CONFIG = "/etc/axomsync/config.toml"
ENVIRONMENT_PREFIX = "AXOMSYNC_"

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "B": 1,
    **{prefix + "B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), 1)},
    **{prefix + "iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)},
    "KB": 1000,
}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_duration(value: object) -> float:
    """`"90s"`, `"5m"`, `"2h"`, `"1d"`, `"500ms"` → seconds."""
    amount = _amount(value, _DURATION_UNITS)
    if amount is None:
        raise ValueError(f'{_shown(value)} is not a duration; write it like "90s", "5m" or "2h"')
    return amount


def parse_size(value: object) -> int:
    """`"64MiB"`, `"5GB"` → bytes."""
    amount = _amount(value, _SIZE_UNITS)
    if amount is None:
        raise ValueError(f'{_shown(value)} is not a size; write it like "64MiB" or "5GB"')
    return int(amount)


def parse_bandwidth(value: object) -> tuple[BandwidthRule, ...]:
    """`"100MB/s"`, `""` (no limit) or a timetable such as `["Mon-Fri 08:00 50MB/s", "20:00 off"]`."""
    if value == "":
        return ()
    if isinstance(value, str):
        return (BandwidthRule(frozenset(range(7)), 0, _rate(value)),)
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError('give a rate like "100MB/s" or a list like ["Mon-Fri 08:00 50MB/s", "20:00 off"]')
    return tuple(_bandwidth_rule(line) for line in value)


def _bandwidth_rule(line: str) -> BandwidthRule:
    match = re.fullmatch(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))?\s+)?(\d\d?):(\d\d)\s+(\S+)", line.strip())
    if not match or int(match[3]) > 23 or int(match[4]) > 59:
        raise ValueError(f'{line!r} is not a line of a timetable; write it like "Mon-Fri 08:00 50MB/s"')
    first, last = (match[1] or "mon").lower(), (match[2] or match[1] or "sun").lower()
    if first not in _DAYS or last not in _DAYS:
        raise ValueError(f"{line!r} names an unknown day; days are Mon Tue Wed Thu Fri Sat Sun")
    begin = _DAYS.index(first)
    days = frozenset((begin + n) % 7 for n in range((_DAYS.index(last) - begin) % 7 + 1))
    return BandwidthRule(days, int(match[3]) * 60 + int(match[4]), _rate(match[5]))


def _rate(text: str) -> float | None:
    if text == "off":
        return None
    amount = _amount(text.removesuffix("/s"), _SIZE_UNITS) if text.endswith("/s") else None
    if not amount:
        raise ValueError(f'{text!r} is not a rate; write it like "100MB/s", or "off" for no limit')
    return amount


def _amount(value: object, units: Mapping[str, float]) -> float | None:
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if not match or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _absolute(value: Path) -> Path:
    path = value.expanduser()
    if not path.is_absolute():
        raise ValueError(f'"{value}" is a relative path; write the whole path, beginning with "/" or "~"')
    return path


def _optional(value: object) -> object:
    return None if value == "" else value


def _console_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'"{value}" is not a URL; write it like "https://console.axomlabs.ai/api"')
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL must not hold a user, a password, a query or a fragment")
    return value.rstrip("/")


def _listen(value: str) -> str:
    if value and not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):\d{1,5}", value):
        raise ValueError(f'"{value}" is not host:port; write it like "127.0.0.1:9464", or "" for off')
    return value


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
OptionalSize = Annotated[int | None, BeforeValidator(lambda value: None if value == "" else parse_size(value))]
Bandwidth = Annotated[tuple[BandwidthRule, ...], BeforeValidator(parse_bandwidth)]
Folder = Annotated[Path, AfterValidator(_absolute)]
OptionalFile = Annotated[Path | None, BeforeValidator(_optional), AfterValidator(lambda v: v and _absolute(v))]
Globs = tuple[Annotated[str, Field(min_length=1)], ...]
Command = tuple[str, ...]


def _key(default: object, why: str, **constraints: Any) -> Any:
    return Field(default=default, validate_default=True, description=why, **constraints)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)


class ConsoleSettings(_Section):
    """`[console]`: where the Axom console is and how to be let in."""

    url: Annotated[str, AfterValidator(_console_url)] = _key(
        "https://console.axomlabs.ai/api", "base URL of the console's API"
    )
    key_file: OptionalFile = _key("", 'file that holds the API key; "" uses $AXOM_KEY or the systemd credential axom_key')
    ca_file: OptionalFile = _key("", "PEM file with a private certificate authority to trust besides the system's")


class StateSettings(_Section):
    """`[state]`: where the ledger lives."""

    folder: Folder = _key("/var/lib/axomsync", "holds the ledger; must be on a local disk, not on NFS or Lustre")


class DropSettings(_Section):
    """`[drop]`: the folder whose new files are uploaded."""

    enabled: bool = _key(True, "false makes an agent that only mirrors")
    folder: Folder = _key("/srv/axom/drop", "every new dataset file below it is uploaded")
    include: Globs = _key(["*.jsonl"], "names to take; matched against the file name and the path below the folder")
    exclude: Globs = _key([], "names to leave alone, besides dotfiles, *.part, *.tmp and *~")
    settle: Duration = _key("5s", "a file is finished when nothing about it has changed for so long", ge=0)
    rescan: Duration = _key("1m", "the folder is read anew at least this often, whatever the events say", gt=0)
    observer: Literal["auto", "inotify", "polling"] = _key("auto", "polling sees files on network filesystems")
    validate_: Literal["full", "sample", "off"] = Field(
        default="full",
        alias="validate",
        description="full parses every line; sample the first and last 1 MiB; off trusts the exporter",
    )
    after: Literal["archive", "keep", "delete"] = _key("archive", "what becomes of a file once storage has confirmed it")
    content_type: str = _key("application/jsonl", "what the console is told that the files are", min_length=1)
    max_put: Size = _key("5115MiB", "largest single PUT that the storage takes; larger files are held", gt=0)
    shard: OptionalSize = _key("", 'split larger files at line ends into uploads of this size; "" uploads files whole')


class MirrorSettings(_Section):
    """`[mirror]`: the folder in which every ready model appears."""

    enabled: bool = _key(True, "false makes an agent that only uploads")
    folder: Folder = _key("/srv/axom/models", "every ready model appears below it as name/version")
    poll: Duration = _key("1m", "how often the console is asked for models", gt=0)
    include: Globs = _key(["*"], "models to mirror: globs over name, name/version or id")
    exclude: Globs = _key([], "models to leave out, likewise")
    files: Globs = _key(["*"], "files of a model to fetch: globs over the path inside the model")
    keep: int = _key(0, "newest versions of a name to keep; 0 keeps all", ge=0)
    reserve: Size = _key("1GiB", "free space that mirroring never uses up", ge=0)
    verify: Literal["etag", "size"] = _key("etag", "etag compares checksums where storage gives them; size saves the CPU")


class TransferSettings(_Section):
    """`[transfer]`: how bytes travel."""

    connections: int = _key(16, "most connections to storage at once", ge=1, le=256)
    bandwidth: Bandwidth = _key("", 'a rate like "100MB/s" or a timetable like ["Mon-Fri 08:00 50MB/s", "20:00 off"]')
    stall: Duration = _key("30s", "a connection that brings no byte for so long is given up and tried again", gt=0)
    allow_http: bool = _key(False, "true allows plain http to hosts other than this one")


class WebSettings(_Section):
    """`[web]`: the status page and metrics."""

    listen: Annotated[str, AfterValidator(_listen)] = _key("127.0.0.1:9464", 'host:port of the status page; "" is off')


class HookSettings(_Section):
    """`[hooks]`: commands that run when something happens."""

    model_published: Command = _key([], "argument list that runs when a model has been published")
    upload_done: Command = _key([], "argument list that runs when a file has been uploaded")
    failed: Command = _key([], "argument list that runs when a transfer is parked")
    timeout: Duration = _key("1m", "a hook that runs longer is stopped", gt=0)


class LogSettings(_Section):
    """`[log]`: what is written about the work."""

    format: Literal["auto", "console", "json", "journal"] = _key(
        "auto", "auto is console on a terminal and journal under systemd"
    )
    level: Literal["debug", "info", "warning", "error"] = _key("info", "debug says why nothing happens")


class Settings(_Section):
    """The effective configuration."""

    console: ConsoleSettings = Field(default_factory=ConsoleSettings)
    state: StateSettings = Field(default_factory=StateSettings)
    drop: DropSettings = Field(default_factory=DropSettings)
    mirror: MirrorSettings = Field(default_factory=MirrorSettings)
    transfer: TransferSettings = Field(default_factory=TransferSettings)
    web: WebSettings = Field(default_factory=WebSettings)
    hooks: HookSettings = Field(default_factory=HookSettings)
    log: LogSettings = Field(default_factory=LogSettings)


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each value came from: `origins["drop.settle"]` is a place to go and change it."""

    settings: Settings
    origins: Mapping[str, str]
    path: Path


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """The configuration file to use, in the order that `interface.md` fixes."""
    if explicit or environ.get("AXOMSYNC_CONFIG"):
        return Path(explicit or environ["AXOMSYNC_CONFIG"])
    user = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "axomsync" / "config.toml"
    for candidate in (Path(SYSTEM_CONFIG), user):
        if candidate.exists():
            return candidate
    raise BadConfig(f"no configuration at {SYSTEM_CONFIG} or {user}; `axomsync init` writes one")


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read `path`, lay the environment over it and validate. Raises `BadConfig` with one line per error."""
    text = _read(path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path}: not valid TOML: {error}") from None
    lines = _key_lines(text)
    origins = {key: f"{path}:{line}" for key, line in lines.items()}
    errors = _overlay(tree, origins, environ)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as failure:
        errors += [_explain(dict(error), origins, path) for error in failure.errors()]
        raise BadConfig("\n".join(errors)) from None
    errors += [f"{path}: {problem}" for problem in _contradictions(settings)]
    if errors:
        raise BadConfig("\n".join(errors))
    return Loaded(settings, origins, path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadConfig(f"{path}: there is no such file; `axomsync init --config {path}` writes one") from None
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise BadConfig(f"{path}: can't be read: {error.strerror}") from None


def _key_lines(text: str) -> dict[str, int]:
    """Line numbers of `section` and `section.key`, which tomllib does not tell."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            section = header[1].strip("\"'")
            lines.setdefault(section, number)
        elif key := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            lines.setdefault(f"{section}.{key[1]}".strip("."), number)
    return lines


def _overlay(tree: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]) -> list[str]:
    errors = []
    for name, value in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not isinstance(tree.setdefault(section, {}), dict):
            errors.append(f"${name}: [{section}] is not a section")
            continue
        tree[section][key] = _environment_value(section, key, value)
        origins[f"{section}.{key}"] = f"${name}"
    return errors


def _environment_value(section: str, key: str, value: str) -> object:
    """Booleans, integers and lists are written as in TOML; whatever does not parse so is a string."""
    try:
        parsed: object = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
    return parsed


def _explain(error: dict[str, Any], origins: Mapping[str, str], path: Path) -> str:
    where = [str(part) for part in error["loc"]]
    key = ".".join(where[:2])
    place = origins.get(key) or origins.get(where[0] if where else "") or str(path)
    name = f"[{where[0]}] {where[1]}" if len(where) > 1 else f"[{where[0]}]" if where else "file"
    return f"{place}: {name}: {_advice(error, where)}"


def _advice(error: dict[str, Any], where: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        known = _names(Settings) if len(where) == 1 else _names(Settings.model_fields[where[0]].annotation)
        near = difflib.get_close_matches(where[-1], known, n=1)
        kind = "section" if len(where) == 1 else "key"
        return f"unknown {kind}; " + (f"did you mean {near[0]}?" if near else f"known ones are {', '.join(known)}")
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = str(error["msg"])
    return f"{_shown(error.get('input'))}: {message[:1].lower()}{message[1:]}"


def _names(model: Any) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    folders = [("[state] folder", settings.state.folder)]
    folders += [("[drop] folder", settings.drop.folder)] if settings.drop.enabled else []
    folders += [("[mirror] folder", settings.mirror.folder)] if settings.mirror.enabled else []
    for index, (name, folder) in enumerate(folders):
        for other_name, other in folders[index + 1 :]:
            if folder == other or folder in other.parents or other in folder.parents:
                problems.append(f"{name} ({folder}) and {other_name} ({other}) lie inside one another; keep them apart")
    if not may_use_plain_http(settings.console.url, settings.transfer.allow_http):
        problems.append("[console] url: plain http would show the key to the network; use https (or allow_http)")
    if not settings.drop.enabled and not settings.mirror.enabled:
        problems.append("[drop] enabled and [mirror] enabled are both false: nothing is left to do")
    return problems


def may_use_plain_http(url: str, allow_http: bool) -> bool:
    """Plain http is for loopback alone, unless the user allowed it."""
    parts = urlsplit(url)
    return parts.scheme == "https" or allow_http or is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is this machine, by its name alone: what a resolver says is not to be relied on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """The API key: `$AXOM_KEY`, else `key_file`, else the systemd credential `axom_key`. Raises `KeyRefused`."""
    if environ.get("AXOM_KEY"):
        return _clean_key(environ["AXOM_KEY"], "$AXOM_KEY")
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    file = settings.console.key_file or (Path(credentials) / "axom_key" if credentials else None)
    if file is None:
        raise KeyRefused(
            "no API key: set $AXOM_KEY, or write the key into a file and name it as [console] key_file, "
            "or give systemd LoadCredential=axom_key:FILE"
        )
    try:
        key = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyRefused(f"{file}: the API key can't be read: {reason}; put it there and make it readable") from None
    return _clean_key(key, str(file))


def _clean_key(text: str, source: str) -> str:
    key = text.strip()
    if not key or not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
        raise KeyRefused(f"{source}: this is not an API key; it holds one word such as axom_live_…")
    return key


def key_file_warning(settings: Settings) -> str | None:
    """A line of advice when other users of the machine can read the key file."""
    file = settings.console.key_file
    try:
        exposed = file is not None and bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return None
    return f"{file}: every user of this machine can read the API key; run chmod 600 {file}" if exposed else None


def shown(value: object) -> object:
    """A setting as it would be written in the file, for `config show` and `config.example.toml`."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [shown(item) for item in value]
    if isinstance(value, BandwidthRule):
        return _shown_rule(value)
    return "" if value is None else value


def _shown_rule(rule: BandwidthRule) -> str:
    days = " ".join(_DAYS[day].capitalize() for day in sorted(rule.days)) if len(rule.days) < 7 else "every day"
    rate = "off" if rule.rate is None else f"{rule.rate:g}B/s"
    return f"{days} {timedelta(minutes=rule.minute)} {rate}"


def effective(loaded: Loaded) -> list[dict[str, object]]:
    """Every key with its value and where that came from."""
    rows: list[dict[str, object]] = []
    for section, outer in Settings.model_fields.items():
        values = getattr(loaded.settings, section)
        for name, field in outer.annotation.model_fields.items():  # type: ignore[union-attr]  # sections are models
            key = f"{section}.{field.alias or name}"
            rows.append({"key": key, "value": shown(getattr(values, name)), "from": loaded.origins.get(key, "default")})
    return rows


def defaults_for_user(explicit: str | None, environ: Mapping[str, str]) -> tuple[Path, dict[str, object]]:
    """Where `init` writes, and the folders that suit whoever runs it: the system's for root, else some below home."""
    if os.geteuid() == 0:
        return Path(explicit or environ.get("AXOMSYNC_CONFIG") or SYSTEM_CONFIG), {}
    home = Path.home()
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "axomsync" / "config.toml"
    folders = {
        "drop.folder": str(home / "axom" / "drop"),
        "mirror.folder": str(home / "axom" / "models"),
        "state.folder": str(Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "axomsync"),
    }
    return Path(explicit or environ.get("AXOMSYNC_CONFIG") or user), dict(folders)


def example(values: Mapping[str, object] | None = None) -> str:
    """The text of a commented configuration file; `values` (`"drop.folder"` → value) are written instead of defaults."""
    chosen = values or {}
    blocks = ["# Configuration of axomsync. Every key is shown with its default; delete what you don't change."]
    for section, outer in Settings.model_fields.items():
        model = outer.annotation
        lines = [f"[{section}]"]
        for name, field in model.model_fields.items():  # type: ignore[union-attr]  # sections are models
            key = field.alias or name
            value = chosen.get(f"{section}.{key}", field.default)
            lines.append(f"{key} = {_toml(value)}  # {field.description}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
