"""All keys, read from the sections of `settings`, for documents, examples and error messages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from axomsync.config.settings import Reload, Settings

ENVIRONMENT_PREFIX = "AXOMSYNC_"


@dataclass(frozen=True)
class Key:
    """One key for documents: `default` as the file spells it, `why` to change it."""

    section: str
    name: str
    default: object
    why: str
    reload: Reload
    field: FieldInfo


def reference() -> dict[str, list[Key]]:
    """Return every key, by section."""
    return {
        section: [
            Key(section, field.alias or name, field.default, field.description or "", _reload_of(field), field)
            for name, field in fields.items()
        ]
        for section, fields in _fields()
    }


def names_in(model: Any) -> list[str]:
    """Return the names of a section's keys, or of all sections, as the file spells them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def changes(old: Settings, new: Settings) -> dict[str, Reload]:
    """Return the keys that differ, as `section.key`, each with the effect of a reload from `old` to `new`."""
    return {
        f"{section}.{field.alias or name}": _reload_of(field)
        for section, fields in _fields()
        for name, field in fields.items()
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name)
    }


def every_key() -> list[tuple[str, str]]:
    """Return `(section, name)` of every key."""
    return [(section, key.name) for section, keys in reference().items() for key in keys]


def variable_of(section: str, key: str) -> str:
    """Return the name of the environment variable that overrides a key."""
    return f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()


def _fields() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    for section, outer in Settings.model_fields.items():
        yield section, getattr(outer.annotation, "model_fields", {})


def _reload_of(field: FieldInfo) -> Reload:
    extra = field.json_schema_extra
    return Reload(str(extra["reload"])) if isinstance(extra, dict) else Reload.TRANSFERS
