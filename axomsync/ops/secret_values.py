"""Where the values are, in text of others, of names that sound secret: variables, keys, headers, options. Pure.

A value goes to the end of its quotes, of the string that name and value share, of its list, of its block, of its line or of
its word: whichever its form says, and in doubt the longer one. Its quotes, and commas and brackets after it, are no part
of it.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache

SECRET_NAMES = (  # ends of a part of a name: `DB_PASS`, `webhook_secret_v2`
    "key", "token", "secret", "pass", "passwd", "password", "passphrase", "pwd", "credential", "signature", "authorization",
    "cookie", "webhook",
)  # fmt: skip
SECRET_PARTS = frozenset({"auth", "pw", "sig"})
ABOUT_A_SECRET = frozenset({"file", "path", "folder", "dir", "name", "estimate"})  # last parts: `token_file` names a file
HEADERS = ("authorization", "cookie")  # their values have blanks, commas, semicolons and quotes
SPOKEN = ("password", "passphrase")  # after a colon, these may be several words
LOGINS = frozenset({"-u", "-U", "--user", "--proxy-user"})  # options whose value may be `user:password`
LONGEST_GROUP = 10_000  # characters of a list or table
MOST_BACKSLASHES = 8  # before a quote, in text that is quoted several times
FARTHEST_INDENT = 200

# A name and a sign; or an option that is a word of its own, or an item of a list.
_BEFORE_VALUE = re.compile(
    r"""(?<![\w.-])(?P<name>[\w.-]++)(?P<closed>\\*+["']?+)\s*+(?P<sign>=>|[=:])\s*+"""
    r"""|(?<![\w.-])(?P<option>--?\w[\w.-]*+)(?P<shut>\\*+["']?+)(?:\s*+,\s*+|\s++(?:-\s++)?+)"""
)
_ATTACHED_LOGIN = re.compile(r"""(?<![\w.-])-u(?P<value>[^\s"':=-][^\s"':]*+:[^\s"']++)""")
_PASSWORDS = tuple(  # after `-p` of a program
    re.compile(rf"""{program}[^\n;&|]{{0,200}}?[ \t"']-p{between}(?P<value>[^\s"',\])]++)""")
    for program, between in (("(?:mysql|mariadb)", ""), ("sshpass", """["', \t]*+"""))
)
_OPENER = re.compile(r"""\\{0,8}(?:\"{3}|'{3}|["'])""")
_ENCLOSING = re.compile(r"""\\{0,8}["']\Z""")
_BEGINS_A_LINE = re.compile(r"""\n[ \t]*+(?:- |export )?+["']?\Z""")
_BRACKETS = re.compile(r"""[\[\]{}]|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'""")
_BEGINS_A_BLOCK = re.compile(r"[|>][-+0-9]*+[ \t]*+(?:#[^\n]*+)?(?=\n)")  # of YAML
_BLANKS = re.compile(r" {0,200}+")
_APART = "\"'\\,;)]}"  # not of a value that goes on without a blank

Span = tuple[int, int]


def secret_values(text: str, harmless: Collection[str] = ()) -> Iterator[Span]:
    """Yield the beginning and the end of each value, in order; `harmless` are names of fields of JSON without a secret."""
    done, strings = 0, _Strings(text)
    for before in _BEFORE_VALUE.finditer(text):
        name = before["name"] or before["option"]
        if before.start() < done or not (name in LOGINS or sounds_secret(name)):
            continue
        if name in harmless and before["closed"] == '"':
            continue
        begin, end = _value(text, before, name, in_string=strings.is_open_at(before.start()))
        if begin < end and (name not in LOGINS or ":" in text[begin:end]):
            yield begin, end
            done = end


def attached_logins(text: str) -> Iterator[Span]:
    """Yield the place of each `user:password` after `-u` without a blank, and each password after `-p` of some programs."""
    places = [found.span("value") for form in (_ATTACHED_LOGIN, *_PASSWORDS) for found in form.finditer(text)]
    done = 0
    for begin, end in sorted(places):
        if begin >= done:
            yield begin, end
            done = end


def sounds_secret(name: str) -> bool:
    """Check whether a part of the name says that the value is a secret, and not where one is kept."""
    parts = [part.rstrip("0123456789").removesuffix("s") for part in re.split(r"[._-]++", name.lower())]
    if parts[-1] in ABOUT_A_SECRET:
        return False
    return any(part in SECRET_PARTS or f"{part}s".endswith("pass") or part.endswith(SECRET_NAMES) for part in parts)


class _Strings:
    """Tells, for one place after the other, whether it lies inside of double quotes that began in its line."""

    def __init__(self, text: str) -> None:
        self._text, self._seen, self._open = text, 0, False

    def is_open_at(self, place: int) -> bool:
        line = self._text.rfind("\n", self._seen, place)
        if line >= 0:
            self._seen, self._open = line, False
        quotes = self._text.count('"', self._seen, place) - self._text.count('\\"', self._seen, place)
        self._seen, self._open = place, self._open != bool(quotes % 2)
        return self._open


def _value(text: str, before: re.Match[str], name: str, *, in_string: bool) -> Span:
    at, start = before.end(), before.start()
    has_block = _BEGINS_A_BLOCK.match(text, at) or "\n" in text[before.end("sign") : at]
    if before["sign"] == ":" and has_block and _begins_its_line(text, start) and (end := _end_of_block(text, start)) > at:
        return at, end
    is_quoted_name = bool(before["closed"] or before["shut"])
    around = None if is_quoted_name else _ENCLOSING.search(text, max(0, start - MOST_BACKSLASHES - 1), start)
    string = around[0] if around else '"' if in_string and not is_quoted_name else ""  # that name and value share
    opener = _OPENER.match(text, at)
    if opener is not None and opener[0] == string and _end_of_word(text, opener.end(), _APART) == opener.end():
        return at, at  # the string ends where the value would begin
    if opener is not None:
        return _quoted(text, opener, in_string=bool(string))
    if text.startswith(("[", "{"), at) and not string:
        return at, _end_of_group(text, at)
    if around is not None or _is_long(text, before, name.lower()):
        end = _end_of_string(text, at, string)
        return at, at + len(text[at:end].rstrip(", \t\r"))
    end = _end_of_word(text, at, '"' if in_string else "")
    return at, at + len(text[at:end].rstrip(_APART))


def _is_long(text: str, before: re.Match[str], name: str) -> bool:
    """Whether a value without quotes may be more than a word."""
    if before["sign"] is None:
        return False
    spoken = before["sign"] == ":" and name.removesuffix("s").endswith(SPOKEN)
    return spoken or name.removesuffix("s").endswith(HEADERS) or _begins_its_line(text, before.start())


def _begins_its_line(text: str, start: int) -> bool:
    return _BEGINS_A_LINE.search("\n" + text[max(0, start - FARTHEST_INDENT) : start]) is not None


def _quoted(text: str, opener: re.Match[str], *, in_string: bool) -> Span:
    """The value after an opening quote, with what follows its closing quote without a blank, as in `'it''s'`."""
    begin, quote = opener.end(), opener[0]
    if quote.endswith(('"""', "'''")) and (end := text.find(quote, begin)) >= 0:
        return begin, end
    end = _end_of_string(text, begin, quote)
    while text.startswith(quote, end):
        after = end + len(quote)
        if quote == "'" and text.startswith("\\''", after):  # a shell's apostrophe
            end = _end_of_string(text, after + 3, quote)
            continue
        goes_on = _end_of_word(text, after, _APART)
        following = (
            _OPENER.match(text, goes_on) if goes_on > after or not in_string or text.startswith(quote, after) else None
        )
        if following is None:
            return begin, end if goes_on == after else goes_on
        quote, end = following[0], _end_of_string(text, following.end(), following[0])
    return begin, end


def _end_of_block(text: str, start: int) -> int:
    """End of the lines that belong to the one of this name: those further in, and items of a list as far in as it is."""
    indent = len(_indent(text, text.rfind("\n", max(0, start - FARTHEST_INDENT), start) + 1))
    end = _end_of_line(text, start)
    while end < len(text):
        here = _indent(text, end + 1)
        begins = end + 1 + len(here)
        is_item = len(here) == indent and text.startswith("- ", begins)
        if len(here) <= indent and not is_item and not text.startswith("\n", begins):
            break
        end = _end_of_line(text, end + 1)
    return end


def _indent(text: str, line: int) -> str:
    blanks = _BLANKS.match(text, line)
    return "" if blanks is None else blanks[0]


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _end_of_group(text: str, at: int) -> int:
    """End of a list or table; of one without end, the end of what was looked through."""
    depth, limit = 0, min(len(text), at + LONGEST_GROUP)
    for found in _BRACKETS.finditer(text, at, limit):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return _end_of_word(text, found.end(), _APART)
    return limit


def _end_of_string(text: str, at: int, quote: str) -> int:
    """Place of the closing quote, or of the line's end; without a `quote`, the line's end."""
    end = _closing(quote.count("\\"), quote[-1:]).search(text, at)
    return len(text) if end is None else end.start()


@cache
def _closing(backslashes: int, quote: str) -> re.Pattern[str]:
    return re.compile(rf"\n|(?<!\\)\\{{0,{backslashes}}}{quote}" if quote else r"\n")


def _end_of_word(text: str, at: int, ends: str) -> int:
    word = _word(ends).match(text, at)
    return at if word is None else word.end()


@cache
def _word(ends: str) -> re.Pattern[str]:
    return re.compile(rf"[^\s{re.escape(ends)}]++")
