"""Words for a line that is no JSON object: the fault, and the fix. Pure.

A parser gives the place where it stopped and the sign that it expected; people want to know their mistake. So the text
around that place is examined: most broken JSONL comes from a few dozen habits of other languages, tools and copies.

Failures handled: an unknown message of the parser (it is shown as it is).
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum, auto

AROUND = 80  # characters before and after the place that are looked at
HOLE = 4  # this many NUL characters in a row are a hole in the file


class Want(Enum):
    """The sign that a parser expected where it stopped."""

    VALUE = auto()
    KEY = auto()
    COLON = auto()
    MORE = auto()  # a comma, or the end of the object or array
    NOTHING = auto()  # the line's value was whole
    NO_COMMA = auto()  # a comma stands before the end of an object or array
    TEXT = auto()  # a character that may stand in a string
    ESCAPE = auto()
    SURROGATE = auto()
    DIGIT = auto()
    NO_ZERO = auto()  # a number begins with 0
    FINITE = auto()
    LESS_DEPTH = auto()
    REST = auto()  # the line ended
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Break:
    """The place where a line stops being JSON, with the line's first characters and those before and after the place."""

    want: Want
    start: str
    before: str
    after: str
    in_string: bool = False  # a string is open
    ended: bool = True  # a line end follows
    said: str = ""  # message of the parser


@dataclass(frozen=True, slots=True)
class Words:
    """A fault in words, and its fix. `kind` is the group of similar faults; empty if `what` is the group."""

    what: str
    fix: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


_ONE_A_LINE = "write each object on one line (jq -c .)"
_PYTHON = "write the file with a JSON library (json.dumps in Python)"
_SAVE_UTF8 = "save it as UTF-8"

# Messages of orjson, by their beginnings.
_WANTED = (
    ("unexpected character, expected a JSON value", Want.VALUE),
    ("invalid literal", Want.VALUE),
    ("unexpected character, expected a string key", Want.KEY),
    ("unexpected character, expected ':'", Want.COLON),
    ("unexpected character, expected ','", Want.MORE),
    ("unexpected content after document", Want.NOTHING),
    ("trailing comma", Want.NO_COMMA),
    ("unexpected control character", Want.TEXT),
    ("invalid escaped", Want.ESCAPE),
    ("no low surrogate", Want.SURROGATE),
    ("invalid high surrogate", Want.SURROGATE),
    ("invalid low surrogate", Want.SURROGATE),
    ("no digit", Want.DIGIT),
    ("number with leading zero", Want.NO_ZERO),
    ("number is infinity", Want.FINITE),
    ("depth limit", Want.LESS_DEPTH),
    ("unexpected end of data", Want.REST),
    ("failed to allocate memory", Want.REST),  # orjson's message for hundreds of open brackets
    ("UTF-8 byte order mark", Want.VALUE),
)


def wanted(message: str) -> Want:
    """Map orjson's message to the sign that it expected."""
    return next((want for words, want in _WANTED if message.startswith(words)), Want.UNKNOWN)


def words_for(at: Break) -> Words:
    """Describe the fault of a line, and the fix."""
    if at.want is Want.REST:
        return _ends_early(at)
    looks = (_foreign_character, _in_text, _at_the_beginning, _second_value, _word)
    for look in (*looks, _number, _after_a_number, _key, _structure):
        if (words := look(at)) is not None:
            return words
    return Words(f"not valid JSON: {at.said or 'it stops being JSON here'}", _PYTHON, "not valid JSON")


def not_utf8(position: int, bytes_from: bytes) -> Words:
    """Describe bytes that are not UTF-8. `bytes_from` starts at the first, which is byte `position` (from 1) of its line."""
    what = f"byte {position} of the line (0x{bytes_from[0]:02x}) is not UTF-8"
    if re.match(rb"\xed[\xa0-\xbf][\x80-\xbf]", bytes_from):
        return Words(what, "it is half of a UTF-16 pair, as some Java programs write; " + _SAVE_UTF8, _NOT_UTF8)
    if bytes_from.startswith(b"\x8b\x08"):
        return Words(what, "gzip data was put after text; unpack it first (gunzip)", _NOT_UTF8)
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", bytes_from[:40]):
        return Words(what, "binary data begins there; write the file again, with nothing but text", _NOT_UTF8)
    if re.match(rb"[\x80-\xff](?:[\t\r -~]|$)", bytes_from):
        fix = "it looks like Latin-1 or Windows-1252; save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
        return Words(what, fix, _NOT_UTF8)
    return Words(what, _SAVE_UTF8, _NOT_UTF8)


_NOT_UTF8 = "a byte is not UTF-8"
CUT_IN_A_CHARACTER = Words("the last line was cut off within a character", "the file is not whole: copy or export it again")
BLANK_LINE = Words("the line is blank", "remove it (blank lines may only stand at the end)")
NOTHING_BUT_BLANK = Words("the file holds nothing but blank lines", "write it again, or remove it")
EMPTY = Words("the file is empty", "write it again, or remove it")


def too_long(limit: int, start: bytes) -> Words:
    """Describe a line of more than `limit` bytes that begins with `start`."""
    what = f"the line is longer than {limit // 1_000_000} MB"
    if re.search(rb"\}[ \t]*\r(?!\n)", start):
        return Words(what, _CR.fix + ": lines seem to end in CR alone")
    return Words(what, "split its object")


def not_an_object(value: object, start: str) -> Words:
    """Describe a line that is JSON but no object, and that begins with `start`."""
    if re.match(r'\s*"\s*\{\s*(\\"|\})', start):
        return Words("the object was encoded twice: it is a string", "decode the string once (jq -c fromjson)")
    names = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "true or false"}
    kind = names.get(type(value), "null")
    fix = 'give it a key, such as {"text": …}' if isinstance(value, str) else "write an object, {…}, on each line"
    return Words(f"a JSON object is needed, this is {kind}", fix)


_OPEN = "a string is not closed on its line"
_ARRAY_GOES_ON = "an array goes on in the next line"
_GOES_ON = "the object goes on in the next line"
_EARLY = "the line ends before the object does"
# Faults of these kinds get other words (`LAST_ENDS_EARLY`) if the line is the last of the file.
ENDS_EARLY = frozenset({_OPEN, _ARRAY_GOES_ON, _GOES_ON, _EARLY})
LAST_ENDS_EARLY = Words(
    "the last line ends before its object does",
    "copy or export the file again if more was in it, else write what is missing at the end",
)


def _ends_early(at: Break) -> Words:
    if not at.ended:
        where = " within a string" if at.in_string else ""
        return Words(f"the last line was cut off{where}", "the file is not whole: copy or export it again")
    if at.in_string:
        return Words(_OPEN, r"add the closing quote; write a line end within a string as \n")
    if at.start.lstrip().startswith("["):
        return Words(_ARRAY_GOES_ON, "write one object a line (jq -c '.[]')")
    if at.before.rstrip().endswith(("{", "[", ",", ":")):
        return Words(_GOES_ON, _ONE_A_LINE)
    return Words(_EARLY, "write the } or ] that is missing, or each object on one line (jq -c .) if it goes on in the next")


# Characters that are wrong everywhere

_CURLY = "“”„‟«»‘’‚‛"  # noqa: RUF001  # quotation marks of typography


def _foreign_character(at: Break) -> Words | None:
    first = at.after[:1]
    if re.match(r"(?:\0[\t\r -~]){2}|[\t\r -~]\0[\t\r -~]\0", at.after) or (first == "\0" and _is_wide(at)):
        return Words("UTF-16 text was put into the file", "write it again as UTF-8 (PowerShell: Add-Content -Encoding utf8)")
    if at.after.startswith("\0" * HOLE) or (first == "\0" and not at.after.strip("\0")):
        return Words("NUL bytes: a hole in the file, as an unfinished copy or a crash leaves it", "copy the file again")
    if first == "\ufeff":
        fix = "remove it, and begin a new line there" if at.before else r"remove it (sed 's/^\xef\xbb\xbf//')"
        return Words("a byte-order mark, as it stands where files were joined", fix)
    if first == "\x1b":
        return Words("a terminal's control sequence (ESC)", "write the file without colours (NO_COLOR=1)")
    if first == "\x1e":
        return Words("a record separator (RFC 7464)", r"remove it (tr -d '\036')")
    if at.want is Want.TEXT or not first:
        return None
    if first in _CURLY:
        return Words(f"typographic quotes ({first}) are not JSON", "write straight double quotes")
    if first in "\uff0c\uff1a\uff5b\uff5d":
        return Words(f"a full-width character ({first}) is not JSON", "write the ASCII one", "a full-width character")
    if first in "\x85\u2028\u2029" and at.want is Want.NOTHING:
        what = f"a line separator of Unicode (U+{ord(first):04X}) stands where a line ends"
        return Words(what, r"write a line end (\n) in its place", "a line separator of Unicode")
    if unicodedata.category(first) == "Cc" and first not in "\t\r":
        return Words(f"a control character (U+{ord(first):04X}) stands between values", "remove it", "a control character")
    if unicodedata.category(first) in ("Zs", "Cf", "Zl", "Zp") and first != " ":
        name = unicodedata.name(first, "no name")
        return Words(f"an invisible character (U+{ord(first):04X} {name})", "remove it", "an invisible character")
    return None


def _is_wide(at: Break) -> bool:
    """Check for UTF-16: every second character of the line is NUL."""
    return bool(re.match(r"(?:[\t\r -~]?\0[\t\r -~]?)+$", at.start[:16])) and bool(at.start[:16].strip("\0"))


def _in_text(at: Break) -> Words | None:
    if at.want is Want.TEXT and at.after:
        written = {"\t": r"\t", "\r": r"\r", "\b": r"\b", "\f": r"\f"}.get(at.after[0], f"\\u{ord(at.after[0]):04x}")
        name = {"\t": "a tab", "\r": "a carriage return"}.get(at.after[0], f"the control character U+{ord(at.after[0]):04X}")
        return Words(f"{name} stands in a string", f"write {written}", "a control character stands in a string")
    if at.want is Want.ESCAPE:
        escape = (re.match(r"\\.?", at.after) or [""])[0]
        kind = "no escape of JSON"
        if escape == r"\u":
            return Words(r"\u needs four hexadecimal digits", r"write such as \u00e9, or the character itself", kind)
        if escape in (r"\'", r"\`"):
            return Words(f"{escape} is {kind}", f"write {escape[1]} alone", kind)
        return Words(f"{escape} is {kind}", r"write \\ for a backslash", kind)
    if at.want is Want.SURROGATE:
        half = (re.match(r"\\u[0-9a-fA-F]{4}", at.after) or [r"\u"])[0]
        what = f"{half} is half of a surrogate pair and no character"
        return Words(what, "write the character itself, or leave it out", "half of a surrogate pair")
    return None


# Lines that do not begin as an object

_CONFLICT = re.compile(r"<{7}|={7}$|={7}\s|>{7}|\|{7}")
_SSE = re.compile(r"(data|event|id|retry):( |$|\{|\[)")
_YAML = re.compile(r"---\s*$|- |[\w-]+:( |$)")
# Messages of programs, in a file that also received their standard error: no data that a tool could convert.
_PROGRAM = re.compile(
    r"(?!.*\{)(?:(?:debug|info|notice|warn|warning|error|fatal|critical):"
    r"|[\w./-]+:(?: line \d+:)? .+: (?:command )?not found"
    r"|(?:ba|z|da)?sh: |[^|]*\d+%\|)",
    re.IGNORECASE,
)
_STRANGERS = (
    (re.compile("```|~~~"), Words("a fence of Markdown", "remove the line")),
    (re.compile(r"HTTP/\d"), Words("headers of an HTTP answer", "save the body alone (curl without -i)")),
    (re.compile(r"(?:---|\+\+\+) \S|@@ -|diff --git "), Words("a diff", "apply it to its file (patch), and drop that")),
    (re.compile(r"[-+]*-{4,}[-+]*$|\+(?:-+\+)+$|\|.*\||\(\d+ rows?\)$"), Words("a table for people", "export it as JSONL")),
    (re.compile(r"outs:$"), Words("a DVC pointer", "fetch the file it stands for (dvc pull)")),
    (re.compile(r"(?:\.\./)*\.git/annex/"), Words("a git-annex pointer", "fetch the file it stands for (git annex get)")),
    (re.compile(r"\)\]\}'"), Words("a guard against scripts, as some servers send it", "remove the line")),
    (re.compile(r"\{\\rtf"), Words("rich text (RTF)", "save it as plain text")),
    (_PROGRAM, Words("what a program said, and no data", "remove the line, and keep standard error elsewhere (2>log)")),
)  # fmt: skip


def _at_the_beginning(at: Break) -> Words | None:
    start = at.start.lstrip(" \t\r")
    if (words := next((words for sign, words in _STRANGERS if sign.match(start)), None)) is not None:
        return words
    if start.startswith("{"):
        return None
    if _CONFLICT.match(start):
        return Words("a merge conflict of git was left in the file", "resolve it")
    if _SSE.match(start):
        return Words("an event stream: `data:` stands before the object", "take it away (sed -n 's/^data: *//p')")
    if start.startswith(("//", "/*", "#")):
        return _COMMENT
    if re.match(r'"[^"]*"\s*:', start) or start.startswith(("}", "]")):
        return Words("the line holds only a part of an object or array", _ONE_A_LINE)
    if start.startswith("Traceback "):
        return Words("a traceback of Python", "see why the program failed, and write the file again")
    if start.startswith("["):
        return None if at.want is not Want.NOTHING else Words("more follows on the line", "write one object a line")
    if (text := re.match(r"[^{]{1,40}(?=\{)", start)) is not None:
        what = f"{text[0].rstrip()!r} stands before the object"
        return Words(what, "a line holds the object and nothing else", "something stands before the object")
    if _YAML.match(start):
        return Words("the line looks like YAML or a program's log", "write only the data, each object on one line")
    if at.want is Want.VALUE and _is_prose(start):
        return Words("the line is a text and no object", "write an object, {…}, on each line")
    return None


def _is_prose(start: str) -> bool:
    word = re.match(r"[^\W\d_]+", start)
    if word is None:
        return False
    is_value = word[0].lower() in (*_NULLS, *_TRUTHS, "infinity", "inf")
    return not is_value or start.strip() != word[0]


# Between and after values

_COMMENT = Words("a comment is not JSON", "remove it")
_CR = Words("lines end in CR alone, as old Macs wrote them", r"end them with LF (tr '\r' '\n')")


def _second_value(at: Break) -> Words | None:
    if at.after.startswith(("//", "/*", "#")):
        return _COMMENT
    if at.want is not Want.NOTHING:
        return None
    if re.search(r"\r[ \t]*$", at.before) and at.after.lstrip("\r"):
        return _CR
    if at.after.startswith("{"):
        return Words("a second object begins on the line", _ONE_A_LINE)
    if at.after.startswith(","):
        return Words("a comma follows the object, as in an array", "end each line with the object's } (sed 's/,$//')")
    if at.after.startswith("]"):
        return Words("the end of an array follows the object", "write one object a line (jq -c '.[]')")
    if at.after.startswith("}"):
        return Words("there is a } too many", "remove it")
    if at.after.startswith(";"):
        return Words("a semicolon follows the object", "remove it")
    return Words("more follows the object on its line", "a line holds the object and nothing else")


# Values and keys of other languages

_NULLS = {"nan": "NaN", "none": "None", "null": "null", "nil": "nil", "undefined": "undefined", "nat": "NaT", "na": "NA"}
_TRUTHS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def _word(at: Break) -> Words | None:
    if at.want in (Want.VALUE, Want.KEY):
        if at.after.startswith(("'", "`")):
            return Words("single quotes are not JSON", f'write "…", or {_PYTHON}')
        if at.after.startswith('\\"'):
            return Words(
                "backslashes stand before the quotes of the object", "decode each line (sed 's/.*/\"&\"/' | jq -c fromjson)"
            )
        if at.after.startswith("(") or re.match(r"<[\w.]", at.after) or re.match(r"[bruf]{1,2}['\"]", at.after):
            return Words("a value of Python is not JSON", _PYTHON)
    match = re.match(r"[+-]?([A-Za-z_$][\w$]*)(\.\w|\()?", at.after)
    if match is None:
        return None
    name, more = match[1][:40], match[2]
    if at.want is Want.KEY:
        return Words(f"the key {name} has no quotes", f'write "{name}"', "a key has no quotes")
    if at.want not in (Want.VALUE, Want.DIGIT):
        return None
    if name.lower() in ("infinity", "inf"):
        return Words("Infinity is not JSON", "write null, or a number")
    if more is None and name.lower() in _NULLS:
        return Words(f"{name} is not JSON", "write null")
    if more is None and name.lower() in _TRUTHS:
        return Words(f"{name} is not JSON", f"write {_TRUTHS[name.lower()]}")
    if more is not None:
        return Words(f"{name} is a value of a program, and not JSON", _PYTHON, "a value of a program is not JSON")
    return Words(f"the text {name} has no quotes", "put it in double quotes", "a text has no quotes")


def _number(at: Break) -> Words | None:
    if at.want is Want.NO_ZERO:
        return Words("a number begins with 0", "write it without, or as a text in double quotes")
    if at.want is Want.FINITE:
        return Words("a number is too large (beyond 1.8e308)", "write it as a text in double quotes")
    if at.want is Want.LESS_DEPTH:
        return Words("objects and arrays are nested more than 1024 deep", "flatten them")
    if at.want is Want.DIGIT and at.after.startswith("+"):
        return Words("a number begins with +", "write it without")
    if at.want is Want.DIGIT and re.match(r"\.\d", at.after):
        return Words("a number begins with a point", "write 0 before it")
    if at.want is Want.DIGIT and at.before.endswith("."):
        return Words("a number ends with a point", "write 0 after it")
    return None


def _after_a_number(at: Break) -> Words | None:
    if at.want is not Want.MORE or not re.search(r"\d$", at.before):
        return None
    if re.search(r"(?<!\w)0$", at.before) and re.match(r"[xXoObB]\w", at.after):
        return Words("a hexadecimal, octal or binary number is not JSON", "write it in decimal")
    if re.match(r"_\d", at.after):
        return Words("digits are grouped by _", "write the digits alone")
    if (re.search(r"\d{4}$", at.before) and re.match(r"[-/.]?\d|-", at.after)) or re.match(r":\d", at.after):
        return Words("a date or a time has no quotes", "put it in double quotes")
    if at.after.startswith("'"):
        return Words("digits are grouped by '", "write the digits alone")
    if re.match(r"[nLlfFdD]\s*[,}\]]", at.after):
        return Words(f"a number ends with {at.after[0]}", "write the digits alone", "a number ends with a letter")
    if re.match(r"[%\w€$]", at.after):
        return Words("something follows a number", "write the digits alone, or a text in double quotes")
    return None


def _key(at: Break) -> Words | None:
    if at.want is Want.KEY and re.match(r"\d+\s*[,}]", at.after):
        if re.search(r"\d,$", at.before):
            return Words("a comma stands within a number, or a key is missing", "write a decimal point, or the key")
        return Words("values stand in { } without keys", "write [ ] around them, as for an array")
    if at.want is Want.KEY and re.match(r"-?\d", at.after):
        return Words("a key is a number", "put it in double quotes")
    if at.want is Want.COLON and at.after.startswith("="):
        return Words("= or => stands between a key and its value", "write a colon")
    if at.want is Want.COLON:
        return Words("a colon is missing after a key", "write it")
    return None


def _structure(at: Break) -> Words | None:
    if at.want is Want.NO_COMMA or (at.want is Want.KEY and at.after.startswith("}")):
        return Words("a comma stands before the end of an object or array", "remove it")
    if at.after.startswith(("...", "…")):
        return Words("a text was shortened to ...", "write it whole")
    if at.want in (Want.KEY, Want.VALUE) and at.after[:1] in (",", "}", "]", ":"):
        return Words(
            f"a {'key' if at.want is Want.KEY else 'value'} is missing before {at.after[0]}",
            "write it",
            "a value is missing",
        )
    if at.want is not Want.MORE:
        return None
    if at.after.startswith(";"):
        return Words("a semicolon stands between two values", "write a comma")
    if at.before.endswith('""') and at.after.startswith('"'):
        return Words("three quotes are not JSON", 'write one "', "three quotes are not JSON")
    closing = at.after[:1]
    if closing in ("}", "]"):
        return Words(f"a {'}' if closing == ']' else ']'} is missing before {closing}", "write it", "a bracket is missing")
    if re.search(r"\d$", at.before) and re.match(r"[^\s\"{\[]", at.after):
        what = f"a number goes on with {at.after[0]!r}"
        return Words(what, "put it in double quotes, or write the number alone", "a number goes on as none")
    if at.before.rstrip().endswith('"') and not at.after.startswith('"'):
        return Words("a quote inside of a string is not escaped", r"write \" for it")
    return Words("a comma is missing between two values", "write it") if re.match(r'["\w\[{-]', at.after) else None
