"""Names on disk, pure: the folder of a model, and the check of paths in a manifest.

Labels and paths come from the console and may be hostile. A label becomes one path component by reversible escapes; a file
path that would leave its model's folder, or clash with another, rejects the whole model (`Rejected`).
"""

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from urllib.parse import unquote

from axomsync.core.errors import Rejected
from axomsync.core.paths import CURRENT, INTERNAL, LOST_FOUND
from axomsync.core.policy import made_at
from axomsync.core.records import ManifestFile, Model, RemoteModel
from axomsync.core.text import printable

Age = tuple[float, str]

LONGEST_COMPONENT = 255  # bytes, the limit of every common Linux filesystem
LONGEST_LABEL = 240  # leaves room for "--" and 8 characters of the id
MOST_FOLDERS = 100  # nested folders of a path
LONGEST_PATH = 3000  # bytes, leaves room below PATH_MAX for the mirror's own folder
LARGEST_MODEL = 1 << 62  # bytes; more fits neither a filesystem nor the ledger


def escape(label: str) -> str:
    """Turn a label into one safe path component; `unescape` reverses it. Harmless labels stay as they are."""
    text = "".join(c if c.isprintable() and c not in "/\\%" else _percent(c) for c in label)
    if text.startswith(".") or text in (CURRENT, LOST_FOUND):
        text = _percent(text[0]) + text[1:]
    return text


def unescape(component: str) -> str:
    """The label from which `escape` made `component`."""
    return unquote(component, errors="surrogatepass")


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def folder_names(model: RemoteModel, *, clash: bool) -> tuple[str, str]:
    """The two path components of a model; `clash`: another id already has `name/version`.

    Raises `Rejected` when a label is too long for a file name.
    """
    name, version = escape(model.name), escape(model.version)
    for label in (name, version):
        if not label or len(label.encode()) > LONGEST_LABEL:
            raise Rejected(f"its label {printable(label)[:40]!r} can't be a folder name (1 to {LONGEST_LABEL} bytes)")
    return name, f"{version}--{escape(model.id)[:8]}" if clash else version


def staging_name(model_id: str) -> str:
    """The path component for what is collected of a model. Every id has one; a long one is known by its digest."""
    name = escape(model_id)
    if len(name.encode()) <= LONGEST_LABEL:
        return name
    return f"%-{hashlib.sha256(model_id.encode('utf-8', 'surrogatepass')).hexdigest()}"  # no escape is like that


def is_called(path: str, model: RemoteModel | Model) -> bool:
    """Check that the folder at `path` has the name that the model's labels give."""
    version, name, *_ = [*reversed(path.split("/")), ""]
    called, plain = escape(model.name), escape(model.version)
    return name == called and version in (plain, f"{plain}--{escape(model.id)[:8]}")


def labels_at(path: str, model_id: str) -> tuple[str, str]:
    """Name and version of a model at the time when its folder was at `path`; it may have others by now."""
    version, name, *_ = reversed(path.split("/"))
    return unescape(name), unescape(version.removesuffix(f"--{escape(model_id)[:8]}"))


def check_manifest(files: Sequence[ManifestFile]) -> None:
    """Check that every `rel` is safe and no two clash. Raises `Rejected` with the path and the fault."""
    if not files:
        raise Rejected("its manifest lists no files; publish the model again in the console")
    if sum(file.size for file in files) > LARGEST_MODEL:
        raise Rejected(
            "its manifest can't be trusted: it claims more bytes than any disk holds; publish the model again in the console"
        )
    try:
        check_paths(file.rel for file in files)
    except ValueError as fault:
        raise Rejected(f"its manifest can't be trusted: {fault}; publish the model again in the console") from None


def check_paths(rels: Iterable[str]) -> None:
    """Check that every path is safe and no two clash. Raises `ValueError` with the path and the fault."""
    seen: dict[str, str] = {}
    for rel in rels:
        if fault := _path_fault(rel):
            raise ValueError(f"{_quoted(rel)} {fault}")
        # NUL sorts first: so a folder is followed by its content when the paths are sorted.
        folded = rel.casefold().replace("/", "\0")
        if folded in seen:
            other = "is listed twice" if seen[folded] == rel else f"differs from {_quoted(seen[folded])} only in case"
            raise ValueError(f"{_quoted(rel)} {other}")
        seen[folded] = rel
    ordered = sorted(seen)
    for above, below in pairwise(ordered):
        if below.startswith(f"{above}\0"):
            raise ValueError(f"{_quoted(seen[below])} lies under the path of the file {_quoted(seen[above])}")


_CONTROL = re.compile(r"[\x01-\x1f\x7f-\x9f\u2028\u2029]")


def _path_fault(rel: str) -> str | None:
    if "\0" in rel:
        return "holds a NUL byte"
    if _CONTROL.search(rel):
        return "holds a control character"
    if rel.startswith("/"):
        return "is an absolute path"
    parts = rel.split("/")
    if ".." in parts:
        return "would leave the model's folder"
    if "" in parts or "." in parts:
        return "is not a plain relative path"
    if parts[0].casefold().startswith(INTERNAL):
        return f"has a name that is reserved for axomsync ({INTERNAL}…)"
    try:
        too_long = len(rel.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_COMPONENT for part in parts)
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if len(parts) > MOST_FOLDERS:
        return f"lies more than {MOST_FOLDERS} folders deep"
    return "is too long for a file name" if too_long else None


def _quoted(rel: str) -> str:
    return repr(printable(rel)[:200])


def age(created_at: str | None, model_id: str) -> Age:
    """Sort key: the time of creation, then the id. The ledger's lists have the same order."""
    return made_at(created_at), model_id


def is_named(model: RemoteModel | Model, target: str) -> bool:
    """Check whether `target` is the model's name, name/version or id, as it is or as the program prints it."""
    names = (model.id, model.name, f"{model.name}/{model.version}")
    return target in names or target in map(printable, names)


def selected(model: RemoteModel, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Check whether the globs select this model; they match name, name/version and id."""
    names = (model.name, f"{model.name}/{model.version}", model.id)
    return matches(names, include) and not matches(names, exclude)


def matches(names: Sequence[str], globs: Sequence[str]) -> bool:
    """Check whether any name fits any glob; `*` also matches slashes."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs for name in names)
