"""The next commands for a person: the last lines of `status`, `uploads` and `models`, and those in `explain`.

They are made of the documents that these verbs print, of what the ledger has as parked, and of the disk, which knows if a
rejected file still lies where it was set aside. Failures handled: names that a shell needs quoted.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from axomsync.core.paths import REJECTS
from axomsync.runtime.problems import SUBJECTS

MOST = 3  # files or models that are named; the rest is counted

PACKAGED_UNITS = ("/usr/lib/systemd/system", "/usr/local/lib/systemd/system", "/etc/systemd/system")
UNIT, TEMPLATE = "axomsync.service", "axomsync@.service"

Document = Mapping[str, Any]


def of_status(
    document: Document, parked: Iterable[str], done_marker: str = "", *, units: Iterable[str] = PACKAGED_UNITS
) -> list[str]:
    """Return the next steps after `axomsync status`; none when all is well. `parked`: see `status.targets`."""
    steps = []
    if not document["agent"]["running"]:
        steps.append(f"to start the agent: {start(document['instance'], units)}")
    elif document["agent"]["paused"]:
        steps.append("to go on: axomsync resume")
    subjects = [problem["subject"] for problem in document["problems"]]
    if any(subject in SUBJECTS for subject in subjects):
        steps.append("to look into it: axomsync doctor")
    drop = Path(document["drop"]["folder"])
    steps += _of_rejected([s for s in subjects if s not in SUBJECTS and _is_set_aside(drop, s)], drop, done_marker)
    names = list(dict.fromkeys(parked))
    steps += _named("to know more, and try again once it is mended: axomsync retry", names, "axomsync status")
    return [for_instance(step, document["instance"]) for step in steps]


def start(instance: str | None, units: Iterable[str] = PACKAGED_UNITS) -> str:
    """Return the command that starts the agent of this name, as it is installed; `for_instance` completes it."""
    unit, called = (UNIT, "axomsync") if instance is None else (TEMPLATE, f"axomsync@{instance}")
    is_service = any(os.path.exists(f"{folder}/{unit}") for folder in units)
    return f"systemctl start {called}" if is_service else "axomsync run"


def for_instance(words: str, name: str | None) -> str:
    """Return the same words for the agent of this name: each command in them, after a colon or a backtick, is for it."""
    return words if name is None else re.sub("(: |`)axomsync ", rf"\1axomsync --instance {name} ", words)


def of_uploads(documents: Sequence[Document], drop: Path, done_marker: str = "", instance: str | None = None) -> list[str]:
    """Return the next steps after `axomsync uploads`, for the agent of this name."""
    paths = dict.fromkeys(d["path"] for d in reversed(documents) if d["state"] == "rejected")
    parked = dict.fromkeys(d["path"] for d in reversed(documents) if d["state"] in ("failed", "held"))
    steps = _of_rejected([path for path in paths if _is_set_aside(drop, path)], drop, done_marker)
    steps += _named("mend what the reason says, then: axomsync retry", list(parked), "axomsync uploads --state failed")
    return [for_instance(step, instance) for step in steps]


def of_models(documents: Sequence[Document], instance: str | None = None) -> list[str]:
    """Return the next steps after `axomsync models`, for the agent of this name."""
    names = {state: [] for state in ("blocked", "failed", "damaged")}  # type: dict[str, list[str]]
    for d in documents:
        state = "damaged" if d["damage"] else d["state"]
        if state in names:
            names[state].append(f"{d['name']}/{d['version']}")
    steps = _named("mend what the reason says, then: axomsync retry", names["blocked"] + names["failed"], "axomsync models")
    steps += _named("to have the damage mended: axomsync verify --repair", names["damaged"], "axomsync models")
    return [for_instance(step, instance) for step in steps]


def _of_rejected(paths: Sequence[str], drop: Path, done_marker: str) -> list[str]:
    """Return the command that moves each file back to its place in the drop folder, and marks it as complete."""
    steps = []
    for path in paths[:MOST]:
        back = f"mv {shlex.quote(str(drop / os.fsdecode(REJECTS) / path))} {shlex.quote(str(drop / path))}"
        mark = f" && touch {shlex.quote(f'{drop / path}{done_marker}')}" if done_marker else ""
        steps.append(f"correct it and move it back: {back}{mark}")
    more = len(paths) - MOST
    return steps + [f"and {more} more: axomsync uploads --state rejected"] * (more > 0)


def _named(command: str, names: Sequence[str], list_all: str) -> list[str]:
    steps = [f"{command} {shlex.quote(name)}" for name in names[:MOST]]
    more = len(names) - MOST
    return steps + [f"and {more} more: {list_all}"] * (more > 0)


def _is_set_aside(drop: Path, path: str) -> bool:
    """Return True if the file lies in `rejected/` under the very name that is shown."""
    return os.path.lexists(drop / os.fsdecode(REJECTS) / path)
