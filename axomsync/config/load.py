"""Read the configuration: TOML and environment in, frozen settings out.

Reports every error at once, each with file, line, key and the correct form. Unknown keys, sections and units are errors: an
ignored typing error would be found much later.

Failures handled, all as `BadConfig`: a file that is missing, unreadable, not UTF-8 or not TOML; wrong values, and values
that contradict each other. A folder whose filesystem does not answer is taken as it is spelled.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from axomsync.config.environment import overlay
from axomsync.config.keys import names_in
from axomsync.config.locations import ENVIRONMENT_ONLY, SYSTEM_CONFIG, defaults_for_user, instance_of
from axomsync.config.settings import Settings
from axomsync.config.units import shown
from axomsync.config.values import is_loopback, listen_address, may_use_plain_http
from axomsync.core.disks import disk_of
from axomsync.core.errors import BadConfig
from axomsync.core.named_files import read_named
from axomsync.core.oserrors import local_fault
from axomsync.core.text import printable

LONGEST_ERROR = 1000  # characters


@dataclass(frozen=True)
class Loaded:
    """Settings, and the origin of each value: `origins["drop.settle"]` is the place to change it."""

    settings: Settings
    origins: Mapping[str, str]
    path: Path


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read `path`, let the environment override it, and validate. Raises `BadConfig` with one line per error."""
    return parse("" if path == ENVIRONMENT_ONLY else _read(path), path, environ)


def parse(text: str, path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read the text of a file that need not exist yet, like `load`."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(*_in_order([_syntax_error(path, text, str(error))])) from None
    except ValueError:
        raise BadConfig(*_in_order([f"{path}: not valid TOML: one of its numbers has too many digits"])) from None
    except RecursionError:
        raise BadConfig(*_in_order([f"{path}: not valid TOML: its lists lie too deep in one another"])) from None
    origins = {key: f"{path}:{line}" for key, line in _key_lines(text).items()}
    errors = overlay(tree, origins, environ)
    name = instance_of(path, environ)
    if name is not None:
        _fill_in(tree, origins, name, path, environ)
    errors += _misplaced(tree, origins, path)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as failure:
        found = failure.errors()
        errors += [_explain(dict(error), origins, path) for error in found]
        settings = _valid_part(tree, [error["loc"] for error in found])
    errors += _contradictions(settings, origins, path)
    if errors:
        raise BadConfig("\n".join(_in_order(errors)))
    settings.belongs_to(name)
    return Loaded(settings, origins, path)


def _fill_in(tree: dict[str, Any], origins: dict[str, str], name: str, path: Path, environ: Mapping[str, str]) -> None:
    """Put the defaults of an instance into `tree`, for keys that are not set."""
    is_system = path.is_relative_to(Path(SYSTEM_CONFIG).parent)
    for place, value in defaults_for_user(str(path), environ, root=is_system)[1].items():
        section, _, key = place.partition(".")
        values = tree.setdefault(section, {})
        if isinstance(values, dict) and key not in values:
            values[key] = value
            origins[place] = f"default of the instance {name}"


def _read(path: Path) -> str:
    try:
        return read_named(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise BadConfig(f"{path}: there is no such file; `axomsync init --config {path}` writes one") from None
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise BadConfig(f"{path}: can't be read: {str(local_fault(error, str(path))).removeprefix(f'{path}: ')}") from None


def _syntax_error(path: Path, text: str, message: str) -> str:
    """Move the line number to the front: tomllib ends with `(at line 3, column 5)` or `(at end of document)`."""
    reason, _, place = message.rpartition(" (at ")
    number = re.match(r"line (\d+)", place)
    return f"{path}:{number[1] if number else max(1, len(text.splitlines()))}: not valid TOML: {reason or message}"


def _key_lines(text: str) -> dict[str, int]:
    """Return the line of each `section` and `section.key`; tomllib does not report them."""
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


def _misplaced(tree: dict[str, Any], origins: Mapping[str, str], path: Path) -> list[str]:
    """Remove keys outside of any section from `tree`; return an error for each, with the section it belongs to."""
    errors = []
    for key in [key for key, value in tree.items() if not isinstance(value, dict)]:
        del tree[key]
        place = origins.get(key, str(path))
        if key in Settings.model_fields:
            errors.append(f"{place}: [{key}] is a section; write [{key}] on a line of its own and its keys below")
            continue
        homes = [f"[{name}]" for name, field in Settings.model_fields.items() if key in names_in(field.annotation)]
        errors.append(f"{place}: {printable(key)}: outside of any section; it belongs below {' or '.join(homes) or 'one'}")
    return errors


def _valid_part(tree: dict[str, Any], bad: list[tuple[int | str, ...]]) -> Settings:
    """Return settings with defaults in place of wrong values, to check the rest for contradictions."""
    good = {section: dict(values) for section, values in tree.items() if section in Settings.model_fields}
    for place in bad:
        good.get(str(place[0]), {}).pop(str(place[1]) if len(place) > 1 else "", None)
    return Settings.model_validate(good)


def _explain(error: dict[str, Any], origins: Mapping[str, str], path: Path) -> str:
    where = [str(part) for part in error["loc"]]
    place = origins.get(".".join(where[:2])) or origins.get(where[0]) or str(path)
    name = f"[{printable(where[0])}]" + (f" {printable(where[1])}" if len(where) > 1 else "")
    return f"{place}: {name}: {_advice(error, where)}"


def _advice(error: dict[str, Any], where: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        known = names_in(Settings) if len(where) == 1 else names_in(Settings.model_fields[where[0]].annotation)
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


def _contradictions(settings: Settings, origins: Mapping[str, str], path: Path) -> list[str]:
    """Return errors between keys, each reported at the first of those keys that was set."""
    found: list[tuple[tuple[str, ...], str]] = []
    folders = [("state", settings.state.folder)]
    folders += [("drop", settings.drop.folder)] if settings.drop.enabled else []
    folders += [("mirror", settings.mirror.folder)] if settings.mirror.enabled else []
    for index, (name, folder) in enumerate(folders):
        for other_name, other in folders[index + 1 :]:
            if overlap(folder, other):
                told = (
                    f"[{name}] folder ({folder}) and [{other_name}] folder ({other}) lie inside one another; keep them apart"
                )
                found.append(((f"{other_name}.folder", f"{name}.folder"), told))
    for index, view in enumerate(settings.mirror.views):
        places = [(f"[{name}] folder ({folder})", folder) for name, folder in folders]
        places += [(f"the view {other}", other.folder) for other in settings.mirror.views[:index]]
        for name, folder in places:
            if overlap(view.folder, folder):
                told = f"[mirror] views: {view} and {name} lie inside one another; keep them apart"
                found.append((("mirror.views",), told))
    if not may_use_plain_http(settings.console.url, settings.transfer.allow_http):
        told = "[console] url: plain http would show the key to the network; use https, or [transfer] allow_http = true"
        found.append((("console.url",), told))
    if not settings.drop.enabled and not settings.mirror.enabled:
        told = "[drop] enabled and [mirror] enabled are both false: nothing is left to do"
        found.append((("mirror.enabled", "drop.enabled"), told))
    if settings.drop.shard is not None and not 0 < settings.drop.shard <= settings.drop.max_put:
        told = "[drop] shard: must be more than 0 and at most [drop] max_put, or storage would not take the parts"
        found.append((("drop.shard", "drop.max_put"), told))
    if settings.drop.validate_ == "off" and settings.drop.schema_ not in ("report", "off"):
        told = f'[drop] schema: "{settings.drop.schema_}" needs lines that are read; set [drop] validate = "full"'
        found.append((("drop.schema", "drop.validate"), told))
    if settings.web.listen and settings.web.token_file is None and not is_loopback(listen_address(settings.web.listen)[0]):
        told = "[web] listen: the network could look at the page; name a [web] token_file, or listen on 127.0.0.1"
        found.append((("web.listen",), told))
    return [f"{next((origins[key] for key in keys if key in origins), path)}: {told}" for keys, told in found]


def overlap(folder: Path, other: Path) -> bool:
    """Check whether two folders are one, or one lies in the other, by where their links lead, if their disks tell."""
    real, other_real = (
        Path(disk_of(each).ask(partial(os.path.realpath, each), os.path.abspath(each))) for each in (folder, other)
    )
    return real == other_real or real in other_real.parents or other_real in real.parents


def _in_order(errors: Iterable[str]) -> list[str]:
    """Return each error once, in the order of the file, as one line without control characters."""
    lines = map(printable, sorted(dict.fromkeys(errors), key=_place_in_file))
    return [line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]}…" for line in lines]


def _place_in_file(error: str) -> tuple[int, str]:
    line = re.match(r".*?:(\d+): ", error)
    return (int(line[1]) if line else 1 << 30, error)
