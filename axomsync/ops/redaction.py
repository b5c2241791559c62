"""Removal of secrets from text that leaves the machine. Pure.

Two ways, one after the other: values that are known to be secrets, wherever they occur; and forms that secrets have:
signatures in URLs, users and passwords in URLs, bearer tokens, keys of well-known services, private keys, values of
variables and options whose names say that they are secret. Too much is removed rather than too little.

The text may be made by others, so each pattern takes time in proportion to it: no place is begun at inside of a word, and no
repetition gives back what it has taken.
"""

import re
from collections.abc import Iterable, Iterator

GONE = "[removed]"
SHORTEST_KNOWN = 4  # a shorter value would be found in the middle of ordinary words
SECRET_NAMES = (
    "key", "token", "secret", "passwd", "password", "passphrase", "credential", "signature", "authorization", "cookie",
)  # fmt: skip

_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kept)
    for pattern, kept in (
        (r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", GONE),
        (r"(?<=://)[^\s/\"'@]*+@", f"{GONE}@"),
        (r"\b(bearer|basic|digest)\s++[a-z0-9._~+/=-]{8,}+", rf"\1 {GONE}"),
        (r"\baxom_[a-z0-9]++_[a-z0-9_-]++", GONE),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", GONE),
        (r"(?<![\w-])(?:gh[pousr]|hf|sk|pk|rk|xox[abprs]|glpat|github_pat|dckr_pat|pypi)[-_][a-z0-9_-]{16,}+", GONE),
        (r"(?<![\w-])eyJ[\w-]++\.[\w-]++\.[\w-]*+", GONE),
    )
)
_WORD = re.compile(r"[^\s\"'<>]++")
# What comes before a value: a name and a sign, or an option as a word of its own.
_BEFORE_VALUE = re.compile(r"(?<![\w.-])([\w.-]++)[\"']?\s*+[=:]\s*+[\"']?|(?<![\w-])(--[\w-]++)[\"',]*+\s++[\"']?")
_VALUE = re.compile(r"[^\s\"',;]++")


def redacted(text: str, known: Iterable[str], *, foreign: bool = False) -> str:
    """Return `text` without secrets. `known` are secret values.

    `foreign`: others wrote the text, so values go whose names sound secret. Our own documents have a `key` that is none.
    """
    for secret in sorted({value for value in known if len(value) >= SHORTEST_KNOWN}, key=len, reverse=True):
        text = text.replace(secret, GONE)
    text = _WORD.sub(_without_query, text)
    for pattern, kept in _FORMS:
        text = pattern.sub(kept, text)
    return "".join(_without_named(text)) if foreign else text


def _without_query(word: re.Match[str]) -> str:
    """Cut the query off a URL: each signer has its own names in it."""
    scheme = word[0].find("://")
    query = word[0].find("?", scheme) if scheme >= 0 else -1
    return word[0] if query < 0 else f"{word[0][:query]}?{GONE}"


def _without_named(text: str) -> Iterator[str]:
    """Yield the text in pieces, without the values of names that sound secret."""
    done = 0
    for before in _BEFORE_VALUE.finditer(text):
        name = (before[1] or before[2]).lower().removesuffix("s")
        if before.start() < done or not name.endswith(SECRET_NAMES):
            continue
        if (value := _VALUE.match(text, before.end())) is not None:
            yield text[done : before.end()]
            yield GONE
            done = value.end()
    yield text[done:]
