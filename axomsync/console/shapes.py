"""The documented forms of the console's answers, and their parsing. Pure.

Failures handled: entries that do not fit their form (named, so that the others can be used), lists that are wrapped in an
object, texts that would forge a line of the log, numbers that the ledger can't hold, empty objects that stand for folders.

The source of facts is the vendor's page "Models & datasets".
"""

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from axomsync.core.errors import Rejected, Transient
from axomsync.core.text import printable
from axomsync.storage.s3 import plain_md5

MOST_FILES = 100_000  # of one model
DIGEST_BYTES = {"md5": 16, "sha256": 32, "blake3": 32}
NAMED_MOST = 5  # entries that were left out, in one line
LARGEST_NUMBER = (1 << 63) - 1  # largest integer of the ledger

R = TypeVar("R")


def _none_unless_valid(value: object, valid: ValidatorFunctionWrapHandler) -> object:
    """Replace an invalid value by None: a field that is only shown must not cost a model its place in the list."""
    try:
        return valid(value)
    except ValidationError:
        return None


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _on_one_line(text: str) -> str:
    """Escape the control characters of a text that is only shown, so that no line of a log or a table is forged."""
    return _CONTROL.sub(lambda match: printable(match[0]), text)


def _plain(text: str) -> str:
    """Refuse control characters in a text that must stay as it is, such as a key in storage."""
    if _CONTROL.search(text):
        raise ValueError("it holds a control character")
    return text


_Text = Annotated[
    str | None, Field(max_length=1000), AfterValidator(lambda t: t and _on_one_line(t)), WrapValidator(_none_unless_valid)
]
_Id = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]
_Label = Annotated[str, StringConstraints(min_length=1, max_length=1000)]  # unchanged; output escapes it
_Key = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_plain)]
_Url = Annotated[str, StringConstraints(min_length=1, max_length=16 * 1024), AfterValidator(_plain)]
_Number = Annotated[int | None, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER), WrapValidator(_none_unless_valid)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


class BaseModelShape(_Lenient):
    id: _Id
    family: _Text = None
    name: _Text = None
    version: _Text = None
    params: _Number = None
    precision: _Text = None


class ModelShape(_Lenient):
    id: _Id
    name: _Label
    version: _Label
    params: _Number = None
    base_model_id: _Text = None
    status: Annotated[str, StringConstraints(max_length=200), AfterValidator(_on_one_line)]
    created_at: _Text = None


class DatasetShape(_Lenient):
    id: _Id
    name: _Text = None
    version: _Text = None
    shard_count: _Number = None
    bytes: _Number = None
    status: _Text = None
    created_at: _Text = None


class FileShape(_Lenient):
    rel: str = Field(max_length=16 * 1024)
    size: int = Field(ge=0, le=LARGEST_NUMBER)
    url: _Url
    # Not documented today. A readable checksum is checked; an unreadable one changes nothing.
    md5: _Text = None
    sha256: _Text = None
    blake3: _Text = None
    checksum: _Text = None
    etag: _Text = None

    def checksums(self) -> tuple[tuple[str, str], ...]:
        """The readable checksums as hex, by algorithm."""
        named = {name: getattr(self, name) for name in DIGEST_BYTES}
        algorithm, colon, value = (self.checksum or "").partition(":")
        if colon and algorithm.lower() in named:
            named[algorithm.lower()] = named[algorithm.lower()] or value
        named["md5"] = named["md5"] or plain_md5(self.etag)
        return tuple((name, digest) for name, text in named.items() if (digest := _hex_digest(text, DIGEST_BYTES[name])))


class ManifestShape(_Lenient):
    model_id: str
    files: Annotated[list[FileShape], Field(max_length=MOST_FILES), FailFast()]


class PresignedShape(_Lenient):
    upload_id: _Id
    key: _Key
    url: _Url
    method: str = Field("PUT", max_length=20)


def without_folders(files: list[FileShape]) -> Iterator[FileShape]:
    """Leave out the empty objects for folders that copying tools make: `name/`, or on Azure `name` beside `name/file`."""
    # With the smallest character between its parts, a sorted folder is directly followed by its files.
    in_order = sorted(files, key=lambda file: file.rel.replace("/", "\0"))
    folders = {above.rel for above, below in pairwise(in_order) if below.rel.startswith(f"{above.rel}/")}
    return (file for file in files if file.size or not (file.rel.endswith("/") or file.rel in folders))


def _hex_digest(text: str | None, length: int) -> str | None:
    """Parse a digest of `length` bytes, in hex or base64; None for other text."""
    if text is None:
        return None
    with suppress(ValueError):
        decoded = bytes.fromhex(text) if len(text) == 2 * length else base64.b64decode(text, validate=True)
        return decoded.hex() if len(decoded) == length else None
    return None


def entries_of(page: object, path: str) -> list[object]:
    """Find the list in an answer; it may be wrapped in an object under any name."""
    if isinstance(page, list):
        return page
    lists = {name: value for name, value in page.items() if isinstance(value, list)} if isinstance(page, dict) else {}
    for name in (path.strip("/").replace("-", "_"), "data", "items", "results"):
        if name in lists:
            return lists[name]
    if len(lists) != 1:
        raise Transient(f"{path}: the console answered with something that is no list")
    return next(iter(lists.values()))


def what_it_lacks(entry: object, failure: ValidationError) -> str:
    """Name the unusable entry of a list, and its fault."""
    if not isinstance(entry, dict):
        return "one that is no object"
    named = [entry[field] for field in ("name", "version", "id") if isinstance(entry.get(field), str) and entry[field]]
    first = failure.errors(include_input=False, include_url=False, include_context=False)[0]
    field = str(first["loc"][0])
    fault = f"no {field}" if entry.get(field) in (None, "") else f"{field}: {first['msg']}"
    return f"{' '.join(printable(text)[:100] for text in named) or 'one without a name'} ({fault})"


def left_out_words(left_out: list[str]) -> str | None:
    if not left_out:
        return None
    more = f" and {len(left_out) - NAMED_MOST} more" if len(left_out) > NAMED_MOST else ""
    return (
        f"{len(left_out)} entries lack the documented fields and are left out: {', '.join(left_out[:NAMED_MOST])}{more}; "
        "tell whoever runs the console"
    )


def fit(shape: type[R], answer: object, what: str) -> R:
    try:
        return TypeAdapter(shape).validate_python(answer)
    except ValidationError as failure:
        first = failure.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise Rejected(
            f"{what} lacks its documented form: {printable(place)[:100]}: {first['msg']}; tell whoever runs the console"
        ) from None
