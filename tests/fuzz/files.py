"""Files: datasets as they are dropped, compressed ones, weights and their indexes, what a gate looks into, config.toml."""

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import orjson

from axomsync.config.load import parse
from axomsync.core.errors import BadConfig
from axomsync.core.records import Checked
from axomsync.drop import jsonl
from axomsync.drop.foreign import kind_of
from axomsync.drop.names import Packing
from axomsync.drop.shapes import Shapes
from axomsync.drop.unpacking import BrokenArchive, Unpacked, zstd
from axomsync.gates.no_pickle import findings
from axomsync.gates.pickles import pickle_in
from axomsync.mirror.check import structure

MOST_UNPACKED = 4 << 20  # bytes; more is not read here, as a small input can hold any number
EXAMPLE = Path(__file__).parents[2] / "config.example.toml"

_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
_place = tempfile.TemporaryDirectory(dir=_memory)
_folder = Path(_place.name)
_dataset = os.memfd_create("dataset")


def _checked(data: bytes, large_line: int) -> Checked | None:
    shapes = Shapes(None)
    with suppress(jsonl.InvalidDataset):
        return jsonl.check(_dataset, len(data), "full", lambda: None, shapes=shapes, read_size=64, large_line=large_line)
    return None


def _jsonl(data: bytes) -> None:
    """Lines that are held and lines that are read piece by piece get the same verdict."""
    os.ftruncate(_dataset, 0)
    os.pwrite(_dataset, data, 0)
    held, pieces = _checked(data, jsonl.LARGE_LINE), _checked(data, 8)
    assert (held is None) == (pieces is None)
    assert held is None or pieces is None or (held.sha256, held.lines) == (pieces.sha256, pieces.lines)
    kind_of(data[: jsonl.HEAD])


def _unpacking(packing: Packing) -> Callable[[bytes], None]:
    def takes(data: bytes) -> None:
        unpacked = Unpacked(io.BytesIO(data).read, packing, "a.jsonl.gz")
        while unpacked.given < MOST_UNPACKED and unpacked.read():
            pass
        assert unpacked.bytes <= len(data)

    return takes


def _structure(*names: str) -> Callable[[bytes], None]:
    """An input is the content of the first file; the others are right ones beside it."""

    def takes(data: bytes) -> None:
        (_folder / names[0]).write_bytes(data)
        found = structure.check(_folder, names, set(names), lambda: None)
        assert found.whole <= set(names)
        assert all(len(remark) <= structure.LONGEST_REMARK for remark in found.remarks)

    return takes


def _no_pickle(data: bytes) -> None:
    pickle_in(io.BytesIO(data))
    file = _folder / "looked-at"
    file.write_bytes(data)
    assert all(str(finding).isprintable() for finding in findings(file))


def _config(data: bytes) -> None:
    parse(data.decode("utf-8", "replace"), Path("/etc/axomsync/config.toml"), {})


_LINES = (
    b'{"text": "a"}\n{"text": "\xc3\xa4"}\n{"text": "a"}\n',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 2,
    b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "chosen": [], "rejected": null, "n": [1.5e3, {"": -0}]}',
    b'{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": "{}"}}]}]}\r\n\n',
)
_TENSORS = {
    "__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [16, 18]},
}  # fmt: skip


def _safetensors(header: bytes, data: bytes = bytes(18)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _headed(data: bytes) -> None:
    """An input is the header; its length before it and as many bytes of data as it had are right."""
    _structure("b.safetensors")(_safetensors(data))


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


_WHOLE = _safetensors(orjson.dumps(_TENSORS))
(_folder / "a.safetensors").write_bytes(_WHOLE)
_INDEX = orjson.dumps({"metadata": {"total_size": 18}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}})
_PICKLES = (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", b"cos\nsystem\n(S'ls'\ntR.", b"(lp0\nI1\na.")
_NPY = b"\x93NUMPY\x01\x00F\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }".ljust(79) + b"\n" + bytes(8)
ZIP = (
    b"PK\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00!\x00\x83\x16\xdc\x8c\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00ab"
    b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00\x00\x00!\x00\x83\x16\xdc\x8c\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00"
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00aPK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00/\x00"
    b"\x00\x00 \x00\x00\x00\x00\x00"
)

PARSERS = {
    "datasets": (_jsonl, _LINES),
    "gzip": (_unpacking(Packing.GZIP), (_gzip(_LINES[0]), _gzip(_LINES[1]) + _gzip(b"{}") + bytes(3)), (BrokenArchive,)),
    "zstd": (_unpacking(Packing.ZSTD), (zstd.compress(_LINES[0]), zstd.compress(b"") * 2), (BrokenArchive,)),
    "safetensors": (_structure("b.safetensors"), (_WHOLE, b"version https://git-lfs.github.com/spec/v1\n")),
    "headers of safetensors": (_headed, (orjson.dumps(_TENSORS),)),
    "indexes of safetensors": (
        _structure("model.safetensors.index.json", "a.safetensors"),
        (_INDEX,),
    ),
    "no-pickle": (_no_pickle, (*_PICKLES, _NPY, ZIP, _gzip(_PICKLES[0]), _WHOLE)),
    "config.toml": (_config, (EXAMPLE.read_bytes()[:3000], b'[mirror]\nkeep = 1\nviews = ["flat:/srv/v"]\n'), (BadConfig,)),
}
