"""Files that are left alone: the scan counts each by its rule, and `explain` names that rule."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from axomsync.drop.rules import EXAMPLES, LeftAlone, Rule, Selection, account_for
from axomsync.drop.watch import scan
from axomsync.runtime.heartbeat import unwatched
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset
from tests.rig.agent import eventually

INCLUDE, EXCLUDE = ["*.jsonl", "sub/*.ndjson"], ["draft-*", "old/*"]

# path: (rule, a part of the fix)
LEFT_ALONE = {
    "a.jsonl.gz": (Rule.NOT_INCLUDED, 'name "*.jsonl.gz" in [drop] include, or unpack it first (gunzip)'),
    "B.JSONL.ZST": (Rule.NOT_INCLUDED, 'name "*.jsonl.zst" in [drop] include, or unpack it first (unzstd)'),
    "b.json": (Rule.NOT_INCLUDED, "rename it to b.jsonl if each of its lines is one object"),
    "again.jsonl.txt": (Rule.NOT_INCLUDED, "rename it to again.jsonl"),
    "Twice.jsonl (1)": (Rule.NOT_INCLUDED, "rename it to Twice (1).jsonl"),
    "blank.jsonl ": (Rule.NOT_INCLUDED, "rename it to blank.jsonl"),
    "kept.jsonl.bak": (Rule.NOT_INCLUDED, "a copy that was kept"),
    "notes.txt": (Rule.NOT_INCLUDED, "rename it to notes.jsonl"),
    "table.parquet": (Rule.NOT_INCLUDED, "name it in [drop] include"),
    "c.ndjson": (Rule.NOT_INCLUDED, "rename it to c.jsonl"),
    "draft-1.jsonl": (Rule.EXCLUDED, "change [drop] exclude"),
    "Draft-2.jsonl": (Rule.EXCLUDED, "change [drop] exclude"),
    "old/a.jsonl": (Rule.EXCLUDED, "change [drop] exclude"),
    ".hidden.jsonl": (Rule.HIDDEN, "begins with a dot"),
    ".git/objects/a.jsonl": (Rule.HIDDEN, "begins with a dot"),
    "a.jsonl.part": (Rule.TEMPORARY, "when it is complete"),
    "b.jsonl.tmp": (Rule.TEMPORARY, "when it is complete"),
    "c.jsonl~": (Rule.TEMPORARY, "when it is complete"),
    "d.jsonl.crdownload": (Rule.TEMPORARY, "when it is complete"),
    "e.jsonl.swp": (Rule.TEMPORARY, "when it is complete"),
    "~$f.jsonl": (Rule.LOCK, "close that file there"),
    ".~lock.g.jsonl#": (Rule.LOCK, "close that file there"),
    "link.jsonl": (Rule.SYMLINK, "copy or move the file itself here"),
    "linked/a.jsonl": (Rule.SYMLINK, "copy or move the file itself here"),
    "fifo.jsonl": (Rule.SPECIAL, "a regular file"),
    "socket.jsonl": (Rule.SPECIAL, "a regular file"),
    "uploaded/a.jsonl": (Rule.PUT_AWAY, "move it out of that folder"),
    "rejected/a.jsonl": (Rule.PUT_AWAY, "move it out of that folder"),
    "unmarked.jsonl": (Rule.NO_MARKER, "create it when the file is complete"),
    "remarked.jsonl": (Rule.OLD_MARKER, "touch the marker"),
    "lonely.jsonl.done": (Rule.MARKER, "write the file, or remove it"),
}
MARKED = {"unmarked.jsonl", "remarked.jsonl", "lonely.jsonl.done"}


def fill(drop: Path, elsewhere: Path, *, marked: bool = False) -> list[str]:
    """Make the files of the table for a configuration with or without markers; returns their paths."""
    paths = [path for path in LEFT_ALONE if (path in MARKED) == marked]
    elsewhere.mkdir()
    (elsewhere / "a.jsonl").write_bytes(dataset("elsewhere"))
    for path in paths:
        rule = LEFT_ALONE[path][0]
        file = drop / path
        if path.startswith("linked/"):
            file.parent.symlink_to(elsewhere)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        if rule is Rule.SYMLINK:
            file.symlink_to(elsewhere / "a.jsonl")
        elif path.startswith("fifo"):
            os.mkfifo(file)
        elif path.startswith("socket"):
            with socket.socket(socket.AF_UNIX) as listener:
                here = os.getcwd()
                os.chdir(drop)  # the address of a socket must be short
                try:
                    listener.bind(path)
                finally:
                    os.chdir(here)
        else:
            file.write_bytes(dataset(path))
        if rule is Rule.OLD_MARKER:
            marker = file.with_name(f"{file.name}.done")
            marker.touch()
            os.utime(marker, ns=(0, 0))
    return paths


@pytest.mark.parametrize("marked", [False, True])
def test_account_for_gives_rule_and_fix_of_every_file_left_alone(tmp_path: Path, *, marked: bool) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    selection = Selection(INCLUDE, EXCLUDE, b".done" if marked else b"")
    for path in fill(drop, tmp_path / "elsewhere", marked=marked):
        account = account_for(drop, os.fsencode(path), selection)
        rule, fix = LEFT_ALONE[path]
        assert account is not None, path
        assert (account.rule, fix in account.fix) == (rule, True), f"{path}: {account}"
    assert account_for(drop, b"nothing.jsonl", selection) is None


def test_scan_counts_by_the_same_rules(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    fill(drop, tmp_path / "elsewhere")
    for name in ("TRAIN.JSONL", "Train.jsonl", "sub/a.ndjson"):
        (drop / name).parent.mkdir(exist_ok=True)
        (drop / name).write_bytes(dataset(name))
    seen = scan(drop, INCLUDE, EXCLUDE, "", unwatched)
    assert set(seen.found) == {b"TRAIN.JSONL", b"Train.jsonl", b"sub/a.ndjson"}
    assert seen.left.counts == {  # a folder that is not entered counts once; files that the agent put away do not count
        Rule.NOT_INCLUDED: 10, Rule.EXCLUDED: 3, Rule.HIDDEN: 2, Rule.TEMPORARY: 5, Rule.LOCK: 2, Rule.SYMLINK: 2,
        Rule.SPECIAL: 2,
    }  # fmt: skip
    assert (seen.left.folders, seen.left.examples[Rule.HIDDEN]) == ({Rule.HIDDEN: 1}, [b".git/", b".hidden.jsonl"])
    assert seen.left.examples[Rule.EXCLUDED] == [b"Draft-2.jsonl", b"draft-1.jsonl", b"old/a.jsonl"]


def test_every_rule_has_files_in_the_table() -> None:
    assert len(LEFT_ALONE) >= 20
    assert {rule for rule, _ in LEFT_ALONE.values()} | {Rule.UNREADABLE} == set(Rule)  # unreadable files have their own test
    assert len(Rule) >= 12


def test_scan_counts_markers_by_the_same_rules(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    fill(drop, tmp_path / "elsewhere", marked=True)
    (drop / "whole.jsonl").write_bytes(dataset("whole"))
    (drop / "whole.jsonl.done").touch()
    seen = scan(drop, INCLUDE, EXCLUDE, ".done", unwatched)
    assert set(seen.found) == {b"whole.jsonl"}
    assert seen.left.counts == {Rule.NO_MARKER: 1, Rule.OLD_MARKER: 1, Rule.MARKER: 1}


def test_scan_names_a_few_of_any_number_of_files(tmp_path: Path) -> None:
    left = LeftAlone()
    for number in range(50_000, 0, -1):
        left.add(Rule.EXCLUDED, b"%06d" % number)
    assert left.counts == {Rule.EXCLUDED: 50_000}
    assert left.examples == {Rule.EXCLUDED: [b"%06d" % number for number in range(1, EXAMPLES + 1)]}


def test_status_counts_and_explain_names_the_rule_and_the_log_says_it_once(
    sandbox: Sandbox, make_agent: AgentFactory, tmp_path: Path
) -> None:
    agent = make_agent(sandbox, include=INCLUDE, exclude=EXCLUDE, config={"log": {"level": "debug"}})
    paths = fill(agent.drop, tmp_path / "elsewhere")
    (agent.drop / "TRAIN.JSONL").write_bytes(dataset("TRAIN"))
    agent.launch("sync")
    assert agent.wait() == 0
    assert [(row["path"], row["state"]) for row in agent.uploads()] == [("TRAIN.JSONL", "uploaded")]
    counted = {left["rule"]: left["files"] for left in agent.status()["drop"]["left_alone"]}
    assert all(agent.log().count(f" {path}: left alone") == 1 for path in ("a.jsonl.gz", "old/a.jsonl", "table.parquet"))
    assert counted == {
        "not included": 10, "excluded": 3, "hidden": 1, "temporary": 5, "lock": 2, "symlink": 2, "special": 2,
    }  # fmt: skip
    assert "1 file and 1 folder left alone (hidden): .git/, .hidden.jsonl; rename" in agent.call("status").stdout
    shown = agent.call("status").stdout
    assert "3 files left alone (excluded): Draft-2.jsonl, draft-1.jsonl, old/a.jsonl; rename it" in shown
    assert agent.log().count("such as ") == 7, "a rule was told twice, or not at all"
    for path in paths[::10]:
        (document,) = json.loads(agent.call("explain", path, "--json").stdout)
        assert (document["kind"], document["facts"]["rule"]) == ("file", str(LEFT_ALONE[path][0]))
    said = agent.call("explain", str(agent.drop / "a.jsonl.gz")).stdout
    assert said == (
        "a.jsonl.gz: left alone: it is left alone (not included)\n"
        "  why: no glob of [drop] include matches its name\n"
        '  to have it uploaded: name "*.jsonl.gz" in [drop] include, or unpack it first (gunzip)\n'
    )
    outside = agent.call("explain", str(tmp_path / "elsewhere" / "a.jsonl"))
    assert (outside.returncode, "lies outside of the drop folder" in outside.stderr) == (1, True)
    whole = agent.call("explain", str(agent.drop))
    assert (whole.returncode, "it is the drop folder itself" in whole.stderr) == (1, True)
    for path in paths:
        file = agent.drop / path.split("/")[0]
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    agent.sync()
    assert agent.status()["drop"]["left_alone"] == []


def test_unreadable_file_is_reported_with_its_folder(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "a.jsonl").touch()
    shut.chmod(0)
    reader, writer = os.pipe()
    child = os.fork()  # as a user without the right
    if not child:
        os.setuid(65534)
        account = account_for(tmp_path, b"shut/a.jsonl", Selection(["*"], []))
        os.write(writer, repr(account and (str(account.rule), account.what, account.fix)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reader, 1000).decode()
    assert "unreadable" in told
    assert "may not look into" in told


def test_files_that_come_and_go_are_told_of_once(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox)
    agent.start()
    for number in range(3):
        part = agent.drop / f"{number}.jsonl.part"
        part.write_bytes(dataset(str(number)))

        def counted() -> int:
            agent.call("poll")
            return sum(left["files"] for left in agent.status()["drop"]["left_alone"])

        eventually("a look at the unfinished file", lambda: counted() == 1)
        part.rename(part.with_suffix(""))
        eventually("a look without it", lambda: counted() == 0)
        eventually("its receipt", (agent.drop / "uploaded" / f"{number}.jsonl.receipt.json").exists)
    assert agent.terminate() == 0
    assert agent.log().count("left alone (temporary)") == 1
