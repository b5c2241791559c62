"""Hostile file names: their files arrive, under a name that the ledger maps back."""

import os

import pytest

from axomsync.drop.names import console_name
from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import dataset, sha256, stored
from tests.rig.agent import AgentProcess

# The console's name for each name on disk.
HOSTILE = {
    b"new\nline.jsonl": "new%0Aline.jsonl",
    b"invalid \xff\xfe utf-8.jsonl": "invalid%20%FF%FE%20utf-8.jsonl",
    b"a%2F..%2F..%2Fetc%2Fpasswd.jsonl": "a%2F..%2F..%2Fetc%2Fpasswd.jsonl",
    b"-rf.jsonl": "-rf.jsonl",
    "emoji 🙂🏳️‍🌈.jsonl".encode(): "emoji 🙂🏳️%E2%80%8D🌈.jsonl",
    "right-to-left \u202egnp.jsonl".encode(): "right-to-left %E2%80%AEgnp.jsonl",
    "שלום.jsonl".encode(): "שלום.jsonl",
    b"tab\tand \\ and \x1b[31m.jsonl": "tab%09and %5C and %1B[31m.jsonl",
    b"quote\"'`$(x);&?#+.jsonl": "quote\"'`$(x);&?#+.jsonl",
    b"*.jsonl": "*.jsonl",
    b"a" * 249 + b".jsonl": "a" * 249 + ".jsonl",
    "é".encode() * 124 + b"_.jsonl": "é" * 124 + "_.jsonl",
}
LONG_AND_INVALID = b"\xff" * 249 + b".jsonl"


@pytest.mark.parametrize(("name", "told"), HOSTILE.items())
def test_console_name_is_printable_text(name: bytes, told: str) -> None:
    assert console_name(b"folder/" + name) == told


def test_console_name_too_long_after_encoding_is_cut_and_marked() -> None:
    told, other = console_name(LONG_AND_INVALID), console_name(b"\xff" * 248 + b"\xfe.jsonl")
    for name in (told, other):
        assert len(name) == 255
        assert name.startswith("%FF" * 79)
        assert name.endswith(".jsonl")
    assert told != other


def test_files_with_hostile_names_arrive_and_are_archived(sandbox: Sandbox, agent: AgentProcess) -> None:
    told = {**HOSTILE, LONG_AND_INVALID: console_name(LONG_AND_INVALID)}
    files = {name: dataset(str(number)) for number, name in enumerate(told)}
    folder = os.fsencode(agent.drop)
    for name, data in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    done = agent.sync()
    assert "Traceback" not in done.stderr
    assert all(line.isprintable() for line in done.stderr.splitlines())

    assert stored(sandbox) == {told[name]: [data] for name, data in files.items()}
    rows = {row["path"]: row for row in agent.uploads()}
    assert len(rows) == len(files)
    assert {row["filename"] for row in rows.values()} == set(told.values())
    assert all(row["state"] == "uploaded" and path.isprintable() for path, row in rows.items())

    archive = os.path.join(folder, b"uploaded")
    archived = set(os.listdir(archive))
    for name, data in files.items():
        kept = name if len(name) + len(b".receipt.json") <= 255 else shortened(name, data)
        with open(os.path.join(archive, kept), "rb") as file:
            assert file.read() == data
        archived -= {kept, kept + b".receipt.json"}
    assert archived == set()


def shortened(name: bytes, data: bytes) -> bytes:
    """Cut a name that leaves no room for its receipt, between two characters, and mark it with its content."""
    tail = f"--{sha256(data)[:8]}.jsonl".encode()
    stem = name[: 255 - len(b".receipt.json") - len(tail)]
    if name.startswith("é".encode()):
        stem = stem.decode("utf-8", "ignore").encode()
    return stem + tail
