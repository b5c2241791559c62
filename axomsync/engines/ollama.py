"""Ollama: a model made from the files of a published folder.

    GET    /api/version         200 when it answers
    HEAD   /api/blobs/sha256:…  200 if it has a file of this content, else 404
    POST   /api/blobs/sha256:…  the content
    POST   /api/create          {"model", "files": {name: "sha256:…"}, "stream": false} → `status` "success"
    POST   /api/show            {"model"}; 200 when the model is there
    DELETE /api/delete          {"model"}

https://docs.ollama.com/api (docs/api.md in its repository: "Create a Model", "Check if a Blob Exists", "Push a Blob").
It keeps each file as `blobs/sha256-…` below OLLAMA_MODELS. When that folder is given, a file gets there as a reflink or a
hard link and takes no second room. Like `ollama create`, this takes safetensors with their configuration, else GGUF files.

Failures handled: files that it has already, a store on another filesystem or closed to this user (the file is sent instead),
a store that Ollama does not use (likewise), a folder without a model, a file that changes (`Rejected` by its checksum).
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, TypeAdapter

from axomsync.core.errors import Rejected
from axomsync.core.filesystems import walk_all
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import UNFINISHED
from axomsync.core.text import printable
from axomsync.engines.client import Client
from axomsync.engines.events import Load, Naming, Unload

STEP = 1024 * 1024
FICLONE = 0x40049409  # ioctl_ficlone(2)
_WEIGHTS = ("model*.safetensors", "*/model*.safetensors", "consolidated*.safetensors")
_BESIDE = ("*.json", "*/*.json", "chat_template.jinja", "tokenizer.model", "*/tokenizer.model")


class _Made(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    status: str


_MADE = TypeAdapter(_Made)


def load(client: Client, task: Load, naming: Naming, store: str | None) -> str:
    """Create the model, or create it anew under its name. Reads all its files once."""
    name, folder = naming.of(task.version), task.version.folder
    if not (answer := client.ask("GET", "/api/version")).good:  # before gigabytes are read
        raise answer.refusal("does --url name Ollama?")
    files: dict[str, str] = {}
    sent = 0
    try:
        for rel in _files(folder):
            path = os.path.join(folder, rel)
            files[rel] = digest = _digest(path)
            sent += _hand_over(client, path, digest, store)
    except OSError as error:
        raise local_fault(error, error.filename or folder) from None
    answer = client.order("POST", "/api/create", {"model": name, "files": files, "stream": False})
    if not answer.good or answer.document(_MADE).status != "success":
        raise answer.refusal()
    client.until(printable(name), lambda: client.ask("POST", "/api/show", {"model": name}).good)
    return f"{printable(name)} serves {task.version}; {len(files)} files, {sent} of them copied"


def unload(client: Client, task: Unload, naming: Naming) -> str:
    """Delete the model from Ollama if no version that it could serve is left."""
    name = naming.of(task.version)
    if not (task.last or naming.tells_versions):
        return f"{printable(name)} serves another version"
    answer = client.order("DELETE", "/api/delete", {"model": name})
    if not answer.good and answer.status != 404:
        raise answer.refusal()
    return f"deleted {printable(name)}" if answer.good else f"{printable(name)} was not there"


def _files(folder: str) -> list[str]:
    """The files that make the model. Raises `Rejected` if there is none, `OSError`."""
    found = []
    for place, folders, names in walk_all(folder):
        depth = os.path.relpath(place, folder).count(os.sep) + (place != folder)
        folders[:] = [] if depth else sorted(name for name in folders if not name.startswith("."))
        found += [os.path.relpath(os.path.join(place, name), folder) for name in sorted(names) if not name.startswith(".")]
    weights = _matching(found, _WEIGHTS)
    chosen = weights + _matching(found, _BESIDE) if weights else _matching(found, ("*.gguf",))
    if odd := next((name for name in chosen if not name.isprintable()), None):
        raise Rejected(f"{printable(os.path.join(folder, odd))}: this name can't be told to Ollama; rename the file")
    if not chosen:
        raise Rejected(f"{printable(folder)}: no safetensors and no GGUF files, of which Ollama could make a model")
    return chosen


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [n for n in names if any(fnmatchcase(n, p) and n.count(os.sep) == p.count(os.sep) for p in patterns)]


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _hand_over(client: Client, path: str, digest: str, store: str | None) -> bool:
    """Make sure that Ollama has this content; True if it had to be copied."""
    if _has(client, digest):
        return False
    if store is not None and (linked := _link(path, store, digest)):
        if _has(client, digest):
            return False
        os.unlink(linked)  # Ollama keeps its files elsewhere
    with open(path, "rb") as file:
        answer = client.send(f"/api/blobs/{digest}", _pieces(file.fileno()), os.fstat(file.fileno()).st_size)
    if not answer.good:
        raise answer.refusal()
    return True


def _has(client: Client, digest: str) -> bool:
    answer = client.ask("HEAD", f"/api/blobs/{digest}")
    if not answer.good and answer.status != 404:
        raise answer.refusal()
    return answer.good


def _link(path: str, store: str, digest: str) -> str | None:
    """Put the file into Ollama's store without a copy; returns its new path, None if that can't be.

    Shared blocks come first: then a write into one file leaves the other unchanged.
    """
    target = os.path.join(store, "blobs", digest.replace(":", "-"))
    if _reflink(path, target):
        return target
    with suppress(OSError):
        os.link(path, target, follow_symlinks=False)
        return target
    return None


def _reflink(path: str, target: str) -> bool:
    """Share the file's blocks. What a killed process left has the same name, and is replaced."""
    unfinished = os.path.join(os.path.dirname(target), f"{os.fsdecode(UNFINISHED)}{os.path.basename(target)}")
    with suppress(OSError):
        os.unlink(unfinished)
    try:
        with open(path, "rb") as original, open(unfinished, "xb") as copy:
            fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
            os.fchmod(copy.fileno(), 0o644)
        os.rename(unfinished, target)
    except OSError:
        with suppress(OSError):
            os.unlink(unfinished)
        return False
    return True


def _pieces(file: int) -> Iterator[bytes]:
    while piece := os.read(file, STEP):
        yield piece
