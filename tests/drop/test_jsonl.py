"""The JSONL checker: every kind of fault with its place, and properties over any dataset and any read size."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axomsync.core.errors import SourceChanged
from axomsync.core.records import Checked, RepeatedLines
from axomsync.drop.jsonl import LARGE_LINE, PROBLEM_LIMIT, READ_SIZE, SAMPLE_SIZE, InvalidDataset, check
from axomsync.drop.repeats import NAMED, REMEMBERED
from tests.drop.conftest import idle, opened

GOOD = b'{"text": "good"}\n'
LINE_LIMIT = 1_000_000

Mode = Literal["full", "sample", "off"]


def checked(
    data: bytes,
    mode: Mode = "full",
    *,
    read_size: int = READ_SIZE,
    large_line: int = LARGE_LINE,
    beat: Callable[[], None] = idle,
) -> Checked:
    with opened(data) as file:
        return check(file, len(data), mode, beat, read_size=read_size, line_limit=LINE_LIMIT, large_line=large_line)


def faults(data: bytes, mode: Mode = "full", *, read_size: int = READ_SIZE, large_line: int = LARGE_LINE) -> InvalidDataset:
    with pytest.raises(InvalidDataset) as caught:
        checked(data, mode, read_size=read_size, large_line=large_line)
    return caught.value


# What is wrong with a line: its bytes, line number, column (in characters, from 1) and a part of the reason.
BROKEN = {
    "unquoted value": (GOOD + b'{"a": x}\n' + GOOD, 2, 7, "the text x has no quotes; put it in double quotes"),
    "column counts characters": (b'{"\xc3\xa9\xf0\x9f\x99\x82": x}\n', 1, 8, "the text x has no quotes"),
    "NaN": (b'{"a": NaN}\n', 1, 7, "NaN is not JSON; write null"),
    "nan": (b'{"a": [1, nan]}\n', 1, 11, "nan is not JSON; write null"),
    "Infinity": (b'{"a": Infinity}\n', 1, 7, "Infinity is not JSON; write null, or a number"),
    "-Infinity": (b'{"a": -Infinity}\n', 1, 8, "Infinity is not JSON; write null, or a number"),
    "None": (b'{"a": None}\n', 1, 7, "None is not JSON; write null"),
    "True": (b'{"a": True}\n', 1, 7, "True is not JSON; write true"),
    "False": (b'{"a": False}\n', 1, 7, "False is not JSON; write false"),
    "undefined": (b'{"a": undefined}\n', 1, 7, "undefined is not JSON; write null"),
    "NULL": (b'{"a": NULL}\n', 1, 7, "NULL is not JSON; write null"),
    "single quotes around a key": (b"{'a': 1}\n", 1, 2, "single quotes are not JSON; write"),
    "single quotes around a value": (b"{\"a\": 'x'}\n", 1, 7, "single quotes are not JSON; write"),
    "bytes of Python": (b"{\"a\": b'x'}\n", 1, 7, "a value of Python is not JSON; write the file with a JSON library"),
    "object of Python": (b'{"a": datetime.date(1, 2, 3)}\n', 1, 7, "datetime is a value of a program, and not JSON;"),
    "typographic quotes": ("{“a”: 1}\n".encode(), 1, 2, "typographic quotes (“) are not JSON; write straight"),
    "unquoted key": (b"{a: 1}\n", 1, 2, 'the key a has no quotes; write "a"'),
    "number as a key": (b"{1: 1}\n", 1, 2, "a key is a number; put it in double quotes"),
    "an array on each line": (b'["a", "b"]\n["c"]\n', 1, 1, "a JSON object is needed, this is an array; write an object"),
    "binary data at the end": (
        GOOD + b"\x1f\x8b\x00\x00\x00",
        2,
        2,
        "byte 2 of the line (0x8b) is not UTF-8; binary data begins",
    ),
    "trailing comma": (b'{"a": 1,}\n', 1, 8, "a comma stands before the end of an object or array; remove it"),
    "trailing comma of an array": (b'{"a": [1,]}\n', 1, 9, "a comma stands before the end of an object or array"),
    "two objects on one line": (b'{"a": 1} {"b": 2}\n', 1, 10, "a second object begins on the line; write each object"),
    "objects without line ends": (b'{"a": 1}{"b": 2}{"c": 3}', 1, 9, "a second object begins on the line; write each"),
    "comma between lines": (b'{"a": 1},\n{"b": 2}\n', 1, 9, "a comma follows the object, as in an array; end each line"),
    "end of an array": (b'{"a": 1}]\n', 1, 9, "the end of an array follows the object; write one object a line"),
    "array over lines": (GOOD + b'[{"a": 1},\n' + GOOD, 2, 11, "an array goes on in the next line; write one object a line"),
    "too many brackets": (b'{"a": 1}}\n', 1, 9, "there is a } too many; remove it"),
    "bracket missing": (b'{"a": [1}\n', 1, 9, "a ] is missing before }; write it"),
    "comma missing": (b'{"a": 1 "b": 2}\n', 1, 9, "a comma is missing between two values; write it"),
    "colon missing": (b'{"a" 1}\n', 1, 6, "a colon is missing after a key; write it"),
    "value missing": (b'{"a": ,}\n', 1, 7, "a value is missing before ,; write it"),
    "quote not escaped": (b'{"a": "say "hi" now"}\n', 1, 13, r"a quote inside of a string is not escaped; write \" for"),
    "comment": (b'{"a": 1} // c\n', 1, 10, "a comment is not JSON; remove it"),
    "comment of a shell": (b"# c\n" + GOOD, 1, 1, "a comment is not JSON; remove it"),
    "comment within": (b'{"a": 1 /* c */}\n', 1, 9, "a comment is not JSON; remove it"),
    "hexadecimal": (b'{"a": 0x1f}\n', 1, 8, "a hexadecimal, octal or binary number is not JSON; write it in decimal"),
    "leading zero": (b'{"a": 007}\n', 1, 7, "a number begins with 0; write it without"),
    "plus": (b'{"a": +1}\n', 1, 7, "a number begins with +; write it without"),
    "point first": (b'{"a": .5}\n', 1, 7, "a number begins with a point; write 0 before it"),
    "point last": (b'{"a": 1.}\n', 1, 9, "a number ends with a point; write 0 after it"),
    "grouped digits": (b'{"a": 1_000}\n', 1, 8, "digits are grouped by _; write the digits alone"),
    "too large": (b'{"a": 1e999}\n', 1, 7, "a number is too large (beyond 1.8e308); write it as a text"),
    "too deep": (
        b'{"a": ' + b"[" * 1024 + b"]" * 1024 + b"}\n",
        1,
        1031,
        "objects and arrays are nested more than 1024 deep",
    ),
    "raw tab in a string": (b'{"a": "\t"}\n', 1, 8, r"a tab stands in a string; write \t"),
    "raw control character": (b'{"a": "\x01"}\n', 1, 8, r"the control character U+0001 stands in a string; write \u0001"),
    "unknown escape": (b'{"a": "C:\\Users"}\n', 1, 10, r"\U is no escape of JSON; write \\ for a backslash"),
    "short escape": (b'{"a": "\\u12"}\n', 1, 8, r"\u needs four hexadecimal digits; write such as \u00e9"),
    "lone surrogate": (b'{"a": "\\ud800"}\n', 1, 8, r"\ud800 is half of a surrogate pair and no character; write"),
    "byte-order mark within": (
        b'{"a": 1}\n\xef\xbb\xbf{"b": 1}\n',
        2,
        1,
        "a byte-order mark, as it stands where files",
    ),
    "byte-order mark on a line": (
        b'{"a": 1}\xef\xbb\xbf{"b": 1}\n',
        1,
        9,
        "a byte-order mark, as it stands where files",
    ),
    "no-break space": (b'{\xc2\xa0"a": 1}\n', 1, 2, "an invisible character (U+00A0 NO-BREAK SPACE); remove it"),
    "full-width comma": ('{"a": 1，"b": 1}\n'.encode(), 1, 8, "a full-width character (，) is not JSON; write the ASCII"),  # noqa: RUF001
    "colours of a terminal": (b'\x1b[32m{"a": 1}\x1b[0m\n', 1, 1, "a terminal's control sequence (ESC); write the file"),
    "record separator": (b'\x1e{"a": 1}\n', 1, 1, r"a record separator (RFC 7464); remove it (tr -d '\036')"),
    "event stream": (b'data: {"a": 1}\n', 1, 1, "an event stream: `data:` stands before the object; take it away"),
    "log": (b'INFO 12:00 {"a": 1}\n', 1, 1, "'INFO 12:00' stands before the object; a line holds the object and"),
    "log with dates": (b'2031-01-01 {"a": 1}\n', 1, 5, "'2031-01-01' stands before the object; a line holds"),
    "YAML": (b"- a: 1\n", 1, 2, "the line looks like YAML or a program's log; write only the data"),
    "prose": (GOOD + b"broken\n", 2, 1, "the line is a text and no object; write an object"),
    "traceback": (GOOD + b"Traceback (most recent call last):\n", 2, 1, "a traceback of Python; see why"),
    "merge conflict": (b"<<<<<<< HEAD\n" + GOOD, 1, 1, "a merge conflict of git was left in the file; resolve it"),
    "shortened": (b'{"a": ...}\n', 1, 7, "a text was shortened to ...; write it whole"),
    "object over two lines": (GOOD + b'{"a":\n1}\n', 2, 6, "the object goes on in the next line; write each object on one"),
    "part of an object": (GOOD + b'  "a": 1,\n', 2, 6, "the line holds only a part of an object or array;"),
    "string over two lines": (GOOD + b'{"a": "b\nc"}\n', 2, 9, "a string is not closed on its line; add the closing"),
    "carriage returns only": (
        b'{"a": 1}\r{"b": 2}',
        1,
        10,
        r"lines end in CR alone, as old Macs wrote them; end them with LF",
    ),
    "array": (GOOD + b"[1, 2]\n", 2, 1, "a JSON object is needed, this is an array; write an object, {…}, on each line"),
    "string": (GOOD + b'"text"\n', 2, 1, 'a JSON object is needed, this is a string; give it a key, such as {"text": …}'),
    "number": (GOOD + b"1\n", 2, 1, "a JSON object is needed, this is a number"),
    "fraction": (GOOD + b"1.5\n", 2, 1, "a JSON object is needed, this is a number"),
    "true": (GOOD + b"true\n", 2, 1, "a JSON object is needed, this is true or false"),
    "null": (GOOD + b"null\n", 2, 1, "a JSON object is needed, this is null"),
    "invalid byte": (GOOD + b'{"\xc3\xa9": "\xff"}\n', 2, 8, "byte 9 of the line (0xff) is not UTF-8"),
    "Latin-1": (
        b'{"a": "caf\xe9"}\n',
        1,
        11,
        "byte 11 of the line (0xe9) is not UTF-8; it looks like Latin-1 or Windows-1252",
    ),
    "overlong encoding": (b'{"a": "\xc0\xaf"}\n', 1, 8, "byte 8 of the line (0xc0) is not UTF-8; save it as UTF-8"),
    "UTF-16 surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}\n', 1, 8, "byte 8 of the line (0xed) is not UTF-8; it is half of"),
    "blank line": (GOOD + b"\n" + GOOD, 2, None, "the line is blank; remove it"),
    "line of spaces": (GOOD + b"  \t\r\n" + GOOD, 2, None, "the line is blank; remove it"),
    "blank line before a broken one": (GOOD + b"\n" + b"x\n", 2, None, "the line is blank; remove it"),
    "blank line at the beginning": (b"\n" + GOOD, 1, None, "the line is blank; remove it"),
    "cut off in a string": (GOOD + b'{"a": "b', 2, 9, "the last line was cut off within a string; the file is not whole:"),
    "cut off after a key": (
        GOOD + b'{"a"',
        2,
        5,
        "the last line was cut off; the file is not whole: copy or export it again",
    ),
    "cut off in a character": (
        GOOD + b'{"a": "\xf0\x9f',
        2,
        8,
        "the last line was cut off within a character; the file is not",
    ),
    "NUL bytes where a crash left a hole": (
        GOOD + b"\0" * 100,
        2,
        1,
        "NUL bytes: a hole in the file, as an unfinished copy",
    ),
    "hole in a string": (b'{"a": "b' + b"\0" * 100 + b'"}\n', 1, 9, "NUL bytes: a hole in the file, as an unfinished copy"),
    "UTF-16 after UTF-8": (GOOD + '{"a": 1}'.encode("utf-16-le"), 2, 2, "UTF-16 text was put into the file; write it again"),
    "byte-order mark at the beginning of a line": (
        GOOD + b"\xef\xbb\xbf" + GOOD,
        2,
        1,
        r"a byte-order mark, as it stands where files were joined; remove it (sed 's/^\xef\xbb\xbf//')",
    ),
    "an object encoded twice": (
        b'"{\\"a\\": 1}"\n',
        1,
        1,
        "the object was encoded twice: it is a string; decode the string once (jq",
    ),
    "backslashes before quotes": (b'{\\"a\\": 1}\n', 1, 2, "backslashes stand before the quotes of the object; decode each"),
    "last bracket missing": (b'{"a": 1\n{"a": 2}\n', 1, 8, "the line ends before the object does; write the } or ]"),
    "hundreds of brackets not closed": (
        b'{"a": ' + b"[" * 600 + b"\n" + GOOD,
        1,
        607,
        "the object goes on in the next line; write",
    ),
    "last line without its end": (GOOD + b'{"a": 1\n', 2, 8, "the last line ends before its object does; copy or export"),
    "last line within a string": (GOOD + b'{"a": "b\n', 2, 9, "the last line ends before its object does; copy or"),
    "last line after a comma": (GOOD + b'{"a": 1,\n', 2, 9, "the last line ends before its object does; copy or"),
    "date without quotes": (b'{"a": 2031-01-01}\n', 1, 11, "a date or a time has no quotes; put it in double quotes"),
    "time without quotes": (b'{"a": 12:30}\n', 1, 9, "a date or a time has no quotes; put it in double quotes"),
    "long number of Python": (b'{"a": 10L}\n', 1, 9, "a number ends with L; write the digits alone"),
    "large number of JavaScript": (b'{"a": 10n}\n', 1, 9, "a number ends with n; write the digits alone"),
    "digits with apostrophes": (b'{"a": 1\'000}\n', 1, 8, "digits are grouped by '; write the digits alone"),
    "per cent": (b'{"a": 5%}\n', 1, 8, "something follows a number; write the digits alone, or a text in double quotes"),
    "three quotes": (b'{"a": """b"""}\n', 1, 9, 'three quotes are not JSON; write one "'),
    "decimal comma": (b'{"a": 1,5}\n', 1, 9, "a comma stands within a number, or a key is missing; write a decimal point"),
    "set of Python": (b'{"a": {1, 2}}\n', 1, 8, "values stand in { } without keys; write [ ] around them"),
    "object of a program": (b'{"a": <Foo at 0x7f>}\n', 1, 7, "a value of Python is not JSON; write the file with a JSON"),
    "escaped apostrophe": (b'{"a": "it\\\'s"}\n', 1, 10, r"\' is no escape of JSON; write ' alone"),
    "hash of Ruby": (b'{"a" => 1}\n', 1, 6, "= or => stands between a key and its value; write a colon"),
    "semicolon between values": (b'{"a": 1; "b": 2}\n', 1, 8, "a semicolon stands between two values; write a comma"),
    "ellipsis": ('{"a": 1, …}\n'.encode(), 1, 10, "a text was shortened to ...; write it whole"),
    "fence of Markdown": (b"```json\n" + GOOD, 1, 1, "a fence of Markdown; remove the line"),
    "table of Markdown": (b"| a | b |\n", 1, 1, "a table for people; export it as JSONL"),
    "table of a database": (GOOD + b"------\n", 2, 2, "a table for people; export it as JSONL"),
    "line separator of Unicode": (
        '{"a": 1}\u2028{"b": 2}\n'.encode(),
        1,
        9,
        r"a line separator of Unicode (U+2028) stands where a line ends; write a line end (\n) in its place",
    ),
    "next line of ISO 6429": (
        '{"a": 1}\x85{"b": 2}\n'.encode(),
        1,
        9,
        "a line separator of Unicode (U+0085) stands where",
    ),
    "warning": (
        b"WARNING: foo\n" + GOOD,
        1,
        1,
        "what a program said, and no data; remove the line, and keep standard error",
    ),
    "message before an object": (b'WARNING: {"a": 1}\n', 1, 1, "'WARNING:' stands before the object; a line holds"),
    "message of a shell": (b"bash: jq: command not found\n" + GOOD, 1, 1, "what a program said, and no data; remove the"),
    "progress": (GOOD + "100%|██| 10/10\n".encode(), 2, 4, "what a program said, and no data; remove the line"),
    "difference": (b"--- a/x\n" + GOOD, 1, 2, "a diff; apply it to its file (patch)"),
    "headers of HTTP": (b"HTTP/1.1 200 OK\r\n\r\n" + GOOD, 1, 1, "headers of an HTTP answer; save the body alone (curl"),
    "DVC pointer": (b"outs:\n- md5: abc\n", 1, 1, "a DVC pointer; fetch the file it stands for (dvc pull)"),
    "git-annex pointer of a folder": (
        b"../.git/annex/objects/x\n",
        1,
        1,
        "a git-annex pointer; fetch the file it stands for",
    ),
    "guard against scripts": (b")]}'\n" + GOOD, 1, 1, "a guard against scripts, as some servers send it; remove the line"),
    "rich text": (b"{\\rtf1\\ansi\n", 1, 2, "rich text (RTF); save it as plain text"),
    "gzip after text": (
        GOOD + b"\x1f\x8b\x08\0\0\0",
        2,
        2,
        "byte 2 of the line (0x8b) is not UTF-8; gzip data was put after text; unpack it first (gunzip)",
    ),
    "line too long": (
        GOOD + b'{"a": "' + b"b" * LINE_LIMIT + b'"}\n',
        2,
        None,
        "the line is longer than 1 MB; split its object",
    ),
    "CR only and too long": (b'{"a": "b"}\r' * 100_000, 1, None, "the line is longer than 1 MB; end them with LF"),
    "only blank lines": (b"\n\n  \n", None, None, "the file holds nothing but blank lines; write it again, or remove it"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_named_with_its_line_and_column(name: str) -> None:
    data, line, column, reason = BROKEN[name]
    first = faults(data, read_size=100_000).faults[0]
    assert first.reason.startswith(reason)
    assert (first.line, first.column) == (line, column)
    assert "; " in first.reason, "the fix is missing"


@pytest.mark.parametrize("name", BROKEN)
def test_a_large_line_is_refused_in_the_same_words(name: str) -> None:
    data, line, _, reason = BROKEN[name]
    first = faults(data, read_size=100_000, large_line=0).faults[0]
    assert first.reason.startswith(reason.partition(": no digit")[0])
    assert first.line == line


FOREIGN = {
    "empty": (b"", "the file is empty"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip data"),
    "zip": (b"PK\x03\x04rest", "a zip archive or an Office document"),
    "lz4": (b"\x04\x22\x4d\x18rest", "lz4 data"),
    "Arrow": (b"ARROW1\0\0", "an Arrow file"),
    "SQLite": (b"SQLite format 3\0rest", "an SQLite database"),
    "tar": (b"a.jsonl".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x04text\x94.", "binary data"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer; fetch"),
    "hole from the beginning": (b"\0" * 5000, "a hole (NUL bytes), as an unfinished copy"),
    "UTF-16 LE without a mark": ('{"a": 1}\n'.encode("utf-16-le"), "UTF-16 text; save it as UTF-8 (iconv -f UTF-16LE"),
    "UTF-16 BE without a mark": ('{"a": 1}\n'.encode("utf-16-be"), "UTF-16 text; save it as UTF-8 (iconv -f UTF-16BE"),
    "UTF-32": ('{"a": 1}\n'.encode("utf-32"), "UTF-32 text"),
    "UTF-32 LE without a mark": ('{"a": 1}\n'.encode("utf-32-le"), "UTF-32 text; save it as UTF-8 (iconv -f UTF-32LE"),
    "UTF-32 BE without a mark": ('{"a": 1}\n'.encode("utf-32-be"), "UTF-32 text; save it as UTF-8 (iconv -f UTF-32BE"),
    "error document": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an error page (AccessDenied)"),
    "zstd": (b"\x28\xb5\x2f\xfdrest", "zstd data"),
    "xz": (b"\xfd7zXZ\x00rest", "xz data"),
    "bzip2": (b"BZh9rest", "bzip2 data"),
    "parquet": (b"PAR1rest", "a Parquet file"),
    "UTF-16": ('{"a": 1}\n'.encode("utf-16"), "UTF-16 text"),
    "byte-order mark": (
        b"\xef\xbb\xbf" + GOOD,
        r"text with a byte-order mark; save it as UTF-8 without BOM (sed -i '1s/^\xef\xbb\xbf//')",
    ),
    "nothing but a byte-order mark": (b"\xef\xbb\xbf", "text with a byte-order mark"),
    "CSV with a byte-order mark": (b"\xef\xbb\xbfid,text\r\n1,good\r\n", "looks like CSV"),
    "JSON array with a byte-order mark": (b'\xef\xbb\xbf[{"a": 1}]\n', "one JSON array"),
    "HTML": (b"\n<!DOCTYPE html>\n<html></html>\n", "HTML or XML"),
    "JSON array": (b'[{"a": 1},\n{"a": 2}]\n', "one JSON array"),
    "pretty-printed JSON": (b'{\n  "a": 1\n}\n', "JSON over several lines"),
    "INI": (b"[InternetShortcut]\r\nURL=http://x/\r\n", "an INI file; export it as JSONL"),
    "zlib": (b"\x78\x9crest", "zlib data; unpack it first"),
    "EBCDIC": ('{"a": 1}\n'.encode("cp037"), "EBCDIC text; save it as UTF-8 (iconv -f IBM037 -t UTF-8)"),
    "CSV": (b"id,text\n1,good\n", "looks like CSV"),
    "CSV in quotes": (b'"id";"text"\n1;"good"\n', "looks like CSV"),
    "TSV": (b"id\ttext\n1\tgood\n", "looks like CSV"),
}


@pytest.mark.parametrize("mode", ["full", "sample"])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_content_is_named(name: str, mode: Mode) -> None:
    data, reason = FOREIGN[name]
    invalid = faults(data, mode)
    assert invalid.total == 1
    assert reason in invalid.faults[0].reason
    assert invalid.faults[0].line is None


GOOD_FILES = {
    "no newline at the end": (b'{"a": 1}\n{"b": 2}', 2),
    "CRLF": (b'{"a": 1}\r\n{"b": 2}\r\n', 2),
    "blank lines at the end": (b'{"a": 1}\n\n\n', 3),
    "empty objects": (b"{}\n{}\n", 2),
    "the same key twice": (b'{"a": 1, "a": 2}\n', 1),
    "spaces around": (b' {"a": 1} \n', 1),
    "deep": (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}\n", 1),
    "a word where tar has it": (b'{"a": "' + b"b" * 250 + b'ustar"}\n', 1),
    "words of other formats": (b'{"a": "PAR1 <html> [] NaN None // # \xef\xbb\xbf \x7f"}\n', 1),
    "numbers beyond 64 bits": (b'{"a": 123456789012345678901234567890}\n', 1),
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_what_json_allows_is_accepted(name: str) -> None:
    data, lines = GOOD_FILES[name]
    assert checked(data).lines == lines


def test_every_fault_up_to_a_limit_is_listed_in_order_and_all_are_counted() -> None:
    invalid = faults((GOOD + b"\n" + b"x\n") * 30)
    assert invalid.total == 60
    assert [fault.line for fault in invalid.faults] == [n for k in range(PROBLEM_LIMIT // 2) for n in (3 * k + 2, 3 * k + 3)]
    assert str(invalid) == "line 2: the line is blank; remove it (blank lines may only stand at the end) (and 59 more)"


def test_sampling_parses_both_ends_only_and_still_hashes_everything() -> None:
    half = GOOD * (2 * SAMPLE_SIZE // len(GOOD))
    broken_in_the_middle = half + b"broken\n" + half
    result = checked(broken_in_the_middle, "sample", read_size=64 * 1024)
    whole = (hashlib.sha256(broken_in_the_middle).hexdigest(), broken_in_the_middle.count(b"\n"))
    assert (result.sha256, result.lines) == whole
    assert faults(half + b"broken\n", "sample", read_size=64 * 1024).faults[0].line == half.count(b"\n") + 1
    assert faults(b"broken\n" + half, "sample", read_size=64 * 1024).faults[0].line == 1


def test_off_takes_anything_even_nothing() -> None:
    assert checked(b"\x1f\x8b\n\xff", "off").lines == 2
    assert checked(b"", "off") == Checked(hashlib.sha256().hexdigest(), 0, 0)


def test_exactly_the_given_size_is_read() -> None:
    with opened(GOOD + b"growing, and not yet wh") as file:
        result = check(file, len(GOOD), "full", idle)
    assert (result.bytes, result.sha256) == (len(GOOD), hashlib.sha256(GOOD).hexdigest())


def test_a_file_that_ends_early_has_changed() -> None:
    with opened(GOOD) as file, pytest.raises(SourceChanged):
        check(file, len(GOOD) + 1, "full", idle)


def test_a_beat_follows_each_piece() -> None:
    beats: list[None] = []
    checked(GOOD * 10, read_size=len(GOOD), beat=lambda: beats.append(None))
    assert len(beats) == 10


text = st.text(st.characters(codec="utf-8"), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=5,
)
objects = st.dictionaries(text, values, max_size=5)
read_sizes = st.integers(1, 200)
patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine


@patient
@given(
    st.lists(objects, min_size=1, max_size=20),
    read_sizes,
    st.sampled_from([0, 20, LARGE_LINE]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_list_of_objects_is_accepted_whatever_the_read_size(
    rows: list[dict[str, object]], read_size: int, large_line: int, ascii_only: bool, ends: bool, newline: str
) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    data = (newline.join(lines) + (newline if ends else "")).encode()
    result = checked(data, read_size=read_size, large_line=large_line)
    if large_line < read_size:  # as it never is in earnest: lines that repeat others are found by their bytes or digests
        result = replace(result, repeated=None)
    raw = data.split(b"\n")[: len(rows)]
    again = tuple(number for number, line in enumerate(raw, 1) if line in raw[: number - 1])
    repeated = RepeatedLines(len(again), len(rows), again) if again and large_line >= read_size else None
    digests = hashlib.sha256(data).hexdigest(), blake3(data).hexdigest()
    assert result == Checked(digests[0], len(data), len(rows), digests[1], repeated=repeated)


def test_lines_that_repeat_others_are_counted_and_the_first_of_them_named() -> None:
    lines = [b'{"n": %d}\n' % number for number in range(1, 31)]
    data = b"".join([*lines, lines[4], b'{"n": 99}\n', lines[4], *lines])
    for read_size in (7, READ_SIZE):
        found = checked(data, read_size=read_size).repeated
        assert found == RepeatedLines(32, 63, (31, 33, *range(34, 34 + NAMED - 2)))
    assert checked(data, "off").repeated is None
    assert checked(b"".join(lines)).repeated is None


def test_of_a_large_file_that_was_appended_to_itself_enough_is_compared_to_notice() -> None:
    lines = b"".join(b'{"number": %d, "text": "any"}\n' % number for number in range(REMEMBERED + 20_000))
    found = checked(lines + lines).repeated
    assert found is not None
    assert 1000 < found.count < found.compared - REMEMBERED
    assert all(number > REMEMBERED + 20_000 for number in found.first)
    assert checked(lines).repeated is None


def _cut_off(line: bytes, place: int) -> bytes:
    return line[: 1 + place % (len(line) - 1)]


def _bad_byte(line: bytes, place: int) -> bytes:
    cut = place % (len(line) + 1)
    return line[:cut] + b"\xff" + line[cut:]


def _nul(line: bytes, place: int) -> bytes:
    cut = place % (len(line) + 1)
    return line[:cut] + b"\0" + line[cut:]


def _two_in_one(line: bytes, place: int) -> bytes:
    return line + line


def _no_object(line: bytes, place: int) -> bytes:
    return b"[" + line + b"]"


def _blank(line: bytes, place: int) -> bytes:
    return b"\n" + line


@patient
@given(
    rows=st.lists(objects, min_size=1, max_size=12),
    corrupt=st.sampled_from([_cut_off, _bad_byte, _nul, _two_in_one, _no_object, _blank]),
    which=st.integers(0, 1000),
    place=st.integers(0, 1000),
    read_size=read_sizes,
    large_line=st.sampled_from([0, 20, LARGE_LINE]),
)
def test_any_single_corruption_is_found_in_its_line(
    rows: list[dict[str, object]],
    corrupt: Callable[[bytes, int], bytes],
    which: int,
    place: int,
    read_size: int,
    large_line: int,
) -> None:
    lines = [GOOD.rstrip(), *(json.dumps(row, ensure_ascii=False).encode() for row in rows)]  # the first is never foreign
    number = 1 + which % len(rows)
    lines[number] = corrupt(lines[number], place)
    invalid = faults(b"\n".join(lines) + b"\n", read_size=read_size, large_line=large_line)
    assert [fault.line for fault in invalid.faults] == [number + 1]
    assert invalid.total == 1
