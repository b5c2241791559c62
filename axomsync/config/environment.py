"""Environment variables as configuration: `AXOMSYNC_<SECTION>__<KEY>` overrides a key of the file.

Failures handled: a variable with one underscore where two are needed and a value that is not UTF-8 (errors), a name that
resembles a variable of ours and is none (`misspelt`, a line of advice).
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from axomsync.config.keys import ENVIRONMENT_PREFIX, every_key, names_in, reference, variable_of
from axomsync.config.settings import Settings
from axomsync.config.units import shown
from axomsync.core.text import is_utf8, printable


def overlay(tree: dict[str, Any], origins: dict[str, str], environ: Mapping[str, str]) -> list[str]:
    """Put the values of variables into `tree`, and their names into `origins`; return the errors."""
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
            continue  # `load` reports it as misplaced
        if not is_utf8(value):
            errors.append(f"${name}: {shown(value)} is not UTF-8, so it can't be written down; set another value")
            continue
        values[key] = _environment_value(section, key, value)
        origins[f"{section}.{key}"] = f"${name}"
        origins.setdefault(section, f"${name}")
    return errors


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Return a line of advice for each variable that resembles one of ours and is none.

    Variables of hooks are valid, and so are those that Kubernetes sets for a service called axomsync.
    """
    if "AXOMSYNC_EVENT" in environ:
        return []
    known = {f"{section}_{key}": variable_of(section, key) for section, key in every_key()}
    lines = []
    for name in sorted(environ):
        if name != name.upper() and (meant := _in_capitals(name)) is not None:
            lines.append(f"${printable(name)}: lower case is ignored; did you mean {meant}?")
            continue
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        foreign = rest == name or "__" in rest or rest == "CONFIG" or re.fullmatch(r"(SERVICE|PORT)(_.*)?", rest)
        if foreign:
            continue
        near = difflib.get_close_matches(rest.lower(), known, n=1)
        advice = f"did you mean {known[near[0]]}?" if near else "known are AXOMSYNC_CONFIG and AXOMSYNC_<SECTION>__<KEY>"
        lines.append(f"${printable(name)}: unknown to this version; {advice}")
    return lines


def _one_underscore(name: str) -> str | None:
    """Map `drop_settle` to `AXOMSYNC_DROP__SETTLE`; None for a name that is no key."""
    section, _, key = name.partition("_")
    field = Settings.model_fields.get(section)
    known = field is not None and key in names_in(field.annotation)
    return variable_of(section, key) if known else None


def _in_capitals(name: str) -> str | None:
    """Return the variable that differs from `name` by case alone."""
    meant = name.upper()
    if meant in ("AXOM_KEY", "AXOMSYNC_CONFIG"):
        return meant
    rest = meant.removeprefix(ENVIRONMENT_PREFIX)
    section, _, key = rest.lower().partition("__")
    return meant if rest != meant and (section, key) in every_key() else None


def _environment_value(section: str, key: str, value: str) -> object:
    """Read booleans, numbers, lists and quoted texts like TOML; leave everything else as plain text."""
    known = next((one for one in reference().get(section, ()) if one.name == key), None)
    is_text = known is None or not isinstance(known.default, bool | int)
    if is_text and value[:1] not in ("[", '"', "'"):
        return value
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return value
    return parsed["value"] if len(parsed) == 1 else value
