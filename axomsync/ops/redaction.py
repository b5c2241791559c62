"""Removal of secrets from text that leaves the machine. Pure.

Two ways, one after the other: values that are known to be secrets, wherever they occur; and forms that secrets have:
signatures in URLs, users and passwords in URLs, URLs that are secrets themselves, bearer tokens, keys of well-known
services, private keys, values whose names say that they are secret (`secret_values`). Too much is removed rather than too
little; quotes and commas around a value stay, so that a configuration is read as before.

The text may be made by others, so each pattern takes time in proportion to it: no place is begun at inside of a word, no
repetition gives back what it has taken, and what was looked through for the end of a value is removed.
"""

import re
from collections.abc import Iterable, Iterator

from axomsync.core.signatures import without_queries
from axomsync.ops.secret_values import Span, attached_logins, secret_values

GONE = "[removed]"
OUR_FIELDS = frozenset({"key"})  # of objects in storage
SHORTEST_KNOWN = 4  # a shorter value would be found in the middle of ordinary words

_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kept)
    for pattern, kept in (
        (r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", GONE),
        (r"(?<=://)(?:[^\s/\"@]*+@)++", f"{GONE}@"),  # a password may have an "@"
        (r"\b(bearer|basic|digest)\s++[a-z0-9._~+/=-]{8,}+", rf"\1 {GONE}"),
        (r"\baxom_[a-z0-9]++_[a-z0-9_-]++", GONE),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", GONE),
        (r"(?<![\w-])(?:gh[pousr]|hf|sk|pk|rk|xox[abprs]|glpat|github_pat|dckr_pat|pypi)[-_][a-z0-9_-]{16,}+", GONE),
        (r"(?<![\w-])eyJ[\w-]++\.[\w-]++\.[\w-]*+", GONE),
    )
)
# With apostrophes, as in `core.signatures`.
_WORD = re.compile(r"(?:[^\s\"'<>]++|'(?![\s,;)\]}]|\Z))++")
# Who knows the path of such a URL may call it: webhooks, Telegram's bots, pings, topics.
_SECRET_PATH = re.compile(r"(?:hook|api\.telegram\.org|hc-ping\.com|ntfy\.sh)[^/]{0,200}+/", re.IGNORECASE)


def redacted(text: str, known: Iterable[str], *, foreign: bool = False) -> str:
    """Return `text` without secrets. `known` are secret values.

    `foreign`: others wrote all of it. Our own documents have a field `key` that is no secret; their other fields may hold
    words of others, such as a program's last line.
    """
    for secret in sorted({value for value in known if len(value) >= SHORTEST_KNOWN}, key=len, reverse=True):
        text = text.replace(secret, GONE)
    text = without_queries(text, GONE)  # each signer has its own names in them
    text = _WORD.sub(_without_secret_path, text)
    for pattern, kept in _FORMS:
        text = pattern.sub(kept, text)
    text = "".join(_without(secret_values(text, () if foreign else OUR_FIELDS), text))
    return "".join(_without(attached_logins(text), text))


def _without_secret_path(word: re.Match[str]) -> str:
    """Cut the path off a URL if it is a secret."""
    scheme = word[0].find("://")
    if scheme < 0:
        return word[0]
    url, sign, query = word[0].partition("?")
    path = _SECRET_PATH.search(url, scheme + 3)
    return (url if path is None or path.end() == len(url) else url[: path.end()] + GONE) + sign + query


def _without(spans: Iterable[Span], text: str) -> Iterator[str]:
    """Yield the text in pieces, with a remark in the place of each span."""
    done = 0
    for begin, end in spans:
        yield text[done:begin]
        yield GONE
        done = end
    yield text[done:]
