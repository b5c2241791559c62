"""The gate `no-pickle`: pickles are found by content, wherever they are, and nothing else is."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync.gates.no_pickle import findings
from axomsync.gates.pickles import pickle_in

MARK = "/tmp/axomsync-a-pickle-ran"


class Evil:
    """Runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.system, (f"touch {MARK}",)


def evil(protocol: int = 2) -> bytes:
    return pickle.dumps(Evil(), protocol)


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def npy(descr: str, data: bytes = b"", version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (3,), }}".encode().ljust(117) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\x80\x02" * 4


TORCH = {"archive/data.pkl": evil(), "archive/version": b"3\n", "archive/data/0": b"\0" * 64}
LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + evil()

BAD: dict[str, tuple[str, bytes]] = {
    **{f"protocol {number}": ("x.bin", evil(number)) for number in range(6)},
    "plain data": ("x.bin", pickle.dumps({"a": [1.5, "b"]}, 4)),
    "plain data of protocol 0": ("x.bin", pickle.dumps({"a": [1.5, "b"]}, 0)),
    "with a broken end": ("x.bin", evil(4)[:-1] + b"\x00\x00"),
    "protocol 0 with a broken end": ("x.bin", evil(0)[:-1] + b"\x00"),
    "behind much that does nothing": ("x.bin", b"N0" * 5000 + evil(0)),
    "behind a long text": ("x.bin", b"V" + b"a" * 3_000_000 + b"\n0" + evil(0)),
    "a name that is not ASCII": ("x.bin", "cmodul\u00e9\nf\n(tR.".encode()),
    "named as text": ("README.md", evil()),
    "named as safetensors": ("model.safetensors", evil()),
    "a torch file": ("pytorch_model.bin", zipped(TORCH)),
    "a packed torch file": ("model.pt", zipped(TORCH, zipfile.ZIP_DEFLATED)),
    "an old torch file": ("model.pth", LEGACY_TORCH),
    "a very old torch file": ("model.pth", tarred({"sys_info": b"x", "pickle": evil()})),
    "a NeMo file": ("model.nemo", tarred({"config.yaml": b"a: 1\n", "weights.ckpt": zipped(TORCH)})),
    "a packed NeMo file": ("model.nemo", gzip.compress(tarred({"weights.ckpt": zipped(TORCH)}))),
    "a zip behind something else": ("x.bin", b"#!/bin/sh\n" + zipped(TORCH)),
    "a zip in a zip": ("x.zip", zipped({"inner.zip": zipped(TORCH, zipfile.ZIP_DEFLATED)}, zipfile.ZIP_DEFLATED)),
    "gzip": ("x.pkl.gz", gzip.compress(evil())),
    "bzip2": ("x.bin", bz2.compress(evil())),
    "xz": ("x.bin", lzma.compress(evil())),
    "lzma": ("x.bin", lzma.compress(evil(), lzma.FORMAT_ALONE)),
    "zlib, as joblib has it": ("x.joblib", zlib.compress(evil(3))),
    "a NumPy array of objects": ("x.npy", npy("'|O'", evil())),
    "a newer NumPy array of objects": ("x.npy", npy("'O'", evil(), 2)),
    "objects in a field": ("x.npy", npy("[('a', '<f4'), ('b', [('c', '|O')])]", evil())),
    "objects by another word": ("x.npy", npy("'object'", evil())),
    "an archive of NumPy arrays": ("x.npz", zipped({"a.npy": npy("'<f4'"), "b.npy": npy("'|O'", evil())})),
    "a NumPy header that is none": ("x.npy", b"\x93NUMPY\x01\x00\x05\x00{{{{\n"),
    "a broken zip": ("x.pt", zipped(TORCH)[:200]),
    "a broken gzip": ("x.bin", gzip.compress(evil())[:12]),
    "LZ4": ("x.joblib", b"\x04\x22\x4d\x18" + b"\0" * 20),
    "unknown, but named as one": ("x.pkl", b"\xff\xfe\xfd\xfc" * 10),
}  # fmt: skip
GOOD: dict[str, tuple[str, bytes]] = {
    "nothing": ("empty.bin", b""),
    "safetensors": ("model.safetensors", safetensors()),
    "safetensors whose length looks like a pickle": ("m.safetensors", struct.pack("<Q", 0x280) + b"{" + b" " * 638 + b"}"),
    "safetensors in a file for torch": ("model.pt", safetensors()),
    "GGUF": ("model.gguf", b"GGUF\x03\0\0\0" + b"\x80\x02cos\nsystem\n" * 10),
    "JSON": ("config.json", b'{"a": "cos\\nsystem"}'),
    "text": ("README.md", b"can\nbe\nread\n"),
    "a list of modules": ("requirements.txt", b"click\nnumpy\ntorch\n"),
    "code": ("code.py", b"import os\nos.system('x')\n"),
    "a text of one word": ("merges.txt", b"N.\n"),
    "zeros": ("x.bin", bytes(5000)),
    "text of zeros": ("x.txt", b"0" * 5000),
    "a vocabulary": ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02" * 50),
    "NumPy numbers": ("x.npy", npy("'<f4'", b"\x80\x02" * 6)),
    "NumPy fields": ("x.npy", npy("[('a', '<f4'), ('b', '<U5', (2,))]")),
    "an archive of NumPy arrays": ("x.npz", zipped({"a.npy": npy("'<f4'"), "b.npy": npy("'|b1'")})),
    "a zip of texts": ("x.zip", zipped({"a.txt": b"hello", "b/": b""}, zipfile.ZIP_DEFLATED)),
    "a tar of texts": ("x.tar.gz", gzip.compress(tarred({"a.txt": b"hello"}))),
    "gzip": ("x.gz", gzip.compress(b"hello " * 100)),
    "text that begins like zlib": ("x.txt", b"x\x9c is no zlib stream"),
}  # fmt: skip


@pytest.mark.parametrize("sample", BAD)
def test_a_pickle_is_found(tmp_path: Path, sample: str) -> None:
    name, content = BAD[sample]
    (tmp_path / name).write_bytes(content)
    [found] = findings(tmp_path)
    assert found.file == name
    assert [str(each) for each in findings(tmp_path / name)] == [str(found)]
    assert not Path(MARK).exists()


@pytest.mark.parametrize("sample", GOOD)
def test_what_is_no_pickle_passes(tmp_path: Path, sample: str) -> None:
    name, content = GOOD[sample]
    (tmp_path / name).write_bytes(content)
    assert [str(each) for each in findings(tmp_path)] == []


def test_a_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/etc")
    assert [str(each) for each in findings(tmp_path)] == ["x: is a link or a device, and no file"]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(_VALUES, st.integers(2, 5))
def test_every_pickle_with_a_mark_is_one(value: Any, protocol: int) -> None:
    assert pickle_in(io.BytesIO(pickle.dumps(value, protocol))) == f"protocol {protocol}"


@given(_VALUES, st.integers(0, 1))
def test_nothing_before_a_call_hides_it(value: Any, protocol: int) -> None:
    before = pickle.dumps(value, protocol)[:-1]
    assert pickle_in(io.BytesIO(before + b"0" + evil(protocol))) is not None


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(content: bytes) -> None:
    pickle_in(io.BytesIO(content))


def gate(*arguments: str, event: Any, environ: dict[str, str] | None = None) -> tuple[int, str]:
    command = [sys.executable, "-m", "axomsync", "gate", *arguments]
    text = event if isinstance(event, bytes) else json.dumps(event).encode()
    done = subprocess.run(command, input=text, capture_output=True, timeout=60, env=environ)
    return done.returncode, (done.stdout + done.stderr).decode().strip().splitlines()[-1]


def test_the_command_judges_the_event_on_its_input(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(zipped(TORCH))
    (tmp_path / "x.pkl").write_bytes(evil())
    event = {"event": "before_publish", "at": "", "model": {"path": str(tmp_path), "name": "bot"}}
    assert gate("no-pickle", event=event) == (
        1,
        "axomsync: pytorch_model.bin: holds a pickle, protocol 2 (archive/data.pkl) (and 1 more)",
    )
    assert gate("no-pickle", "--allow", "*.bin", "--allow", "*.pkl", event=event) == (0, "no pickle")
    assert gate("no-pickle", event={"file": str(tmp_path / "x.pkl")})[0] == 1
    assert gate("no-pickle", event={"file": str(tmp_path / "gone")})[0] == 75
    assert gate("no-pickle", event=b"no event")[0] == 75
