"""Invalid model files are found and named with their fault."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axomsync.core.errors import LocalFault, Rejected
from axomsync.mirror.check import structure
from axomsync.mirror.check.integrity import compare
from axomsync.mirror.fetch.hashing import Evidence, PartDigests
from axomsync.storage.s3 import likely_part_sizes
from tests.rig.faults import Content

MIB = 1 << 20


def nothing() -> None:
    return None


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def index(**shards: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": shards}).encode()


WHOLE = {
    "no tensors": ("a.safetensors", safetensors({})),
    "one": ("a.safetensors", safetensors({"w": tensor(0, 4)}, b"1234")),
    "metadata": ("a.safetensors", safetensors({"__metadata__": {"format": "pt"}, "w": tensor(0, 4, "F32", [1])}, b"1234")),
    "any order": ("a.safetensors", safetensors({"b": tensor(2, 4), "a": tensor(0, 2)}, b"1234")),
    "a scalar and nothing": ("a.safetensors", safetensors({"s": tensor(0, 2, "BF16", []), "n": tensor(2, 2)}, b"12")),
    "a type that is new": ("a.safetensors", safetensors({"w": tensor(0, 3, "F6_E3M2", [4])}, b"123")),
    "in a folder": ("x/y.safetensors", safetensors({"w": tensor(0, 1)}, b"1")),
    "index": ("model.safetensors.index.json", index(a="shard-1.safetensors", b="shard-1.safetensors")),
    "gguf": ("a.gguf", b"GGUF\x03\0\0\0"),
}
BROKEN = {
    "empty": ("a.safetensors", b"", "its header has an invalid length"),
    "seven bytes": ("a.safetensors", b"1234567", "its header has an invalid length"),
    "longer than the file": ("a.safetensors", safetensors({}, length=99), "its header has an invalid length"),
    "no header": ("a.safetensors", safetensors(b"", b"1234"), "its header has an invalid length"),
    "not JSON": ("a.safetensors", safetensors(b"{"), "not valid safetensors JSON"),
    "a page": ("a.safetensors", b"<!DOCTYPE html><html>", "its header has an invalid length"),
    "not UTF-8": ("a.safetensors", safetensors(b'{"\xff": 1}'), "not valid safetensors JSON"),
    "a list": ("a.safetensors", safetensors([1]), "not valid safetensors JSON"),
    "no offsets": ("a.safetensors", safetensors({"w": {"dtype": "U8", "shape": [1]}}, b"1"), "not valid safetensors JSON"),
    "deep": ("a.safetensors", safetensors(b"[" * 100_000), "not valid safetensors JSON"),
    "truncated": ("a.safetensors", safetensors({"w": tensor(0, 9)}, b"1234"), "describes"),
    "too long": ("a.safetensors", safetensors({"w": tensor(0, 2)}, b"1234"), "describes"),
    "a hole": ("a.safetensors", safetensors({"a": tensor(0, 1), "b": tensor(2, 4)}, b"1234"), "a hole at byte 1"),
    "an overlap": ("a.safetensors", safetensors({"a": tensor(0, 3), "b": tensor(2, 4)}, b"1234"), "overlap or leave a hole"),
    "backwards": ("a.safetensors", safetensors({"a": tensor(4, 0, shape=[-4])}, b"1234"), "overlap or leave a hole"),
    "text": ("a.safetensors", safetensors({"a": {**tensor(0, 4), "data_offsets": ["0", "4"]}}, b"1234"), "JSON"),
    "a shape that lies": (
        "a.safetensors",
        safetensors({"w": tensor(0, 4, "F32", [2])}, b"1234"),
        "shape of its tensor 'w' does not match",
    ),
    "a type that lies": (
        "a.safetensors",
        safetensors({"w": tensor(0, 4, "F64", [1])}, b"1234"),
        "shape of its tensor 'w' does not match",
    ),
    "index of a missing shard": ("m.safetensors.index.json", index(a="gone.safetensors"), "it names 'gone.safetensors'"),
    "index that leaves": ("m.safetensors.index.json", index(a="../m"), "it names '../m'"),
    "index without a map": ("m.safetensors.index.json", b"{}", "not a JSON index with a weight_map"),
    "index of numbers": ("m.safetensors.index.json", b'{"weight_map": {"a": 1}}', "not a JSON index with a weight_map"),
    "index that is cut": ("m.safetensors.index.json", b'{"weight_map": {', "not a JSON index with a weight_map"),
    "gguf": ("a.gguf", b"GGML", "does not begin like a GGUF file"),
    "gguf, empty": ("a.gguf", b"", "does not begin like a GGUF file"),
}


def put(folder: Path, rel: str, data: bytes) -> set[str]:
    (folder / rel).parent.mkdir(parents=True, exist_ok=True)
    (folder / rel).write_bytes(data)
    return {rel, "shard-1.safetensors", "config.json"}


@pytest.mark.parametrize(("rel", "data"), WHOLE.values(), ids=WHOLE.keys())
def test_structure_accepts_whole_files(tmp_path: Path, rel: str, data: bytes) -> None:
    assert structure.check(tmp_path, [rel], put(tmp_path, rel, data), nothing) == structure.Findings(frozenset({rel}), ())


@pytest.mark.parametrize(("rel", "data", "fault"), BROKEN.values(), ids=BROKEN.keys())
def test_structure_refuses_broken_files(tmp_path: Path, rel: str, data: bytes, fault: str) -> None:
    listed = put(tmp_path, rel, data)
    with pytest.raises(Rejected) as refusal:
        structure.check(tmp_path, [rel], listed, nothing)
    assert str(refusal.value).startswith(f"{rel} is broken at its source: ")
    assert fault in str(refusal.value)


def shards(folder: Path, **tensors: str) -> set[str]:
    for shard, name in tensors.items():
        (folder / f"{shard}.safetensors").write_bytes(safetensors({name: tensor(0, 4)}, b"1234"))
    (folder / "m.safetensors.index.json").write_bytes(index(x="one.safetensors", y="two.safetensors"))
    return {"m.safetensors.index.json", *(f"{shard}.safetensors" for shard in tensors)}


def test_index_that_fits_its_shards(tmp_path: Path) -> None:
    rels = shards(tmp_path, one="x", two="y")
    assert structure.check(tmp_path, rels, rels, nothing) == structure.Findings(frozenset(rels), ())


@pytest.mark.parametrize("held", [{"one": "y", "two": "x"}, {"one": "x", "two": "of the next version"}])
def test_index_that_does_not_fit_its_shards_is_a_remark(tmp_path: Path, held: dict[str, str]) -> None:
    rels = shards(tmp_path, **held)
    found = structure.check(tmp_path, rels, rels, nothing)
    assert found.whole == rels - {"m.safetensors.index.json"}
    (remark,) = found.remarks
    assert remark.startswith("m.safetensors.index.json expects ")
    assert "which does not hold it" in remark


@pytest.mark.parametrize("data", [index(a="gone.safetensors"), b"{}"])
def test_index_beside_the_whole_model_is_ignored(tmp_path: Path, data: bytes) -> None:
    listed = put(tmp_path, "model.safetensors.index.json", data) | {"model.safetensors"}
    found = structure.check(tmp_path, ["model.safetensors.index.json"], listed, nothing)
    assert found.whole == frozenset()
    assert found.remarks[0].endswith("it is ignored, since the whole model lies beside it")


@pytest.mark.parametrize("rel", ["._model.safetensors", "a/.x.gguf", ".model.safetensors.index.json"])
def test_dotfiles_are_not_checked(tmp_path: Path, rel: str) -> None:
    found = structure.check(tmp_path, [rel], put(tmp_path, rel, b"\0\5\x16\7"), nothing)
    assert found == structure.Findings(frozenset(), ())


@pytest.mark.parametrize("rel", ["a.safetensors", "a.bin", "config.json", "x/tokenizer.model", ".hidden"])
def test_git_lfs_pointer_is_named_whatever_the_file_name(tmp_path: Path, rel: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(Rejected, match=r"it is a Git LFS pointer, not the file .* run `git lfs pull`"):
        structure.check(tmp_path, [rel], put(tmp_path, rel, pointer), nothing)


def test_what_is_too_large_for_a_git_lfs_pointer_is_none(tmp_path: Path) -> None:
    text = b"version https://git-lfs.github.com/spec/v1\n".ljust(1025, b" ")
    assert structure.check(tmp_path, ["README.md"], put(tmp_path, "README.md", text), nothing).remarks == ()


def test_a_planted_link_to_what_never_ends_ends(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("/dev/zero")
    assert structure.check(tmp_path, ["w.bin"], {"w.bin"}, nothing).whole == frozenset()


def test_backslash_in_a_name_is_a_remark(tmp_path: Path) -> None:
    found = structure.check(tmp_path, ["a\\b.bin"], put(tmp_path, "a\\b.bin", b""), nothing)
    assert found.remarks == ("a\\b.bin has a backslash in its name, which does not separate folders here",)


def test_remarks_are_limited(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path, f"{number}\\{'x' * 200}.bin", b"")
    rels = [path.name for path in tmp_path.iterdir()]
    assert structure.check(tmp_path, rels, set(rels), nothing).remarks[-1] == "and 2 more"


@pytest.mark.parametrize("part_size", [7 * MIB, 9 * MIB, 11 * MIB, 13 * MIB])
def test_unusual_part_size_is_found(tmp_path: Path, part_size: int) -> None:
    content = Content(30 * MIB + 5, 3)
    (tmp_path / "a.bin").write_bytes(content.read())
    etag = content.etag(part_size)
    found = compare(tmp_path / "a.bin", etag, Evidence(etag, content.size), nothing)
    assert (found.proven, found.part_size) == (True, part_size)


def test_unknown_formats_prove_nothing(tmp_path: Path) -> None:
    assert structure.check(tmp_path, ["a.bin"], put(tmp_path, "a.bin", b"\0"), nothing).whole == set()


def test_vanished_file_is_a_local_fault(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match=r"a\.gguf: it does not exist"):
        structure.check(tmp_path, ["a.gguf"], {"a.gguf"}, nothing)


@settings(deadline=None, max_examples=25)
@given(
    size=st.integers(1, 12 * MIB),
    part=st.sampled_from([None, MIB, 5 * MIB, 8 * MIB, 5_000_000]),
    runs=st.lists(st.tuples(st.integers(0, 12 * MIB), st.integers(1, 6 * MIB)), max_size=4),
    damage=st.booleans(),
)
def test_etag_proves_the_bytes_in_any_order_of_arrival(
    tmp_path_factory: pytest.TempPathFactory, size: int, part: int | None, runs: list[tuple[int, int]], damage: bool
) -> None:
    """`runs` were hashed by lanes on arrival; the rest is read from disk."""
    content, path = Content(size, 5), tmp_path_factory.mktemp("file") / "a.bin"
    etag = content.etag(part)
    seen = Evidence(etag, size)
    if seen.parts is not None:
        assert isinstance(seen.parts, PartDigests)
        for start, length in runs:
            run = seen.parts.run(min(start, size))
            for piece in content.pieces(min(start, size), min(size, start + length)):
                run.update(bytes(piece))
    data = bytearray(content.read())
    if damage and seen.parts is None:
        data[size // 2] ^= 1
    path.write_bytes(data)
    found = compare(path, etag, seen, nothing)
    if damage and seen.parts is None and part is None:
        assert not found.proven
        assert found.md5 == hashlib.md5(data).hexdigest()
    else:
        assert found.proven is (part is None or likely_part_sizes(size, -(-size // part))[:1] != [])
        assert found.md5 is None


@pytest.mark.parametrize("etag", [None, "", '"abc"', '"0123-x"', 'W/"d41d8cd9"', '"opaque-3"'])
def test_an_etag_that_is_no_checksum_proves_nothing(tmp_path: Path, etag: str | None) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    found = compare(tmp_path / "a", etag, Evidence(etag, 4), nothing)
    assert (found.proven, found.md5) == (False, None)
