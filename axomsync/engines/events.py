"""The event that a hook gets on standard input, and what an engine is to do about it.

The folder decides, not the event: events come late and more than once, and an engine must not go back to a version that was
replaced meanwhile. So a version counts only while `current` leads to it.

Failures handled: an event that is too large, no JSON or of another form (`Rejected`), events about something else
(`Nothing`), a version that is gone or was replaced since (`Nothing`), a folder that can't be read (`LocalFault`).
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import IO, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from axomsync.core.documents import NotADocument, parse_document
from axomsync.core.errors import Rejected
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import CURRENT
from axomsync.core.text import printable

LARGEST = 1024 * 1024  # bytes
PUBLISHED, MOVED, REMOVED = "model_published", "current_moved", "model_removed"
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Version:
    """A version of a model. `at` is when the event happened, in seconds since the epoch."""

    id: str
    name: str
    version: str
    folder: str
    at: float

    def __str__(self) -> str:
        return printable(f"{self.name}/{self.version}")


@dataclass(frozen=True)
class Load:
    """Serve this version from now on."""

    version: Version


@dataclass(frozen=True)
class Unload:
    """This version is gone. `last`: no other version of that name is there to be served."""

    version: Version
    last: bool


@dataclass(frozen=True)
class Nothing:
    """No engine needs to know; the reason is for people."""

    reason: str


Task = Load | Unload | Nothing


def among(task: Task, names: Sequence[str]) -> Task:
    """The task, if the model's name matches one of these globs, or if there are none."""
    if isinstance(task, Nothing) or not names or any(fnmatchcase(task.version.name, glob) for glob in names):
        return task
    return Nothing(f"{task.version}: none of --only")


def _text(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("it is empty or holds a NUL")
    return value


def _absolute(value: str) -> str:
    if not os.path.isabs(value):
        raise ValueError("it is no absolute path")
    return _text(value)


def _time(value: str) -> str:
    if datetime.fromisoformat(value).tzinfo is None:
        raise ValueError("it has no time zone")
    return value


_Label = Annotated[str, Field(max_length=4096), AfterValidator(_text)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _ModelShape(_Shape):
    id: _Label
    name: _Label
    version: _Label
    path: Annotated[_Label, AfterValidator(_absolute)] | None


class _ModelEventShape(_Shape):
    event: str
    at: Annotated[str, AfterValidator(_time)]
    model: _ModelShape


class _AnyEventShape(_Shape):
    event: Annotated[str, Field(min_length=1, max_length=100)]


_ANY_EVENT, _MODEL_EVENT = TypeAdapter(_AnyEventShape), TypeAdapter(_ModelEventShape)


def read_task(stream: IO[bytes]) -> Task:
    """Read one event. Raises `Rejected` if it is none, `LocalFault` if the mirror can't be read."""
    text = stream.read(LARGEST + 1)
    try:
        kind = parse_document(text, _ANY_EVENT, LARGEST).event
        if kind not in (PUBLISHED, MOVED, REMOVED):
            return Nothing(f"an engine has nothing to do for the event {printable(kind)}")
        event = parse_document(text, _MODEL_EVENT, LARGEST)
    except NotADocument as fault:
        raise Rejected(
            f"standard input: this is no event of a model: {fault}; name this command in [hooks] current_moved"
        ) from None
    model, at = event.model, datetime.fromisoformat(event.at).timestamp()
    if model.path is None:
        return Nothing(f"{printable(model.name)}/{printable(model.version)}: its folder is no longer there")
    version = Version(model.id, model.name, model.version, model.path, at)
    return _unload(version) if kind == REMOVED else _load(version)


def _load(version: Version) -> Task:
    if not _is_there(version.folder):
        return Nothing(f"{version}: its folder is no longer there")
    served, link = _current(version), os.path.join(os.path.dirname(version.folder), CURRENT)
    if served is None and not _is_there(link):
        return Nothing(f"{version}: it waits, there is no current yet")
    if served is not None and served != os.path.basename(version.folder):
        return Nothing(f"{version}: current leads to {printable(served)}")
    return Load(version)


def _unload(version: Version) -> Task:
    if _is_there(version.folder):
        return Nothing(f"{version}: its folder is there again")
    served = _current(version)
    return Unload(version, served is None or not _is_there(os.path.join(os.path.dirname(version.folder), served)))


def _current(version: Version) -> str | None:
    """The folder that `current` leads to; None if it is no link. Raises `LocalFault`."""
    link = os.path.join(os.path.dirname(version.folder), CURRENT)
    try:
        return os.readlink(link) if os.path.islink(link) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise local_fault(error, link) from None


def _is_there(folder: str) -> bool:
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise local_fault(error, folder) from None
    return True


@dataclass(frozen=True)
class Naming:
    """What a version is called in the engine: a text with `{name}`, `{version}` and `{id}`."""

    pattern: str

    def __post_init__(self) -> None:
        if unknown := set(_FIELD.findall(self.pattern)) - {"name", "version", "id"}:
            raise ValueError(f"{{{printable(min(unknown))}}} is none of {{name}}, {{version}}, {{id}}")
        if not self.pattern:
            raise ValueError("it is empty")

    @property
    def tells_versions(self) -> bool:
        """Whether each version has a name of its own."""
        return not {"version", "id"}.isdisjoint(_FIELD.findall(self.pattern))

    def of(self, version: Version, escape: Callable[[str], str] = str) -> str:
        """The name of a version; `escape` is applied to what is filled in."""
        return _FIELD.sub(lambda found: escape(str(getattr(version, found[1]))), self.pattern)
