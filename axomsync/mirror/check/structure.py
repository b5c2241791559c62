"""Structure of model files: a safetensors header must describe exactly its file, an index must name existing files, a GGUF
file must begin with its magic bytes, and no file may be a Git LFS pointer.

Failures handled: a file with a broken structure (`Broken`: a second download would bring the same bytes), an index that does
not fit the files but keeps no server from loading them (a remark). `[mirror] verify = "size"` skips all of it.
"""

import math
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axomsync.core.documents import LARGEST, NotADocument, decode
from axomsync.core.errors import Rejected
from axomsync.core.oserrors import local_fault
from axomsync.core.text import printable

LARGEST_HEADER = 100 * 1000 * 1000  # bytes; the limit of the safetensors format
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
MOST_DIMENSIONS = 32
MOST_REMARKS, LONGEST_REMARK = 10, 500  # characters

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024  # bytes; what is larger, Git LFS takes for no pointer
_INDEX = ".safetensors.index.json"


class Broken(Rejected):
    """A file that no server could load; `rel` is its path in the model."""

    def __init__(self, rel: str, what: str, remedy: str = "publish the model again in the console") -> None:
        super().__init__(f"{printable(rel)} is broken at its source: {what}; {remedy}")
        self.rel = rel


@dataclass(frozen=True)
class Findings:
    """The result of the check: the files found whole, and remarks that keep no server from loading the model."""

    whole: frozenset[str]
    remarks: tuple[str, ...]


def check(folder: Path, rels: Iterable[str], listed: set[str], beat: Callable[[], None]) -> Findings:
    """Check the known formats. Raises `Broken`, `LocalFault`.

    `rels` are the fetched files, `listed` all files of the model. Dotfiles are not checked beyond Git LFS pointers.
    """
    whole, remarks, fetched = set(), list[str](), set(rels)
    for rel in sorted(fetched):
        beat()
        if "\\" in rel:
            remarks.append(f"{printable(rel)} has a backslash in its name, which does not separate folders here")
        try:
            if _check_file(folder / rel, rel, listed, fetched, remarks):
                whole.add(rel)
        except OSError as error:
            raise local_fault(error, str(folder / rel)) from None
    more = [f"and {len(remarks) - MOST_REMARKS} more"] if len(remarks) > MOST_REMARKS else []
    return Findings(frozenset(whole), (*(text[:LONGEST_REMARK] for text in remarks[:MOST_REMARKS]), *more))


def _check_file(path: Path, rel: str, listed: set[str], fetched: set[str], remarks: list[str]) -> bool:
    """Check one file; False for an unknown format. Raises `Broken`."""
    if path.stat().st_size <= _LARGEST_POINTER and _beginning(path, len(_LFS_POINTER)) == _LFS_POINTER:
        remedy = "run `git lfs pull` at the model's source, and publish it again in the console"
        raise Broken(rel, "it is a Git LFS pointer, not the file itself", remedy)
    if os.path.basename(rel).startswith("."):
        return False
    if rel.endswith(".safetensors"):
        _check_safetensors(path, rel)
    elif rel.endswith(_INDEX):
        return _check_index(path, rel, listed, fetched, remarks)
    elif rel.endswith(".gguf"):
        _check_gguf(path, rel)
    else:
        return False
    return True


def _beginning(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _check_safetensors(path: Path, rel: str) -> None:
    size = path.stat().st_size
    length, text = _header_text(path, rel)
    try:
        header: Any = decode(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        extents = sorted(tuple(entry["data_offsets"]) for entry in tensors.values())
        lying = [name for name, entry in tensors.items() if not _fits_its_extent(entry)]
    except (NotADocument, ValueError, KeyError, TypeError, AttributeError):
        raise Broken(rel, "its header is not valid safetensors JSON") from None
    if lying:
        raise Broken(rel, f"the shape of its tensor {printable(lying[0])!r} does not match its number of bytes")
    position = 0
    for extent in extents:
        if len(extent) != 2 or extent[0] != position or not isinstance(extent[1], int) or extent[1] < position:
            raise Broken(rel, f"its tensors overlap or leave a hole at byte {position} of the data")
        position = extent[1]
    if 8 + length + position != size:
        raise Broken(rel, f"its header describes {8 + length + position} bytes, the file has {size}")


def _fits_its_extent(entry: dict[str, Any]) -> bool:
    begin, end = entry["data_offsets"]
    element = ELEMENT_BYTES.get(entry["dtype"])  # unknown (newer) types are not checked
    shape = entry["shape"]
    return element is None or (len(shape) <= MOST_DIMENSIONS and end - begin == element * math.prod(shape))


def _header_text(path: Path, rel: str) -> tuple[int, bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= min(size - 8, LARGEST_HEADER):
            raise Broken(rel, "its header has an invalid length")
        return length, file.read(length)


def _check_index(path: Path, rel: str, listed: set[str], fetched: set[str], remarks: list[str]) -> bool:
    """Check an index; False after a remark. Every shard must exist, unless a file with the whole model lies beside it."""
    try:
        tensors = _tensors_by_shard(path, rel)
        if missing := sorted(tensors.keys() - listed):
            named = os.path.relpath(missing[0], os.path.dirname(rel) or ".")
            raise Broken(rel, f"it names {printable(named)!r}, which is not among the model's files")
    except Broken as fault:
        if rel.removesuffix(".index.json") not in listed:
            raise
        remarks.append(f"{fault}; it is ignored, since the whole model lies beside it")
        return False
    root = path.parents[rel.count("/")]
    for shard in sorted(tensors.keys() & fetched):
        if shard.endswith(".safetensors") and (lacking := sorted(tensors[shard] - _tensors_in(root / shard, shard))):
            remarks.append(
                f"{printable(rel)} expects {printable(lacking[0])!r} in {printable(shard)!r}, which does not hold it"
            )
            return False
    return True


def _tensors_by_shard(path: Path, rel: str) -> dict[str, set[str]]:
    tensors: dict[str, set[str]] = defaultdict(set)
    try:
        with path.open("rb") as file:
            index: Any = decode(file.read(LARGEST))
        for tensor, shard in index["weight_map"].items():
            if not shard:
                raise KeyError(tensor)
            tensors[os.path.join(os.path.dirname(rel), shard)].add(tensor)
    except (NotADocument, KeyError, TypeError, AttributeError):
        raise Broken(rel, "it is not a JSON index with a weight_map of file names") from None
    return tensors


def _tensors_in(path: Path, rel: str) -> set[str]:
    try:
        header: Any = decode(_header_text(path, rel)[1])
        return set(header)
    except (NotADocument, TypeError):
        raise Broken(rel, "its header is not valid safetensors JSON") from None


def _check_gguf(path: Path, rel: str) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise Broken(rel, "it does not begin like a GGUF file")
