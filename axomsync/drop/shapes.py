"""The shape of a dataset, from its lines as they are parsed: counts, and what a trainer would stumble over. Pure.

A window of lines is looked at as a whole, by few calls over lists that say only "nothing is odd here". Where they can't say
so, parts of the window are looked at likewise, and in the end single lines. Both ways count the same (a test compares them).

Failures handled: lines of any content and in any mixture (findings are counted, and the first kept), keys without end (only
so many are told), lines too long to be held (counted, and told).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from itertools import chain, islice, repeat
from operator import add
from typing import Any, TypeVar, cast

from axomsync.core.records import CHARACTERS_A_TOKEN, Shape, ShapeFinding
from axomsync.drop.columns import column_of
from axomsync.drop.forms import (
    INPUT_KEYS,
    MARKERS,
    MESSAGE_KEYS,
    Finding,
    Form,
    Line,
    are_in_order,
    findings_of,
    findings_of_keys,
    form_of,
    length_of,
    other_form,
    unknown_form,
    unwanted,
    weigh,
)

T = TypeVar("T")

KEPT = 20  # findings
EXTRA_KEYS = 20  # that are told
PARTS = 8  # of a window in which something is odd
FEW = 8  # lines, for which looking at the whole does not pay
REMEMBERED = 1000  # sequences of roles
LONGEST_REMEMBERED = 100  # roles


class Shapes:
    """Takes lines in, in their order. `wanted` is the one kind that the dataset may have, if there is one."""

    def __init__(self, wanted: str | None = None) -> None:
        self.wanted = wanted
        self.faults: list[ShapeFinding] = []  # the first of those that are more than a remark
        self.counts: Counter[str] = Counter()  # of all of these, by their sort
        self._long: list[ShapeFinding] = []  # the first lines that were too long
        self._long_total = 0
        self._form: Form | None = None  # of the first line that has a known one
        self._known = {"input": INPUT_KEYS, "message": MESSAGE_KEYS}  # keys that call for no look, by where they are
        self._extra: dict[tuple[str, str], ShapeFinding] = {}  # keys that were told, by where they are and their names
        # Sequences of roles without a finding, by whether one is to be learnt from.
        self._good_roles: dict[bool, set[tuple[str, ...]]] = {False: set(), True: set()}
        self._examples = self._formless = self._mixed = 0
        self._turns = self._characters = self._longest = 0

    def take_window(self, lines: Sequence[dict[str, Any]], window: bytes, number: int) -> None:
        """Take in parsed lines that follow one another; `window` is their bytes, `number` that of the first."""
        if not self._took_whole(lines):
            self._take_parts(lines, window[:-1].split(b"\n"), number)

    def take(self, value: Line, line: bytes, number: int) -> None:
        """Take in one line: its value, its bytes, its number."""
        form = form_of(value)
        self._examples += 1
        if self.wanted is not None and self._examples == 1 and (form is None or form.kind != self.wanted):
            self._add(unwanted(form, self.wanted), line, number)
        if form is None:
            self._take_formless(value, line, number)
            return
        if self._form is None:
            self._form, self._mixed = form, self._formless
            self._known["line"] = form.keys
        elif form is not self._form:
            self._mixed += 1
            self._add(other_form(form, self._form), line, number)
        for finding in findings_of(value, form):
            self._add(finding, line, number)
        self._weigh(*weigh(value, form))

    def take_long(self, length: int, number: int) -> None:
        """Take in a line that is not held, of so many bytes; `number` is its number."""
        self._examples += 1
        what = f"the line has {length} bytes, and its shape was not looked at"
        self._long_total += 1
        if len(self._long) < KEPT:
            self._long.append(ShapeFinding(number, 1, f"{what}; make examples of it that a trainer can take"))

    def begun(self) -> "Shapes | None":
        """Return what takes in lines further on, perhaps in another process, until it is joined.

        None as long as no line of a known form has come: what is odd about later lines depends on it.
        """
        if self._form is None:
            return None
        later = Shapes()
        later._form, later._known, later._extra = self._form, dict(self._known), dict(self._extra)
        return later

    @property
    def has_form(self) -> bool:
        """A line of a known form has come."""
        return self._form is not None

    def guessed(self) -> "Shapes | None":
        """Return the same as `begun` for a file in which lines have come, and none of a known form.

        It may be joined unless it `has_form` in the end: then the guess that no such line comes was wrong.
        """
        if self._form is not None or not self._formless:
            return None
        later = Shapes()
        later._formless = 1
        return later

    def join(self, later: "Shapes", before: int) -> None:
        """Add what was found in lines that follow `before` others, and whose own numbers begin with 1."""
        self.faults += [replace(each, line=each.line + before) for each in later.faults[: KEPT - len(self.faults)]]
        self.counts += later.counts
        self._long += [replace(each, line=each.line + before) for each in later._long[: KEPT - len(self._long)]]
        self._long_total += later._long_total
        for extra, finding in later._extra.items():
            if self._is_news(extra):
                self._remember(extra, replace(finding, line=finding.line + before))
        self._examples += later._examples
        self._mixed += later._mixed
        self._turns += later._turns
        self._characters += later._characters
        self._longest = max(self._longest, later._longest)

    def become(self, other: "Shapes") -> None:
        """Take over everything that the other has found."""
        self.__dict__.update(other.__dict__)

    def report(self) -> Shape:
        """Return what was found so far."""
        kind = self._form.kind if self._form is not None else "other" if self._formless else None
        findings = sorted(
            [*self._long, *self._extra.values(), *self.faults], key=lambda finding: (finding.line, finding.column)
        )
        return Shape(
            kind,
            self._examples,
            self._turns,
            self._longest,
            self._characters,
            self._mixed,
            tuple(findings[:KEPT]),
            self._long_total + len(self._extra) + self.counts.total(),
        )

    def _took_whole(self, lines: Sequence[dict[str, Any]]) -> bool:
        """Count these lines if nothing is odd about any of them, or the same about all; else do nothing and return False."""
        try:
            keys: set[str] = set().union(*lines)
            faults = self._faults_of_keys(lines, keys)
            turns, lengths = self._sizes(lines, keys) if self._form is not None else self._sizes_of_formless(lines, keys)
        except (_Odd, KeyError, TypeError):
            return False
        for fault in faults:
            self.counts[fault.sort] += len(lines)
        self._examples += len(lines)
        self._turns += turns
        self._characters += sum(lengths)
        self._longest = max(self._longest, max(lengths))
        return True

    def _sizes_of_formless(self, lines: Sequence[dict[str, Any]], keys: set[str]) -> tuple[int, list[int]]:
        if not self._formless or not MARKERS.isdisjoint(keys):
            raise _Odd
        self._formless += len(lines)
        return 0, [0]

    def _faults_of_keys(self, lines: Sequence[dict[str, Any]], keys: set[str]) -> list[Finding]:
        """Return what the keys of each of these lines lack. Raises where that is not the same for all, or is to be told."""
        if self._form is None or (keys.issuperset(self._form.needed) and self._are_known(keys, "line")):
            return []
        if len(set(map(tuple, lines))) > 1 or form_of(lines[0]) is not self._form:
            raise _Odd
        findings = findings_of_keys(lines[0])
        if any(each.extra is not None and self._is_news(each.extra) for each in findings):
            raise _Odd
        faults = [each for each in findings if each.extra is None]
        if faults and len(self.faults) < KEPT:
            raise _Odd
        return faults

    def _sizes(self, lines: Sequence[dict[str, Any]], keys: set[str]) -> tuple[int, list[int]]:
        """Return the turns of these lines, and the characters of each. Raises where something may be odd."""
        form = self._form
        if form is None:
            raise _Odd
        present = [key for key in form.needed if key in keys]
        parts = [([line[key] for line in lines], key != "prompt") for key in present]
        if form.kind == "preference" and "prompt" in keys:
            parts.append(([line["prompt"] for line in lines], False))
        if present[0] == "input":
            inputs = parts[0][0]
            self._demand_known(set().union(*inputs), "input")
            parts[0] = ([each["messages"] for each in inputs], False)
        if not form.lists:
            return 0, _added([_lengths(texts) for texts, _ in parts])
        sizes = [self._sizes_of_lists(lists, learnt=learnt) for lists, learnt in parts]
        return sum(turns for turns, _ in sizes), _added([lengths for _, lengths in sizes])

    def _sizes_of_lists(self, lists: list[list[dict[str, Any]]], *, learnt: bool) -> tuple[int, list[int]]:
        """Likewise for one list of messages of each line. What is no list of objects raises a `TypeError` on the way."""
        messages = list(chain.from_iterable(lists))
        counts = list(map(len, lists))
        self._demand_in_order(set(_grouped([message["role"] for message in messages], counts)), learnt=learnt)
        lengths = _lengths_of_contents(messages)
        keys: set[str] = set().union(*messages)
        self._demand_known(keys, "message")
        if "weight" in keys:
            weights = [message.get("weight") for message in messages]
            if not {int, type(None)}.issuperset(map(type, weights)) or not {0, 1, None}.issuperset(weights):
                raise _Odd
        return len(messages), list(map(sum, _grouped(lengths, counts)))

    def _are_known(self, keys: set[str], where: str) -> bool:
        """Return whether these keys call for no look: they are expected, or were told, or too many were told."""
        unknown = keys - self._known[where]
        return not unknown or (len(self._extra) >= EXTRA_KEYS and (where != "line" or unknown.isdisjoint(MARKERS)))

    def _demand_known(self, keys: set[str], where: str) -> None:
        if not self._are_known(keys, where):
            raise _Odd

    def _is_news(self, extra: tuple[str, str]) -> bool:
        return extra not in self._extra and len(self._extra) < EXTRA_KEYS

    def _demand_in_order(self, sequences: set[tuple[str, ...]], *, learnt: bool) -> None:
        """Raise unless these sequences of roles are without a finding."""
        known = self._good_roles[learnt]
        for roles in sequences - known:
            if not are_in_order(roles, learnt=learnt):
                raise _Odd
            if len(known) < REMEMBERED and len(roles) <= LONGEST_REMEMBERED:
                known.add(roles)

    def _take_parts(self, values: Sequence[dict[str, Any]], lines: Sequence[bytes], number: int) -> None:
        """Take in a window in which something is odd, part by part."""
        length = len(values) // PARTS
        if length < FEW:
            for offset, value in enumerate(values):
                self.take(value, lines[offset], number + offset)
            return
        for start in range(0, len(values), length):
            part = values[start : start + length]
            if not self._took_whole(part):
                self._take_parts(part, lines[start : start + length], number + start)

    def _take_formless(self, value: Line, line: bytes, number: int) -> None:
        self._formless += 1
        if self._form is not None:
            self._mixed += 1
            self._add(other_form(None, self._form), line, number)
        elif self._formless == 1:
            self._add(unknown_form(value), line, number)

    def _weigh(self, turns: int, characters: int) -> None:
        self._turns += turns
        self._characters += characters
        self._longest = max(self._longest, characters)

    def _add(self, finding: Finding, line: bytes, number: int) -> None:
        if finding.extra is not None:
            self._add_extra(finding.extra, finding, line, number)
            return
        self.counts[finding.sort] += 1
        if len(self.faults) < KEPT:
            column = column_of(line, finding.path, of_key=finding.of_key)
            self.faults.append(ShapeFinding(number, column, str(finding)))

    def _add_extra(self, extra: tuple[str, str], finding: Finding, line: bytes, number: int) -> None:
        """Tell a key that no form has, if it was not told."""
        if self._is_news(extra):
            self._remember(extra, ShapeFinding(number, column_of(line, finding.path, of_key=True), str(finding)))

    def _remember(self, extra: tuple[str, str], finding: ShapeFinding) -> None:
        self._extra[extra] = finding
        where, key = extra
        if where != "line" or key not in MARKERS:  # those may make another form of the line
            self._known[where] |= {key}


def shape_words(document: Mapping[str, Any]) -> str:
    """Return a `shape_document` in words for people."""
    kind = {None: "not looked at", "other": "no known shape"}.get(document["kind"], document["kind"])
    told = [f"{document['examples']:,} example{'s' * (document['examples'] != 1)}"]
    told += [f"{document['turns']:,} turns"] * bool(document["turns"])
    if document["characters"]:
        told += [
            f"{document['characters']:,} characters of text",
            f"about {document['tokens_estimate']:,} tokens (an estimate: characters / {CHARACTERS_A_TOKEN})",
            f"{document['longest_line']:,} of them in the longest line",
        ]
    told += [f"{document['mixed']:,} of another shape"] * bool(document["mixed"])
    return f"{kind}: {', '.join(told)}"


def shape_warning(document: Mapping[str, Any] | None) -> str | None:
    """Return the warning for people about a `shape_document`; None when nothing is odd."""
    if document is None or not document["findings"]:
        return None
    total, first = document["findings_total"], document["findings"][0]
    count = f"{total:,} findings in its shape, first" if total > 1 else "1 finding in its shape,"
    return f"{count} line {first['line']}, column {first['column']}: {first['reason']}"


class _Odd(Exception):
    """Something may be odd about these lines."""


def _lengths(texts: list[str]) -> list[int]:
    """Return the characters of texts. Raises where one may be empty, and a `TypeError` where one is no text."""
    if not all(texts) or any(map(str.isspace, texts)):
        raise _Odd
    return list(map(len, texts))


def _lengths_of_contents(messages: list[dict[str, Any]]) -> list[int]:
    """Return the characters of contents, which may be no plain texts. Raises where something is odd."""
    with suppress(_Odd, KeyError, TypeError):
        return _lengths([message["content"] for message in messages])
    lengths = list(map(length_of, messages))
    if None in lengths:
        raise _Odd
    return cast("list[int]", lengths)


def _grouped(values: Iterable[T], counts: list[int]) -> Iterable[tuple[T, ...]]:
    """Return values of messages by their lists, which have `counts` of them."""
    each = iter(values)
    if counts.count(counts[0]) == len(counts) and counts[0]:  # twice as fast, and common
        return zip(*repeat(each, counts[0]), strict=True)
    return map(tuple, map(islice, repeat(each), counts))


def _added(parts: list[list[int]]) -> list[int]:
    """Return the characters of each line, from those of its parts."""
    return reduce(lambda one, other: list(map(add, one, other)), parts)
