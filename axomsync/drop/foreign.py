"""Files that are no JSONL, recognised by their first bytes: their format, and the way to make JSONL of them. Pure."""

import re

_MAGIC = (
    (b"\x1f\x8b", "gzip data; unpack it first (gunzip), or name it *.jsonl.gz and put that in [drop] include"),
    (b"PK\x03\x04", "a zip archive or an Office document; unpack it, or export it as JSONL"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it first (unzstd), or name it *.jsonl.zst and put that in [drop] include"),
    (b"\xfd7zXZ\x00", "xz data; unpack it first (unxz)"),
    (b"\x78\x01", "zlib data; unpack it first (zlib.decompress in Python)"),
    (b"\x78\x9c", "zlib data; unpack it first (zlib.decompress in Python)"),
    (b"\x78\xda", "zlib data; unpack it first (zlib.decompress in Python)"),
    (b"\xc0\x7f", "EBCDIC text; save it as UTF-8 (iconv -f IBM037 -t UTF-8)"),
    (b"BZh", "bzip2 data; unpack it first (bunzip2)"),
    (b"\x04\x22\x4d\x18", "lz4 data; unpack it first (unlz4)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first (7z x)"),
    (b"PAR1", "a Parquet file; export it as JSONL"),
    (b"ARROW1", "an Arrow file; export it as JSONL"),
    (b"Obj\x01", "an Avro file; export it as JSONL"),
    (b"ORC", "an ORC file; export it as JSONL"),
    (b"\x89HDF", "an HDF5 file; export it as JSONL"),
    (b"\x93NUMPY", "a NumPy array; export it as JSONL"),
    (b"SQLite format 3\x00", "an SQLite database; export it as JSONL"),
    (b"%PDF", "a PDF; export its text as JSONL"),
    (b"\xff\xfe\x00\x00", "UTF-32 text; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text; save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; fetch the file it stands for (git lfs pull)"),
    (b"/annex/objects/", "a git-annex pointer; fetch the file it stands for (git annex get)"),
)  # fmt: skip
_WIDE = (
    (rb"(?:[\t\n\r -~]\0\0\0){2}", "UTF-32 text; save it as UTF-8 (iconv -f UTF-32LE -t UTF-8)"),
    (rb"(?:\0\0\0[\t\n\r -~]){2}", "UTF-32 text; save it as UTF-8 (iconv -f UTF-32BE -t UTF-8)"),
    (rb"(?:[\t\n\r -~]\0){2}", "UTF-16 text; save it as UTF-8 (iconv -f UTF-16LE -t UTF-8)"),
    (rb"(?:\0[\t\n\r -~]){2}", "UTF-16 text; save it as UTF-8 (iconv -f UTF-16BE -t UTF-8)"),
)
_MARK = b"\xef\xbb\xbf"
_BINARY_SHARE = 0.1


def foreign_content(head: bytes) -> str | None:
    """Name the format of a file with these first bytes; None if its lines must be checked.

    A file that could begin as JSONL always gets None.
    """
    reason = kind_of(head)
    return None if reason is None else f"this is not JSONL but {reason}"


def kind_of(head: bytes) -> str | None:
    """Name the format like `foreign_content`, alone."""
    text = head.removeprefix(_MARK)  # a spreadsheet's table may have a byte-order mark too; saving without it does not help
    reason = _foreign_bytes(text) or _foreign_text(text)
    if reason is None and head.startswith(_MARK):
        return "text with a byte-order mark; save it as UTF-8 without BOM (sed -i '1s/^\\xef\\xbb\\xbf//')"
    return reason


def _foreign_bytes(head: bytes) -> str | None:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    for pattern, name in _WIDE:
        if re.match(pattern, head):
            return name
    if head.startswith(b"\0") and not head.strip(b"\0"):
        return "a hole (NUL bytes), as an unfinished copy or a crash leaves it; copy the file again"
    if head[257:262] == b"ustar" and b"\0" in head[:257]:
        return "a tar archive; unpack it first (tar -x)"
    few = head[:512]
    odd = len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c\x1d\x1f]", few))
    if not few.lstrip().startswith(b"{") and odd > len(few) * _BINARY_SHARE:
        return "binary data; export it as JSONL"
    return None


def _foreign_text(head: bytes) -> str | None:
    start = head.lstrip()[:100]
    if re.match(rb"<(?!<{6})", start):
        code = re.search(rb"<Error>.{0,200}?<Code>(\w{1,64})</Code>", head, re.DOTALL)
        told = f" ({code[1].decode()})" if code else ""
        return f"HTML or XML; was an error page{told} saved in place of the data? Download it again"
    if re.match(rb"\[\s*(\{|$)", start):
        return "one JSON array; write one object a line (jq -c '.[]')"
    if re.match(rb"\[[A-Za-z][\w .:-]*\]\s*\n", start):
        return "an INI file; export it as JSONL"
    if re.fullmatch(rb"\{\s*", head.splitlines()[0] if head.strip() else b""):
        return "JSON over several lines; write one object a line (jq -c .)"
    if not start.startswith(b"[") and re.match(rb"[^{}\n\"]*[\w\"]+\s*[,;\t][^{}\n]*\n", head):
        return "looks like CSV; export it as JSONL"
    return None
