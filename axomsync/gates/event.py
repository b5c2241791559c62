"""The event that a gate gets on standard input: what is to be looked at.

Failures handled: an event that is too large, no JSON, of another form, or about nothing that a gate can look at
(`Transient`: a gate that is wired wrongly has not judged anybody's files).
"""

import os
from pathlib import Path
from typing import IO, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from axomsync.core.documents import NotADocument, parse_document
from axomsync.core.errors import Transient

LARGEST = 1024 * 1024  # bytes


def _absolute(value: str) -> str:
    if not os.path.isabs(value) or "\0" in value:
        raise ValueError("it is no absolute path")
    return value


_Path = Annotated[str, Field(max_length=4096), AfterValidator(_absolute)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _ModelShape(_Shape):
    path: _Path


class _EventShape(_Shape):
    file: _Path | None = None
    model: _ModelShape | None = None


_EVENT = TypeAdapter(_EventShape)


def read_place(stream: IO[bytes]) -> Path:
    """Read one event; returns the folder of the model, or the file. Raises `Transient`."""
    try:
        event = parse_document(stream.read(LARGEST + 1), _EVENT, LARGEST)
    except NotADocument as fault:
        raise Transient(
            f"standard input: this is no event of a gate: {fault}; name this in [hooks] before_publish or before_upload"
        ) from None
    place = event.model.path if event.model is not None else event.file
    if place is None:
        raise Transient("standard input: this event names no folder and no file; it is not one of a gate")
    return Path(place)
