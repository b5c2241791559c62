"""Configuration: TOML and environment in, frozen settings out.

Reports every error at once, each with file, line and key, and says how to write it right. Unknown keys, sections and
units are errors, since a mistyped key that is ignored is found at 3 a.m. The API key is loaded here too; it is held
outside the settings so that nothing that prints settings can print it.

Failures handled: a file that is missing, unreadable, not UTF-8 or no TOML, wrong and contradicting values, an API key
written where its file should be named (it is not repeated), a home folder that nobody knows (all `BadConfig`); a key
that is missing or is none (`KeyRefused`).
"""

import difflib
import ipaddress
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from axomsync.config.units import (
    API_KEY,
    parse_bandwidth,
    parse_duration,
    parse_size,
    show_bandwidth,
    show_duration,
    show_size,
    shown,
)
from axomsync.core.errors import BadConfig, KeyRefused, LocalFault
from axomsync.core.named_files import read_named
from axomsync.core.oserrors import local_fault
from axomsync.core.policy import BandwidthRule
from axomsync.core.rights import denial_of
from axomsync.core.text import printable

SYSTEM_CONFIG = "/etc/axomsync/config.toml"
SERVICE_KEY = "/etc/axomsync/key"
ENVIRONMENT_PREFIX = "AXOMSYNC_"
ENVIRONMENT_ONLY = Path("the environment")  # stands for the file where there is none

SHORTEST_TOKEN = 16
LONGEST_ERROR = 1000  # characters


def _absolute(value: Path) -> Path:
    if API_KEY.search(str(value)):
        raise ValueError("this is an API key, not the name of a file; write the key into a file and name that here")
    if "\0" in str(value):
        raise ValueError("a path can't hold a NUL character")
    try:
        path = value.expanduser()
    except RuntimeError:
        raise ValueError(f"{shown(str(value))}: nobody knows that home folder; write the whole path") from None
    if not path.is_absolute():
        raise ValueError(f'{shown(str(value))} is a relative path; write the whole path, beginning with "/" or "~"')
    return path


def _optional(value: object) -> object:
    return None if value == "" else value


def _console_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or brackets that hold no address
        usable = False
    if not usable or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError(f'{shown(value)} is not a URL; write it like "https://console.axomlabs.ai/api"')
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL must not hold a user, a password, a query or a fragment")
    return value.rstrip("/")


def parse_listen(value: str) -> str:
    match = re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[^:\s]+):([0-9]{1,5})", value)
    if value and (match is None or int(match[1]) > 65535):
        raise ValueError(f'{shown(value)} is not host:port; write it like "127.0.0.1:9464", or "" for off')
    return value


def _list(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f'{shown(value)} is not a list of texts; write it like ["one", "another"]')
    return value


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name):
            raise ValueError(f'{shown(name)} is not a host name; write it without scheme, port and path: "axom.example"')
    return tuple(name.lower() for name in names)


Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(show_duration)]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(show_size)]
OptionalSize = Annotated[
    int | None,
    BeforeValidator(lambda value: None if value == "" else parse_size(value)),
    PlainSerializer(lambda value: "" if value is None else show_size(value)),
]
OptionalDuration = Annotated[
    float | None,
    BeforeValidator(lambda value: None if value == "" else parse_duration(value)),
    PlainSerializer(lambda value: "" if value is None else show_duration(value)),
]
Bandwidth = Annotated[tuple[BandwidthRule, ...], BeforeValidator(parse_bandwidth), PlainSerializer(show_bandwidth)]
Folder = Annotated[Path, AfterValidator(_absolute)]
OptionalFile = Annotated[
    Path | None,
    BeforeValidator(_optional),
    AfterValidator(lambda value: value and _absolute(value)),
    PlainSerializer(lambda value: "" if value is None else str(value)),
]
Globs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_list)]
Command = Annotated[tuple[str, ...], BeforeValidator(_list)]
Whole = Annotated[int, Strict()]  # true is no number
Switch = Annotated[bool, Strict()]


class Reload(StrEnum):
    """What a reload does with a key that was changed."""

    AT_ONCE = "at once"  # transfers go on
    TRANSFERS = "transfers begin again"  # where their durable bytes end
    RESTART = "needs a restart"


def _key(default: object, why: str, *, reload: Reload = Reload.TRANSFERS, **constraints: Any) -> Any:
    extra: JsonDict = {"reload": reload.value}
    return Field(default=default, validate_default=True, description=why, json_schema_extra=extra, **constraints)


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

    folder: Folder = _key(
        "/var/lib/axomsync", "holds the ledger; must be on a local disk, not on NFS or Lustre", reload=Reload.RESTART
    )


class DropSettings(_Section):
    """`[drop]`: the folder whose new files are uploaded."""

    enabled: Switch = _key(True, "false makes an agent that only mirrors")
    folder: Folder = _key("/srv/axom/drop", "every new dataset file below it is uploaded")
    include: Globs = _key(
        ["*.jsonl"], "names to take, in upper or lower case; matched against the file name and the path below the folder"
    )
    exclude: Globs = _key(
        [], "names to leave alone, besides dotfiles, locks (~$*) and unfinished files (*.part, *.tmp, *~ and the like)"
    )
    settle: Duration = _key("5s", "a file is finished when nothing about it has changed for so long", ge=0)
    rescan: Duration = _key("1m", "the folder is read anew at least this often, whatever the events say", gt=0)
    done_marker: str = _key("", 'such as ".done": a file is taken only once <file>.done lies beside it, newer than the file')
    observer: Literal["auto", "inotify", "polling"] = _key("auto", "polling sees files on network filesystems")
    validate_: Literal["full", "sample", "off"] = _key(
        "full", "full parses every line; sample the first and last 1 MiB; off trusts the exporter", alias="validate"
    )
    dedupe: Literal["name", "content"] = _key(
        "name", "name uploads the same content under another name once more; content does not"
    )
    after: Literal["archive", "keep", "delete"] = _key("archive", "what becomes of a file once storage has confirmed it")
    content_type: str = _key("application/jsonl", "what the console is told that the files are", min_length=1)
    max_put: Size = _key("5115MiB", "largest single PUT that the storage takes; larger files are held", gt=0)
    shard: OptionalSize = _key("", 'split larger files at line ends into uploads of this size; "" uploads files whole')


class MirrorSettings(_Section):
    """`[mirror]`: the folder in which every ready model appears."""

    enabled: Switch = _key(True, "false makes an agent that only uploads")
    folder: Folder = _key("/srv/axom/models", "every ready model appears below it as name/version")
    poll: Duration = _key("1m", "how often the console is asked for models", gt=0)
    include: Globs = _key(["*"], "models to mirror: globs over name, name/version or id")
    exclude: Globs = _key([], "models to leave out, likewise")
    files: Globs = _key(["*"], "files of a model to fetch: globs over the path inside the model")
    keep: Whole = _key(0, "newest versions of a name to keep; 0 keeps all", ge=0)
    keep_gone: Switch = _key(True, "false lets retention remove what was removed in the console, a day and ten polls later")
    max_size: OptionalSize = _key("", 'most bytes that all models together may take; "" is as many as the disk has')
    reserve: Size = _key("1GiB", "free space that mirroring never uses up", ge=0)
    verify: Literal["etag", "size"] = _key(
        "etag",
        "etag compares checksums where storage gives them, and looks into files; size does neither, and overrules both",
    )
    scrub: OptionalDuration = _key("30d", 'how often the published bytes are read again, slowly, and mended; "" is never')


class TransferSettings(_Section):
    """`[transfer]`: how bytes travel."""

    connections: Whole = _key(16, "most connections to storage at once", ge=1, le=256)
    bandwidth: Bandwidth = _key(
        "", 'a rate like "100MB/s" or a timetable like ["Mon-Fri 08:00 50MB/s", "20:00 off"]', reload=Reload.AT_ONCE
    )
    stall: Duration = _key("30s", "a connection that brings no byte for so long is given up and tried again", gt=0)
    allow_http: Switch = _key(False, "true allows plain http to hosts other than this one")


class WebSettings(_Section):
    """`[web]`: the status page and metrics."""

    listen: Annotated[str, AfterValidator(parse_listen)] = _key(
        "127.0.0.1:9464", 'host:port of the status page; "" is off', reload=Reload.AT_ONCE
    )
    token_file: OptionalFile = _key(
        "", 'file that holds the token to look at it with; "" only on loopback', reload=Reload.AT_ONCE
    )
    names: Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_host_names)] = _key(
        [],
        "host names under which a proxy before it, or DNS, leads to the page; addresses and localhost need none",
        reload=Reload.AT_ONCE,
    )


class HookSettings(_Section):
    """`[hooks]`: commands that run when something happens."""

    model_published: Command = _key([], "argument list that runs when a model has been published")
    upload_done: Command = _key([], "argument list that runs when a file has been uploaded")
    failed: Command = _key([], "argument list that runs when a transfer is parked")
    timeout: Duration = _key("1m", "a hook that runs longer is stopped, and tried again", gt=0)


class LogSettings(_Section):
    """`[log]`: what is written about the work."""

    format: Literal["auto", "console", "json", "journal"] = _key(
        "auto", "auto is console on a terminal and journal under systemd", reload=Reload.AT_ONCE
    )
    level: Literal["debug", "info", "warning", "error"] = _key(
        "info", "debug says why nothing happens", reload=Reload.AT_ONCE
    )


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
    candidates = [Path(SYSTEM_CONFIG)]
    with suppress(BadConfig):  # without a home folder there is one less
        candidates.append(_user_config(environ))
    for candidate in candidates:
        if os.path.exists(candidate):  # Path.exists raises where a folder above is closed to us
            return candidate
    if any(name.startswith(ENVIRONMENT_PREFIX) and "__" in name for name in environ):
        return ENVIRONMENT_ONLY
    if (denial := denial_of(SYSTEM_CONFIG)) is not None and denial.bits == 1:  # one may be there
        raise BadConfig(f"{SYSTEM_CONFIG}: {denial.words(SYSTEM_CONFIG)}")
    raise BadConfig(
        f"no configuration at {' or '.join(map(str, candidates))}; `axomsync init` writes one, and variables such as "
        "AXOMSYNC_CONSOLE__URL do without"
    )


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read `path`, lay the environment over it and validate. Raises `BadConfig` with one line per error."""
    return parse("" if path == ENVIRONMENT_ONLY else _read(path), path, environ)


def parse(text: str, path: Path, environ: Mapping[str, str]) -> Loaded:
    """As `load`, for the text of a file that may not be written yet."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(*_told([_syntax_error(path, text, str(error))])) from None
    origins = {key: f"{path}:{line}" for key, line in _key_lines(text).items()}
    errors = _overlay(tree, origins, environ)
    errors += _misplaced(tree, origins, path)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as failure:
        found = failure.errors()
        errors += [_explain(dict(error), origins, path) for error in found]
        settings = _what_is_good(tree, [error["loc"] for error in found])
    errors += _contradictions(settings, origins, path)
    if errors:
        raise BadConfig("\n".join(_told(errors)))
    return Loaded(settings, origins, path)


def _syntax_error(path: Path, text: str, message: str) -> str:
    """tomllib ends its messages with `(at line 3, column 5)` or `(at end of document)`."""
    reason, _, place = message.rpartition(" (at ")
    number = re.match(r"line (\d+)", place)
    return f"{path}:{number[1] if number else max(1, len(text.splitlines()))}: not valid TOML: {reason or message}"


def _told(errors: Iterable[str]) -> list[str]:
    """Each once, in the order of the file, on one line that a terminal can show: keys and values may hold anything."""
    lines = map(printable, sorted(dict.fromkeys(errors), key=_place_in_file))
    return [line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]}…" for line in lines]


def _place_in_file(error: str) -> tuple[int, str]:
    line = re.match(r".*?:(\d+): ", error)
    return (int(line[1]) if line else 1 << 30, error)


def _misplaced(tree: dict[str, Any], origins: Mapping[str, str], path: Path) -> list[str]:
    """Takes what stands outside of any section out of `tree`, and says where it belongs."""
    errors = []
    for key in [key for key, value in tree.items() if not isinstance(value, dict)]:
        del tree[key]
        place = origins.get(key, str(path))
        if key in Settings.model_fields:
            errors.append(f"{place}: [{key}] is a section; write [{key}] on a line of its own and its keys below")
            continue
        homes = [f"[{name}]" for name, field in Settings.model_fields.items() if key in _names(field.annotation)]
        errors.append(f"{place}: {printable(key)}: outside of any section; it belongs below {' or '.join(homes) or 'one'}")
    return errors


def _what_is_good(tree: dict[str, Any], bad: list[tuple[int | str, ...]]) -> Settings:
    """The settings with defaults in the place of what is wrong, to look for contradictions in the rest."""
    good = {section: dict(values) for section, values in tree.items() if section in Settings.model_fields}
    for place in bad:
        good.get(str(place[0]), {}).pop(str(place[1]) if len(place) > 1 else "", None)
    return Settings.model_validate(good)


def _read(path: Path) -> str:
    try:
        return read_named(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise BadConfig(f"{path}: there is no such file; `axomsync init --config {path}` writes one") from None
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise BadConfig(f"{path}: can't be read: {str(local_fault(error, str(path))).removeprefix(f'{path}: ')}") from None


def _key_lines(text: str) -> dict[str, int]:
    """Line numbers of `section` and `section.key`, which tomllib does not tell."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]", line):
            section = _unquoted(header[1])
            lines.setdefault(section, number)
        elif key := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            lines.setdefault(f"{section}.{_unquoted(key[1])}".strip("."), number)
    return lines


def _unquoted(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _overlay(tree: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]) -> list[str]:
    """Lays `AXOMSYNC_<SECTION>__<KEY>` over `tree`; returns the errors."""
    errors = []
    for name, value in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not separator:
            if (near := _one_underscore(section)) is not None:
                errors.append(f"${name}: two underscores are missing; did you mean {near}?")
            continue
        values = tree.setdefault(section, {})
        if not isinstance(values, dict):
            continue  # told as misplaced
        values[key] = _environment_value(section, key, value)
        origins[f"{section}.{key}"] = f"${name}"
        origins.setdefault(section, f"${name}")
    return errors


def _one_underscore(name: str) -> str | None:
    """`drop_settle` → `AXOMSYNC_DROP__SETTLE`, None for what is no key of ours."""
    section, _, key = name.partition("_")
    field = Settings.model_fields.get(section)
    known = field is not None and key in _names(field.annotation)
    return f"{ENVIRONMENT_PREFIX}{section}__{key}".upper() if known else None


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """A line of advice for each variable that looks like one of ours and is none.

    Those of hooks are ours as well, and so are what Kubernetes sets for a service that is called axomsync.
    """
    if "AXOMSYNC_EVENT" in environ:
        return []
    known = {f"{section}_{key}": f"{ENVIRONMENT_PREFIX}{section}__{key}".upper() for section, key in _every_key()}
    lines = []
    for name in sorted(environ):
        if name != name.upper() and (meant := _in_capitals(name)) is not None:
            lines.append(f"${printable(name)}: it means nothing in small letters; did you mean {meant}?")
            continue
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        foreign = rest == name or "__" in rest or rest == "CONFIG" or re.fullmatch(r"(SERVICE|PORT)(_.*)?", rest)
        if foreign:
            continue
        near = difflib.get_close_matches(rest.lower(), known, n=1)
        advice = f"did you mean {known[near[0]]}?" if near else "known are AXOMSYNC_CONFIG and AXOMSYNC_<SECTION>__<KEY>"
        lines.append(f"${printable(name)}: it means nothing to this version; {advice}")
    return lines


def _in_capitals(name: str) -> str | None:
    """The variable of ours that differs from `name` by case alone."""
    meant = name.upper()
    if meant in ("AXOM_KEY", "AXOMSYNC_CONFIG"):
        return meant
    rest = meant.removeprefix(ENVIRONMENT_PREFIX)
    section, _, key = rest.lower().partition("__")
    return meant if rest != meant and (section, key) in _every_key() else None


def _every_key() -> list[tuple[str, str]]:
    return [(section, key.name) for section, keys in reference().items() for key in keys]


def _environment_value(section: str, key: str, value: str) -> object:
    """Booleans, numbers, lists and quoted texts are written as in TOML; everything else is a text as it stands."""
    outer = Settings.model_fields.get(section)
    fields = outer.annotation.model_fields if outer is not None else {}  # type: ignore[union-attr]  # sections are models
    plain = key not in fields or not isinstance(fields[key].default, bool | int)
    if plain and value[:1] not in ("[", '"', "'"):
        return value
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return parsed["value"] if len(parsed) == 1 else value


def _explain(error: dict[str, Any], origins: Mapping[str, str], path: Path) -> str:
    where = [str(part) for part in error["loc"]]
    place = origins.get(".".join(where[:2])) or origins.get(where[0]) or str(path)
    name = f"[{printable(where[0])}]" + (f" {printable(where[1])}" if len(where) > 1 else "")
    return f"{place}: {name}: {_advice(error, where)}"


def _advice(error: dict[str, Any], where: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        known = _names(Settings) if len(where) == 1 else _names(Settings.model_fields[where[0]].annotation)
        near = difflib.get_close_matches(where[-1], known, n=1) or [name for name in known if where[-1] in name]
        kind = "section" if len(where) == 1 else "key"
        return f"unknown {kind}; " + (f"did you mean {near[0]}?" if near else f"known ones are {', '.join(known)}")
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    value = shown(error.get("input"))
    plain = {
        "bool_type": "write true or false",
        "int_type": "write a whole number",
        "string_type": 'write a text, as in "text"',
        "string_too_short": "it is empty",
        "path_type": 'write a path, as in "/srv/axom"',
    }.get(error["type"])
    message = str(error["msg"])
    return f"{value}: {plain or message[:1].lower() + message[1:]}"


def _names(model: Any) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _contradictions(settings: Settings, origins: Mapping[str, str], path: Path) -> list[str]:
    """What is right by itself and wrong together; told at the first of its keys that somebody wrote."""
    found: list[tuple[tuple[str, ...], str]] = []
    folders = [("state", settings.state.folder)]
    folders += [("drop", settings.drop.folder)] if settings.drop.enabled else []
    folders += [("mirror", settings.mirror.folder)] if settings.mirror.enabled else []
    for index, (name, folder) in enumerate(folders):
        for other_name, other in folders[index + 1 :]:
            real, other_real = (Path(os.path.realpath(each)) for each in (folder, other))
            if real == other_real or real in other_real.parents or other_real in real.parents:
                told = (
                    f"[{name}] folder ({folder}) and [{other_name}] folder ({other}) lie inside one another; keep them apart"
                )
                found.append(((f"{other_name}.folder", f"{name}.folder"), told))
    if not may_use_plain_http(settings.console.url, settings.transfer.allow_http):
        told = "[console] url: plain http would show the key to the network; use https, or [transfer] allow_http = true"
        found.append((("console.url",), told))
    if not settings.drop.enabled and not settings.mirror.enabled:
        told = "[drop] enabled and [mirror] enabled are both false: nothing is left to do"
        found.append((("mirror.enabled", "drop.enabled"), told))
    if settings.drop.shard is not None and not 0 < settings.drop.shard <= settings.drop.max_put:
        told = "[drop] shard: must be more than 0 and at most [drop] max_put, or storage would not take the parts"
        found.append((("drop.shard", "drop.max_put"), told))
    if settings.web.listen and settings.web.token_file is None and not is_loopback(listen_address(settings.web.listen)[0]):
        told = "[web] listen: the network could look at the page; name a [web] token_file, or listen on 127.0.0.1"
        found.append((("web.listen",), told))
    return [f"{next((origins[key] for key in keys if key in origins), path)}: {told}" for keys, told in found]


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


def listen_address(listen: str) -> tuple[str, int]:
    """`[::1]:9464` → `("::1", 9464)`."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def load_token(settings: WebSettings) -> str | None:
    """What `[web] token_file` holds, None when there is none. A secret. Raises `LocalFault`."""
    file = settings.token_file
    if file is None:
        return None
    try:
        token = read_named(file).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LocalFault(f"{file}: the token can't be read: {reason}; write one there and make it readable") from None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise LocalFault(
            f"{file}: no token: it needs {SHORTEST_TOKEN} characters or more, no spaces; openssl rand -hex 32 makes one"
        )
    return token


def load_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """The API key: `$AXOM_KEY`, else `key_file`, else the systemd credential `axom_key`. Raises `KeyRefused`."""
    if environ.get("AXOM_KEY"):
        return _clean_key(environ["AXOM_KEY"], "$AXOM_KEY")
    file = settings.console.key_file or _credential(environ)
    if file is None and os.path.exists(SERVICE_KEY):
        raise KeyRefused(
            f"no API key: {SERVICE_KEY} is for the service alone; lend it to this command: "
            f"sudo sh -c 'AXOM_KEY=$(cat {SERVICE_KEY}) axomsync …'"
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
    """As systemd handed it over at the start, or the unit's ExecReload= since."""
    at_start = environ.get("CREDENTIALS_DIRECTORY")
    if not at_start:
        return None
    since = Path(environ.get("RUNTIME_DIRECTORY", at_start).partition(":")[0]) / "axom_key"
    return since if since.exists() else Path(at_start) / "axom_key"


def _clean_key(text: str, source: str) -> str:
    key = text.strip()
    if not key:
        raise KeyRefused(f"no API key: {source} is empty; put the key there, one word such as axom_live_…")
    if not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
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


def reloads(old: Settings, new: Settings) -> set[Reload]:
    """What the keys that differ ask of a reload from `old` to `new`."""
    return {
        _reload_of(field)
        for section, fields in _fields()
        for name, field in fields.items()
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name)
    }


def effective(loaded: Loaded) -> list[dict[str, object]]:
    """Every key with its value as it would be written in the file, and where that came from."""
    return [
        {"key": f"{section}.{key}", "value": value, "from": loaded.origins.get(f"{section}.{key}", "default")}
        for section, values in loaded.settings.model_dump(mode="json", by_alias=True).items()
        for key, value in values.items()
    ]


def _user_config(environ: Mapping[str, str]) -> Path:
    folder = environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else _home(environ) / ".config") / "axomsync" / "config.toml"


def _home(environ: Mapping[str, str]) -> Path:
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        raise BadConfig("this user has no home folder; name the configuration with --config FILE") from None


def defaults_for_user(explicit: str | None, environ: Mapping[str, str], *, root: bool) -> tuple[Path, dict[str, object]]:
    """Where `init` writes, and the folders that suit whoever runs it: the system's for root, else some below home."""
    path = explicit or environ.get("AXOMSYNC_CONFIG")
    if root:
        return Path(path or SYSTEM_CONFIG), {}
    home = _home(environ)
    state = environ.get("XDG_STATE_HOME")
    folders: dict[str, object] = {
        "drop.folder": str(home / "axom" / "drop"),
        "mirror.folder": str(home / "axom" / "models"),
        "state.folder": str((Path(state) if state else home / ".local" / "state") / "axomsync"),
    }
    return Path(path) if path else _user_config(environ), folders


@dataclass(frozen=True)
class Key:
    """One key, as documents tell it: `default` as it is written in the file, `why` to change it."""

    section: str
    name: str
    default: object
    why: str
    reload: Reload
    field: FieldInfo


def reference() -> dict[str, list[Key]]:
    """Every key there is, by section."""
    return {
        section: [
            Key(section, field.alias or name, field.default, field.description or "", _reload_of(field), field)
            for name, field in fields.items()
        ]
        for section, fields in _fields()
    }


def _fields() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    for section, outer in Settings.model_fields.items():
        yield section, getattr(outer.annotation, "model_fields", {})


def _reload_of(field: FieldInfo) -> Reload:
    extra = field.json_schema_extra
    return Reload(str(extra["reload"])) if isinstance(extra, dict) else Reload.TRANSFERS


def example(values: Mapping[str, object] | None = None) -> str:
    """The text of a commented configuration file; `values` (`"drop.folder"` → value) are written instead of defaults."""
    chosen = values or {}
    blocks = ["# Configuration of axomsync. Every key is shown with its default; delete what you don't change."]
    for section, keys in reference().items():
        lines = [f"{k.name} = {as_toml(chosen.get(f'{section}.{k.name}', k.default))}  # {k.why}" for k in keys]
        blocks.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def as_toml(value: object) -> str:
    """A value as it is written in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
