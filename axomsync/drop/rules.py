"""Rules that select the files of the drop folder for upload, and that name the reason for leaving others alone.

Every file below the folder is either taken or counted: the scan counts by these rules, and `explain` names the rule for a
path, and the fix.

Failures handled: a path that can't be read (it has its own rule), a path that does not exist (`None`).
"""

import errno
import fnmatch
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from axomsync.core.oserrors import local_fault
from axomsync.core.paths import ARCHIVE, CLAIMS, DELETING, REJECTS, UNFINISHED
from axomsync.core.text import printable
from axomsync.drop.names import ENDINGS

TEMPORARY_SUFFIXES = (b".part", b".partial", b".filepart", b".crdownload", b".tmp", b".swp", b"~")
LOCK_PREFIXES = (b"~$", b".~lock.", b".#")  # of Microsoft Office, of LibreOffice, of Emacs
EXAMPLES = 3  # paths that are named for each rule

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class Rule(StrEnum):
    """Reasons for leaving a file alone. The words are a contract: they appear in JSON."""

    NOT_INCLUDED = "not included"
    EXCLUDED = "excluded"
    HIDDEN = "hidden"
    TEMPORARY = "temporary"
    LOCK = "lock"
    SYMLINK = "symlink"
    SPECIAL = "special"
    NO_MARKER = "no marker"
    OLD_MARKER = "old marker"
    MARKER = "marker"
    PUT_AWAY = "put away"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A rule in words: `what` applies, and `fix`, the way to have the file uploaded."""

    what: str
    fix: str


MEANINGS: Mapping[Rule, Meaning] = {
    Rule.NOT_INCLUDED: Meaning("no glob of [drop] include matches its name", "rename it, or name it in [drop] include"),
    Rule.EXCLUDED: Meaning("a glob of [drop] exclude matches its name", "rename it, or change [drop] exclude"),
    Rule.HIDDEN: Meaning("its name, or that of a folder on the way, begins with a dot", "rename what begins with a dot"),
    Rule.TEMPORARY: Meaning("its name ends like an unfinished file (.part, .tmp, ~)", "rename it when it is complete"),
    Rule.LOCK: Meaning("an editor keeps it while it has another file open", "close that file there; the lock goes with it"),
    Rule.SYMLINK: Meaning("it is a symlink, or lies behind one, which is not followed", "copy or move the file itself here"),
    Rule.SPECIAL: Meaning("it is a FIFO, a socket or a device, and no file", "write a regular file"),
    Rule.NO_MARKER: Meaning("its marker file is missing ([drop] done_marker)", "create it when the file is complete"),
    Rule.OLD_MARKER: Meaning("its marker is older than the file ([drop] done_marker)", "touch the marker"),
    Rule.MARKER: Meaning("it marks a file that is not there ([drop] done_marker)", "write the file, or remove it"),
    Rule.PUT_AWAY: Meaning("it lies where the agent puts files away", "move it out of that folder to have it uploaded"),
    Rule.UNREADABLE: Meaning("it can't be looked at", "give access to it: `axomsync explain PATH` names the command"),
}  # fmt: skip


@dataclass(slots=True)
class LeftAlone:
    """Number of entries for each rule, with a few names; `every` lists all of them, if it is a list.

    A folder that is left alone is not read: it counts as one entry, whatever it holds, and also in `folders`.
    """

    every: list[tuple[Rule, bytes]] | None = None
    counts: dict[Rule, int] = field(default_factory=dict)
    folders: dict[Rule, int] = field(default_factory=dict)
    examples: dict[Rule, list[bytes]] = field(default_factory=dict)

    def add(self, rule: Rule, path: bytes, *, is_folder: bool = False) -> None:
        """Count one more; the first names in sorted order are kept, whatever the order of a folder's listing."""
        self.counts[rule] = self.counts.get(rule, 0) + 1
        if is_folder:
            self.folders[rule] = self.folders.get(rule, 0) + 1
            path += b"/"
        if self.every is not None:
            self.every.append((rule, path))
        named = self.examples.setdefault(rule, [])
        if len(named) < EXAMPLES or path < named[-1]:
            named.append(path)
            named.sort()
            del named[EXAMPLES:]


@dataclass(frozen=True, slots=True)
class Selection:
    """Selection by the configuration: globs for the file name and the path below the folder; case is ignored."""

    include: Sequence[str]
    exclude: Sequence[str]
    marker: bytes = b""  # suffix of the files that mark another one as complete

    def rule_for_name(self, path: bytes) -> Rule | None:
        """Find the rule that leaves a regular file with this path alone, judging by names only."""
        whole = os.fsdecode(path).lower()
        names = (whole, os.path.basename(whole))
        if not _matches(names, self.include):
            return Rule.NOT_INCLUDED
        return Rule.EXCLUDED if _matches(names, self.exclude) else None

    def hint(self, path: bytes) -> str | None:
        """Guess the intended name of a file that is not included."""
        name = os.path.basename(os.fsdecode(path))
        stem, ending = os.path.splitext(name)
        ending = ending.lower()
        if ending in _PACKED and _matches((stem.lower(),), self.include):
            way = f'name "*.jsonl{ending}" in [drop] include, or ' if os.fsencode(ending) in ENDINGS else ""
            return f"{way}unpack it first ({_PACKED[ending]})"
        if ending in _OLDER and _matches((stem.lower(),), self.include):
            return (
                f"it looks like a copy that was kept: rename it only if it is what shall be uploaded, to {printable(stem)}"
            )
        if (better := _without_additions(name)) != name and _matches((better.lower(),), self.include):
            return f"rename it to {printable(better)}"
        if ending in _ALIKE:
            return f"rename it to {printable(stem)}.jsonl if each of its lines is one object, or name it in [drop] include"
        return None


def _without_additions(name: str) -> str:
    """Remove the parts that downloads, copies and other systems add after a name's ending."""
    name = name.strip()
    if (copied := re.fullmatch(r"(.+)(\.\w+)( ?\(\d+\)| - copy)", name, re.IGNORECASE)) is not None:
        return f"{copied[1]}{copied[3]}{copied[2]}"  # the number stays: the name without it belongs to another file
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() == ".txt" and "." in stem else name


_PACKED = {".gz": "gunzip", ".zst": "unzstd", ".xz": "unxz", ".bz2": "bunzip2", ".lz4": "unlz4", ".zip": "unzip"}
_OLDER = frozenset({".bak", ".old", ".orig", ".save"})
_ALIKE = frozenset({".json", ".ndjson", ".jsonlines", ".jl", ".ldjson", ".txt", ""})


def _matches(names: Sequence[str], globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob.lower()) for glob in globs for name in names)


def rule_for_any(name: bytes) -> Rule | None:
    """Find the rule that leaves every entry with this name alone, file or folder."""
    if name.startswith(LOCK_PREFIXES):
        return Rule.LOCK
    if name.startswith(b"."):
        return Rule.HIDDEN
    return Rule.TEMPORARY if name.endswith(TEMPORARY_SUFFIXES) else None


def is_ours(name: bytes) -> bool:
    """Check for a name that the agent itself uses, to inform other agents or for a file that it renames soon."""
    return name == CLAIMS or name.startswith((UNFINISHED, DELETING))


@dataclass(frozen=True, slots=True)
class Account:
    """Result for one path. `rule` is None if no rule leaves it alone; `what` and `fix` are words, as in `Meaning`."""

    path: bytes  # below the drop folder
    rule: Rule | None
    what: str
    fix: str
    is_due: bool = False  # True if it is taken at the next look at the folder


def account_for(root: Path, path: bytes, selection: Selection) -> Account | None:
    """Find the rule for a path below the drop folder; None if it does not exist. Reads the disk, follows no link."""
    top, parts = os.fsencode(root), path.split(b"/")
    for number in range(1, len(parts) + 1):
        way, is_last = b"/".join(parts[:number]), number == len(parts)
        try:
            status = os.lstat(os.path.join(top, way))
        except OSError as error:
            if error.errno in _GONE:
                return None
            why, _, fix = str(local_fault(error, os.path.join(top, way))).rpartition("; ")
            return Account(path, Rule.UNREADABLE, why, fix)
        if number == 1 and way in (ARCHIVE, REJECTS):
            return _account(path, Rule.PUT_AWAY)
        rule = rule_for_any(parts[number - 1]) or (Rule.SYMLINK if stat.S_ISLNK(status.st_mode) else None)
        if rule is not None:
            return _account(path, rule)
        if is_last:
            return _account_for_last(top, path, status, selection)
    return None


def _account(path: bytes, rule: Rule, fix: str | None = None) -> Account:
    return Account(path, rule, MEANINGS[rule].what, fix or MEANINGS[rule].fix)


def _account_for_last(top: bytes, path: bytes, status: os.stat_result, selection: Selection) -> Account:
    if stat.S_ISDIR(status.st_mode):
        try:
            os.close(os.open(os.path.join(top, path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        except OSError as error:
            why, _, fix = str(local_fault(error)).rpartition("; ")
            return Account(path, Rule.UNREADABLE, why, fix)
        return Account(path, None, "it is a folder: each file in it is looked at by itself", "ask for one of its files")
    if selection.marker and path.endswith(selection.marker):
        if os.path.lexists(os.path.join(top, path.removesuffix(selection.marker))):
            return Account(path, Rule.MARKER, "it is the marker of the file beside it", "nothing")
        return _account(path, Rule.MARKER)
    if not stat.S_ISREG(status.st_mode):
        return _account(path, Rule.SPECIAL)
    rule = selection.rule_for_name(path)
    if rule is not None:
        return _account(path, rule, selection.hint(path) if rule is Rule.NOT_INCLUDED else None)
    if selection.marker:
        rule = _rule_for_marker(os.path.join(top, path + selection.marker), status.st_mtime_ns)
        if rule is not None:
            return _account(path, rule)
    return Account(path, None, "it is taken at the next look at the folder", "nothing, or `axomsync poll`", is_due=True)


def _rule_for_marker(marker: bytes, mtime_ns: int) -> Rule | None:
    try:
        status = os.lstat(marker)
    except OSError:
        return Rule.NO_MARKER
    return rule_for_marked(status, mtime_ns)


def rule_for_marked(marker: os.stat_result | None, mtime_ns: int) -> Rule | None:
    """Rule for a file that was last written at `mtime_ns`, by its marker.

    A marker that is older than its file was meant for an earlier file of that name. If the file's time is in the future,
    because of a wrong clock, the two can't be compared, and the marker is accepted.
    """
    if marker is None:
        return Rule.NO_MARKER
    return None if marker.st_mtime_ns >= mtime_ns or mtime_ns > time.time_ns() else Rule.OLD_MARKER


def amount(files: int, folders: int) -> str:
    """Number of entries in words, such as `2 files and 1 folder`."""
    counted = ((files, "file"), (folders, "folder"))
    return " and ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in counted if count) or "nothing"


def document(left: LeftAlone) -> list[dict[str, object]]:
    """The JSON for `status --json`, the most frequent rule first."""
    return [
        {
            "rule": str(rule),
            "files": count - left.folders.get(rule, 0),
            "folders": left.folders.get(rule, 0),
            "examples": [printable(os.fsdecode(path)) for path in left.examples[rule]],
            "reason": MEANINGS[rule].what,
            "fix": MEANINGS[rule].fix,
        }
        for rule, count in sorted(left.counts.items(), key=lambda item: (-item[1], item[0]))
    ]
