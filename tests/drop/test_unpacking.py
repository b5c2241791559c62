"""What compressed files hold, and why broken ones can't be unpacked. Compressed by the real libraries, then damaged."""

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axomsync.drop.names import Packing, console_name, packing_of
from axomsync.drop.unpacking import BrokenArchive, Unpacked, zstd

LINES = b'{"text": "a"}\n' * 300
GZ, ZST = gzip.compress(LINES, mtime=0), zstd.compress(LINES, options={zstd.CompressionParameter.checksum_flag: 1})
SKIPPABLE = b"\x5f\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def unpacked(packed: bytes, packing: Packing = Packing.GZIP, name: str = "a.jsonl.gz") -> bytes:
    source = Unpacked(io.BytesIO(packed).read, packing, name)
    return b"".join(iter(source.read, b""))


def framed(window: int, **more: Any) -> bytes:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: window}
    compressor = zstd.ZstdCompressor(options=options, **more)
    return compressor.compress(LINES, compressor.FLUSH_BLOCK) + compressor.flush()


def with_dictionary() -> bytes:
    learnt = zstd.train_dict([LINES[:14] + str(number).encode() * 20 for number in range(1000)], 1000)
    return zstd.compress(LINES, zstd_dict=learnt)


def zipped() -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr("a.jsonl", LINES)
    return made.getvalue()


GOOD: dict[str, tuple[bytes | Callable[[], bytes], Packing, int]] = {
    "one member": (GZ, Packing.GZIP, 1),
    "three members": (GZ * 3, Packing.GZIP, 3),
    "members that hold nothing": (GZ + gzip.compress(b"") * 1000 + GZ, Packing.GZIP, 2),
    "padding at the end": (GZ + b"\0" * 200_000, Packing.GZIP, 1),
    "padding between": (GZ + b"\0" * 512 + GZ, Packing.GZIP, 2),
    "nothing": (gzip.compress(b""), Packing.GZIP, 0),
    "one frame": (ZST, Packing.ZSTD, 1),
    "three frames": (ZST * 3, Packing.ZSTD, 3),
    "skippable frames": (SKIPPABLE + ZST + SKIPPABLE + ZST + SKIPPABLE, Packing.ZSTD, 2),
    "only a skippable frame": (SKIPPABLE, Packing.ZSTD, 0),
    "a frame that holds nothing": (zstd.compress(b""), Packing.ZSTD, 0),
    "window of 128 MiB": (lambda: framed(27), Packing.ZSTD, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_members_frames_and_padding_are_unpacked(name: str) -> None:
    packed, packing, times = GOOD[name]
    assert unpacked(packed() if callable(packed) else packed, packing) == LINES * times


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_content_comes_out_whatever_the_sizes_of_reads(data: st.DataObject) -> None:
    content = data.draw(st.binary(max_size=3000)) * data.draw(st.integers(1, 40))
    packing = data.draw(st.sampled_from(Packing))
    once = gzip.compress(content) if packing is Packing.GZIP else zstd.compress(content)
    packed = io.BytesIO(once * data.draw(st.integers(1, 3)))
    most, taken = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 3000))
    source = Unpacked(lambda _: packed.read(taken), packing, "a")
    pieces = list(iter(lambda: source.read(most), b""))
    assert b"".join(pieces) in (content, content * 2, content * 3)
    assert all(len(piece) <= most for piece in pieces)
    assert source.bytes == len(packed.getvalue())


BROKEN: dict[str, tuple[bytes | Callable[[], bytes], Packing, str]] = {
    "nothing": (b"", Packing.GZIP, "the file is empty, and no gzip data; copy it again"),
    "cut in the header": (GZ[:1], Packing.GZIP, "the gzip data end early, after 1 bytes that hold 0 unpacked"),
    "cut": (GZ[:-20], Packing.GZIP, "the gzip data end early, after"),
    "cut in the checksum": (GZ[:-3], Packing.GZIP, "was the copy cut? Copy it again"),
    "second member cut": (GZ + GZ[:15], Packing.GZIP, "the gzip data end early"),
    "second member's header cut": (GZ + GZ[:1], Packing.GZIP, "the gzip data end early"),
    "wrong CRC": (GZ[:-8] + b"abcd" + GZ[-4:], Packing.GZIP, "are damaged: a checksum near byte"),
    "wrong length": (GZ[:-4] + b"abcd", Packing.GZIP, "are damaged: a checksum near byte"),
    "damaged": (GZ[:14] + b"\xff" * 8 + GZ[22:], Packing.GZIP, "the gzip data are damaged near byte"),
    "unknown method": (GZ[:2] + b"\x07" + GZ[3:], Packing.GZIP, "the gzip data are damaged near byte"),
    "garbage after it": (GZ + b"garbage", Packing.GZIP, f"from byte {len(GZ) + 1} on it is no gzip data"),
    "text after it": (GZ + b"\0" * 10 + LINES, Packing.GZIP, f"from byte {len(GZ) + 11} on it is no gzip data"),
    "plain text": (LINES, Packing.GZIP, "this is not gzip data but plain text; rename it to a.jsonl"),
    "zip": (zipped, Packing.GZIP, "this is not gzip data but a zip archive"),
    "bzip2": (bz2.compress(LINES), Packing.GZIP, "this is not gzip data but bzip2 data"),
    "zstd": (ZST, Packing.GZIP, "this is not gzip data but zstd data; rename it to *.zst"),
    "error page": (b"<html><body>Not found", Packing.GZIP, "this is not gzip data but HTML"),
    "hole": (b"\0" * 5000, Packing.GZIP, "this is not gzip data but a hole (NUL bytes)"),
    "words": (b"hello", Packing.ZSTD, "this is no zstd data; pack it again, or rename it to what it is"),
    "zstd: nothing": (b"", Packing.ZSTD, "the file is empty, and no zstd data"),
    "zstd: gzip": (GZ, Packing.ZSTD, "this is not zstd data but gzip data; rename it to *.gz"),
    "zstd: cut": (ZST[:-6], Packing.ZSTD, "the zstd data end early"),
    "zstd: cut in the header": (ZST[:2], Packing.ZSTD, "the zstd data end early"),
    "zstd: skippable frame cut": (ZST + SKIPPABLE[:-2], Packing.ZSTD, "the zstd data end early"),
    "zstd: wrong checksum": (ZST[:-4] + b"abcd", Packing.ZSTD, "are damaged: a checksum near byte"),
    "zstd: damaged": (ZST[:6] + b"\xff" * 8 + ZST[14:], Packing.ZSTD, "the zstd data are damaged"),
    "zstd: garbage after it": (ZST + b"garbage", Packing.ZSTD, f"from byte {len(ZST) + 1} on it is no zstd data"),
    "zstd: window of 256 MiB": (lambda: framed(28), Packing.ZSTD, "it needs more memory than 128 MiB to be unpacked"),
    "zstd: window of 1 GiB": (lambda: framed(30), Packing.ZSTD, "pack it again without --long"),
    "zstd: dictionary": (with_dictionary, Packing.ZSTD, "it was packed with a dictionary"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_reason_why_a_broken_archive_is_rejected(name: str) -> None:
    packed, packing, reason = BROKEN[name]
    with pytest.raises(BrokenArchive) as broken:
        unpacked(packed() if callable(packed) else packed, packing)
    assert reason in str(broken.value)
    assert "\n" not in str(broken.value)


def test_a_bomb_is_unpacked_in_small_pieces() -> None:
    source = Unpacked(io.BytesIO(gzip.compress(bytes(50_000_000))).read, Packing.GZIP, "a.gz")
    sizes = list(map(len, iter(source.read, b"")))
    assert (sum(sizes), max(sizes)) == (50_000_000, 256 * 1024)


@pytest.mark.parametrize(
    ("path", "packing", "told"),
    [
        (b"in/train.jsonl.gz", Packing.GZIP, "train.jsonl"),
        (b"TRAIN.JSONL.GZ", Packing.GZIP, "TRAIN.JSONL"),
        (b"/srv/train.jsonl.zst", Packing.ZSTD, "train.jsonl"),
        (b"a.jsonl.gz.gz", Packing.GZIP, "a.jsonl.gz"),
        (b"a.gz/b.jsonl", None, "b.jsonl"),
        (b"a.jsonl", None, "a.jsonl"),
        (b"a.jsonl.xz", None, "a.jsonl.xz"),
        (b".gz", None, ".gz"),
    ],
)
def test_a_compressed_file_goes_up_under_the_name_of_its_content(path: bytes, packing: Packing | None, told: str) -> None:
    assert (packing_of(path), console_name(path)) == (packing, told)
