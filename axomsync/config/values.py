"""Types of the keys' values: read from the file, checked, and written back. Pure.

Failures handled: an invalid value (`ValueError` with the correct form; an API key in it is not repeated), the home folder
of an unknown user.
"""

import ipaddress
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, Strict

from axomsync.config.units import (
    API_KEY,
    parse_bandwidth,
    parse_duration,
    parse_promote,
    parse_size,
    show_bandwidth,
    show_duration,
    show_promote,
    show_size,
    shown,
)
from axomsync.core.hosts import host_fault
from axomsync.core.policy import BandwidthRule
from axomsync.core.text import is_utf8
from axomsync.core.windows import Promotes

CONNECTIONS_MOST = 256
GATEWAYS_MOST = 1000


def _absolute(value: Path) -> Path:
    if API_KEY.search(str(value)):
        raise ValueError("this is an API key, not the name of a file; write the key into a file and name that here")
    if "\0" in str(value):
        raise ValueError("a path can't hold a NUL character")
    try:
        path = value.expanduser()
    except RuntimeError:
        raise ValueError(
            f"{shown(str(value))}: the user of this home folder does not exist; write the absolute path"
        ) from None
    if not path.is_absolute():
        raise ValueError(f'{shown(str(value))} is a relative path; write the whole path, beginning with "/" or "~"')
    if not is_utf8(str(path)):  # only now: the name of the home folder counts, too
        raise ValueError(f"{shown(str(path))}: a path that is not UTF-8 can't be written down; name another one")
    return path


@dataclass(frozen=True)
class View:
    """A folder of links beside the mirror: `flat` for servers that look into one folder, `hf` for huggingface_hub."""

    kind: Literal["flat", "hf"]
    folder: Path

    def __str__(self) -> str:
        return f"{self.kind}:{self.folder}"


def parse_views(value: object) -> tuple[View, ...]:
    """Check a list of views, such as `["flat:/srv/axom/serving"]`."""
    views = []
    for text in _texts(value):
        kind, colon, folder = text.partition(":")
        if kind not in ("flat", "hf") or not colon:
            raise ValueError(f'{shown(text)} is not a view; write it like "flat:/srv/axom/serving" or "hf:/srv/axom/hf"')
        path = _absolute(Path(folder))
        if ".." in path.parts or path == path.parent:
            raise ValueError(f"{shown(text)}: write the plain path of a folder that holds nothing else")
        views.append(View("flat" if kind == "flat" else "hf", path))
    for one, other in pairwise(sorted(views, key=lambda view: view.folder)):
        if one.folder == other.folder:
            raise ValueError(f"{one} and {other} name one folder; each view needs its own")
    return tuple(views)


def _optional(value: object) -> object:
    return None if value == "" else value


def console_url(value: str) -> str:
    """Check the base URL of a console and remove the slash at its end."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or brackets without an address
        usable = False
    if not usable or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError(f'{shown(value)} is not a URL; write it like "https://console.axomlabs.ai/api"')
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL must not hold a user, a password, a query or a fragment")
    _check_host(value, parts.hostname)
    return value.rstrip("/")


def _check_host(value: str, host: str | None) -> None:
    """Raise `ValueError` for a host that no resolver takes."""
    if (fault := host_fault(host or "")) is not None:
        raise ValueError(f"{shown(value)}: {fault}; correct it")


def media_type(value: str) -> str:
    """Check what goes into a header of HTTP (RFC 9110, 8.3)."""
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", value):
        raise ValueError(f'{shown(value)} is not a content type; write it like "application/jsonl"')
    return value


def parse_listen(value: str) -> str:
    """Check `host:port`; `""` is off."""
    match = re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[^:\s]+):([0-9]{1,5})", value)
    if value and (match is None or int(match[1]) > 65535):
        raise ValueError(f'{shown(value)} is not host:port; write it like "127.0.0.1:9464", or "" for off')
    if value:
        _check_host(value, listen_address(value)[0])
    return value


def listen_address(listen: str) -> tuple[str, int]:
    """Return host and port of an address: `[::1]:9464` gives `("::1", 9464)`."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def text_list(value: object) -> object:
    """Check that a value is a list of texts."""
    return _texts(value)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f'{shown(value)} is not a list of texts; write it like ["one", "another"]')
    return value


def parse_connections(value: object) -> int | None:
    """Check a number of connections; None stands for `"auto"`."""
    if value == "auto":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(CONNECTIONS_MOST)):
        value = int(value)  # the environment has no numbers
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= CONNECTIONS_MOST:
        return value
    raise ValueError(f'{shown(value)} is not a number of connections; write "auto", or 1 to {CONNECTIONS_MOST}')


def parse_gateways(value: object) -> tuple[str, ...]:
    """Check a list of gateways; each is written one way, since all boxes must agree on it."""
    gateways = []
    for text in _texts(value):
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None and parts.port > 0
        except ValueError:
            usable = False
        if not usable or any(c.isspace() or not c.isprintable() for c in text):
            raise ValueError(f'{shown(text)} is not a gateway; write it like "http://box1:9080"')
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("the URL of a gateway must not hold a user, a password, a query or a fragment")
        _check_host(text, parts.hostname)
        gateways.append(f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}")
    for one in gateways:
        if gateways.count(one) > 1:
            raise ValueError(f"{one} is named twice")
    if len(gateways) > GATEWAYS_MOST:
        raise ValueError(f"{len(gateways)} gateways are too many; {GATEWAYS_MOST} are the most")
    return tuple(gateways)


def host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check host names and write them in lower case."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name):
            raise ValueError(f'{shown(name)} is not a host name; write it without scheme, port and path: "axom.example"')
        _check_host(name, name)
    return tuple(name.lower() for name in names)


def may_use_plain_http(url: str, allow_http: bool) -> bool:
    """Return True for https, for loopback, and for plain http that the user allowed."""
    parts = urlsplit(url)
    return parts.scheme == "https" or allow_http or is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Return True when the host of a URL names this machine. Judged by the text alone: a resolver can lie."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def file_mode(value: object) -> str:
    """Check rights of published files: the owner's may not be less, the others' not more than reading."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'{shown(value)} is not a mode; write it in octal and in quotes, such as "0640"')
    if value[-3:-2] != "6" or not set(value[-2:]) <= {"0", "4"}:
        raise ValueError(
            f'{shown(value)}: the owner reads and writes, and others read at most, or could change what was verified: "0640"'
        )
    return value.zfill(4)


def group_name(value: str) -> str:
    """Check the form of a group's name or number."""
    if value and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\$?", value):
        raise ValueError(f'{shown(value)} is not the name of a group; write it like "ml", or "" for none')
    return value


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
Connections = Annotated[
    int | None,
    BeforeValidator(parse_connections),
    PlainSerializer(lambda value: "auto" if value is None else value),
]
Bandwidth = Annotated[tuple[BandwidthRule, ...], BeforeValidator(parse_bandwidth), PlainSerializer(show_bandwidth)]
Promote = Annotated[Promotes, BeforeValidator(parse_promote), PlainSerializer(show_promote)]
Mode = Annotated[str, BeforeValidator(file_mode)]
Group = Annotated[str, AfterValidator(group_name)]
Folder = Annotated[Path, AfterValidator(_absolute)]
OptionalFile = Annotated[
    Path | None,
    BeforeValidator(_optional),
    AfterValidator(lambda value: value and _absolute(value)),
    PlainSerializer(lambda value: "" if value is None else str(value)),
]
Globs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(text_list)]
Command = Annotated[tuple[str, ...], BeforeValidator(text_list)]
Views = Annotated[
    tuple[View, ...], BeforeValidator(parse_views), PlainSerializer(lambda views: [str(view) for view in views])
]
Gateways = Annotated[tuple[str, ...], BeforeValidator(parse_gateways), PlainSerializer(list)]
Whole = Annotated[int, Strict()]  # rejects true as a number
Switch = Annotated[bool, Strict()]
