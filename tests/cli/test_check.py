"""`check`: files are judged as by the agent, without configuration, key or agent."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from axomsync.cli import cli
from axomsync.drop.unpacking import zstd

CHAT = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
PAIR = b'{"prompt": "a", "completion": "b"}\n'


def check(*arguments: str | Path, given: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["check", *map(str, arguments)], input=given, env={"AXOMSYNC_CONFIG": "/nowhere"})


def documents(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_a_good_file_is_told_with_its_shape(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(CHAT * 2)
    result = check(file)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{file}: good, 2 lines",
        "  shape: chat: 2 examples, 4 turns, 4 characters of text, about 1 tokens (an estimate: characters / 4), "
        "2 of them in the longest line",
        "  warning: 1 of 2 lines repeat an earlier one: line 2",
    ]


def test_a_bad_file_ends_with_1_and_the_others_are_checked(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_bytes(CHAT)
    bad.write_bytes(PAIR + b'{"a": x}\n' * 30)
    result = check(bad, good)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[:2] == [
        f"{bad}: would be rejected, 30 problems", "  line 2, column 7: the text x has no quotes; put it in double quotes"
    ]  # fmt: skip
    assert "  … and 10 more" in lines
    assert f"{good}: good, 1 line" in lines


def test_json_has_the_shape_and_the_problems(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(CHAT + b'{"text": ""}\n')
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    result = check("--json", file, empty)
    assert result.exit_code == 1
    good, bad = documents(result)
    assert (good["good"], good["lines"], good["problems"]) == (True, 2, [])
    assert good["shape"] == {
        "kind": "chat", "examples": 2, "turns": 2, "longest_line": 2, "characters": 2, "tokens_estimate": 0, "mixed": 1,
        "findings": [
            {
                "line": 2, "column": 1,
                "reason": "the line has text, and the first has messages; put each shape into a file of its own",
            },
            {"line": 2, "column": 10, "reason": "text is empty; write a text, or leave the line out"},
        ],
        "findings_total": 2,
    }  # fmt: skip
    assert (bad["good"], bad["lines"], bad["shape"], bad["problems_total"]) == (False, None, None, 1)
    assert bad["problems"] == [{"line": None, "column": None, "reason": bad["problems"][0]["reason"]}]


def test_a_schema_rejects_other_shapes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(PAIR)
    assert check(file, "--schema", "pairs").exit_code == 0
    result = check(file, "--schema", "chat")
    assert result.exit_code == 1
    told = 'line 1, column 1: the line has the shape pairs (prompt and completion), and [drop] schema is "chat"'
    assert told in result.output


def test_standard_input_is_a_file_too() -> None:
    result = check("-", given=CHAT)
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "-: good, 1 line")
    assert check("-", given=CHAT[:-9]).exit_code == 1
    assert check("-", given=b"").exit_code == 1


def test_what_can_not_be_read_is_told_and_ends_with_1(tmp_path: Path) -> None:
    good, folder = tmp_path / "good.jsonl", tmp_path / "folder"
    good.write_bytes(CHAT)
    folder.mkdir()
    result = check(tmp_path / "missing.jsonl", folder, good)
    assert result.exit_code == 1
    assert f"axomsync: {tmp_path}/missing.jsonl: it does not exist; correct the name" in result.stderr
    assert f"axomsync: {folder}: it is a folder" in result.stderr
    assert result.stdout.splitlines()[0] == f"{good}: good, 1 line"


def test_a_pipe_is_checked_in_memory_that_does_not_grow() -> None:
    program = (
        "import sys; from axomsync.cli import cli; cli(['check', '-'], standalone_mode=False);"
        "from tests.rig.memory import most_memory; print(most_memory(), file=sys.stderr)"
    )
    peaks = []
    for copies in (20, 400):
        reader, writer = os.pipe()
        piece = CHAT * 2000

        def feed(writer: int = writer, copies: int = copies, piece: bytes = piece) -> None:
            with os.fdopen(writer, "wb") as file:
                for _ in range(copies):
                    file.write(piece)

        feeder = threading.Thread(target=feed)
        feeder.start()
        with os.fdopen(reader, "rb") as given:
            done = subprocess.run([sys.executable, "-c", program], stdin=given, capture_output=True, text=True, check=True)
        feeder.join()
        assert done.stdout.startswith(f"-: good, {copies * 2000:,} lines\n")
        peaks.append(int(done.stderr))
    assert peaks[1] < peaks[0] + 8 * 1024 * 1024


def test_compressed_files_are_unpacked_while_they_are_read(tmp_path: Path) -> None:
    files = {
        "a.jsonl.gz": gzip.compress(CHAT * 2),
        "B.JSONL.ZST": zstd.compress(CHAT),
        "cut.jsonl.gz": gzip.compress(CHAT * 50)[:-9],
        "plain.jsonl.gz": CHAT,
        "twice.jsonl.gz": gzip.compress(gzip.compress(CHAT)),
        "line.jsonl.zst": zstd.compress(CHAT + b"[]\n"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    result = check(*(tmp_path / name for name in files), "--json")
    assert result.exit_code == 1
    found = documents(result)
    assert [each["good"] for each in found] == [True, True, False, False, False, False]
    assert [(each["bytes"], each["lines"]) for each in found[:2]] == [(len(CHAT) * 2, 2), (len(CHAT), 1)]
    assert found[0]["sha256"] == hashlib.sha256(CHAT * 2).hexdigest(), "of what it holds"
    reasons = [each["problems"][0]["reason"] for each in found[2:]]
    assert reasons[0].startswith("the gzip data end early")
    assert reasons[1] == "this is not gzip data but plain text; rename it to plain.jsonl"
    assert reasons[2].startswith("unpacked, this is not JSONL but gzip data")
    assert found[5]["problems"][0]["line"] == 2
    assert sorted(os.listdir(tmp_path)) == sorted(files)
