"""Signatures of URLs in text that others wrote, in whatever form they repeat them. Pure.

A far side may repeat a URL as it was sent, decoded, escaped for XML, JSON or another URL, or in part. So both go: each value
of the URL's own query, whatever stands for its signs; and what stands where a URL has its query.

The text may be made by others, so it takes time in proportion to it: no repetition gives back what it has taken.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "…"
SHORTEST_SECRET = 16  # characters; shorter values are dates, names of algorithms and words of messages

_WORD = re.compile(r"\S++")
# An apostrophe may stand in a URL as it is; one ends it where a list, a bracket or a sentence goes on after it.
_END_OF_QUERY = re.compile(r"[\"<>]|'(?=[,;)\]}]|\Z)|\Z")
_NAMED = re.compile(
    r"(?<![\w-])((?:x-[a-z]{3,4}-)?(?:signature|credential|security-token)|sig)(=|%(?:25)*3D)[^&\s\"'<>]++",
    re.IGNORECASE,
)


def without_queries(text: str, hidden: str = HIDDEN) -> str:
    """Return `text` without the queries of URLs, and without signatures that follow their names."""
    text = _WORD.sub(lambda word: _without_queries(word[0], hidden), text)
    return _NAMED.sub(lambda found: f"{found[1]}{found[2]}{hidden}", text)


def _without_queries(word: str, hidden: str) -> str:
    kept, done = [], 0
    while (scheme := word.find("://", done)) >= 0 and (query := word.find("?", scheme)) >= 0:
        kept += [word[done : query + 1], hidden]
        end = _END_OF_QUERY.search(word, query)
        done = len(word) if end is None else end.start()
    return "".join([*kept, word[done:]])


def without_signature(text: str, url: str) -> str:
    """Return `text` without what the query of `url` holds, and without the queries of other URLs."""
    if not text:  # most answers hold no words, and the patterns cost more than all else that is done with an answer
        return text
    for pattern in _patterns(url):
        text = pattern.sub(lambda found: "".join(found.groups()) + HIDDEN, text)
    return without_queries(text)


def repeats_signature(text: str, url: str) -> bool:
    """Check whether `text` holds a secret of `url`, or is a part of `url`."""
    return _plain(text) in _plain(url) or without_signature(text, url) != text


def _plain(text: str) -> str:
    for _ in range(3):  # of a URL within a URL
        text = unquote(text)
    return text.lower()


@lru_cache(maxsize=16)  # the answers of one second are to the same URLs
def _patterns(url: str) -> tuple[re.Pattern[str], ...]:
    """Patterns of the secrets in a URL: its long values, and whatever follows the names in its query."""
    try:
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return ()
    names = sorted({re.escape(name) for name, _ in query if name}, key=len, reverse=True)
    named = rf"(?<![\w-])({'|'.join(names)})(=|%(?:25)*3D)[^&\s\"'<>]++"
    secrets = sorted({value for _, value in query if len(value) >= SHORTEST_SECRET}, key=len, reverse=True)
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in (*map(_any_form, secrets), *([named] if names else [])))


def _any_form(secret: str) -> str:
    return "".join(map(_any_form_of_sign, secret))


def _any_form_of_sign(sign: str) -> str:
    if sign.isascii() and sign.isalnum():
        return sign
    signs = " +" if sign in " +" else sign  # in a query each may stand for the other
    return f"(?:{'|'.join(form for each in signs for form in _forms(each))})"


def _forms(sign: str) -> Iterator[str]:
    yield rf"\\?{re.escape(sign)}"
    yield rf"\\u{ord(sign):04x}"
    yield rf"&(?:amp;)?\#(?:0*{ord(sign)}|x0*{ord(sign):x});"
    yield "".join(f"%(?:25)*{byte:02x}" for byte in sign.encode("utf-8", "replace"))
    if sign == "&":
        yield "&amp;"
