"""Do the bytes of a model make sense? A safetensors header must describe exactly the file, an index must name files that are
there, a GGUF file must begin like one.

Failures handled: a file whose structure is broken (`Rejected`: fetching it again would bring the same bytes).
"""

import json
import math
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from axomsync.errors import Rejected, local_fault, printable

LARGEST_HEADER = 100 * 1000 * 1000  # bytes; the limit of the safetensors format
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def check(folder: Path, rels: Iterable[str], listed: set[str], beat: Callable[[], None]) -> set[str]:
    """Check the formats that are known and return the files whose structure was found whole. Raises `Rejected`.

    `rels` are the files that were fetched, `listed` all that the model has.
    """
    whole, fetched = set(), set(rels)
    for rel in sorted(fetched):
        beat()
        try:
            if _check_file(folder / rel, rel, listed, fetched):
                whole.add(rel)
        except OSError as error:
            raise local_fault(error, str(folder / rel)) from None
    return whole


def _check_file(path: Path, rel: str, listed: set[str], fetched: set[str]) -> bool:
    """Whether the file has a format that is known; raises `Rejected` when it is broken."""
    if rel.endswith(".safetensors"):
        _check_safetensors(path, rel)
    elif rel.endswith(".safetensors.index.json"):
        _check_index(path, rel, listed, fetched)
    elif rel.endswith(".gguf"):
        _check_gguf(path, rel)
    else:
        return False
    return True


def _check_safetensors(path: Path, rel: str) -> None:
    size = path.stat().st_size
    length, text = _header_text(path, rel)
    try:
        header = json.loads(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        extents = sorted(tuple(entry["data_offsets"]) for entry in tensors.values())
        lying = [name for name, entry in tensors.items() if not _fits_its_extent(entry)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _broken(rel, "its header is not the JSON that safetensors prescribes") from None
    if lying:
        raise _broken(rel, f"the shape of its tensor {printable(lying[0])!r} does not fit the bytes that it claims")
    position = 0
    for extent in extents:
        if len(extent) != 2 or extent[0] != position or not isinstance(extent[1], int) or extent[1] < position:
            raise _broken(rel, f"its tensors overlap or leave a hole at byte {position} of the data")
        position = extent[1]
    if 8 + length + position != size:
        raise _broken(rel, f"its header describes {8 + length + position} bytes, the file has {size}")


def _fits_its_extent(entry: dict[str, Any]) -> bool:
    begin, end = entry["data_offsets"]
    element = ELEMENT_BYTES.get(entry["dtype"])  # of a type that is newer than this table nothing is asked
    return element is None or end - begin == element * math.prod(entry["shape"])


def _header_text(path: Path, rel: str) -> tuple[int, bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= min(size - 8, LARGEST_HEADER):
            raise _broken(rel, "its header length does not fit the file")
        return length, file.read(length)


def _check_index(path: Path, rel: str, listed: set[str], fetched: set[str]) -> None:
    """Every shard must be there, and hold the tensors that the index looks for in it."""
    folder = os.path.dirname(rel)
    tensors: dict[str, set[str]] = defaultdict(set)
    try:
        for tensor, shard in json.loads(path.read_bytes())["weight_map"].items():
            tensors[os.path.join(folder, shard)].add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _broken(rel, "it is not the JSON that an index must be") from None
    if missing := sorted(tensors.keys() - listed):
        named = os.path.relpath(missing[0], folder or ".")
        raise _broken(rel, f"it names {named!r}, which is not among the model's files")
    root = path.parents[rel.count("/")]
    for shard in sorted(tensors.keys() & fetched):
        if shard.endswith(".safetensors") and (lacking := sorted(tensors[shard] - _tensors_in(root / shard, shard))):
            raise _broken(rel, f"it looks for {printable(lacking[0])!r} in {printable(shard)!r}, which does not have it")


def _tensors_in(path: Path, rel: str) -> set[str]:
    try:
        return set(json.loads(_header_text(path, rel)[1]))
    except (ValueError, TypeError, RecursionError):
        raise _broken(rel, "its header is not the JSON that safetensors prescribes") from None


def _check_gguf(path: Path, rel: str) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise _broken(rel, "it does not begin like a GGUF file")


def _broken(rel: str, what: str) -> Rejected:
    return Rejected(f"{printable(rel)} is broken at its source: {what}; publish the model again in the console")
