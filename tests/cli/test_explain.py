"""`explain`: one command that says why."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.records import ModelState, UploadState
from axomsync.status.explain import _MODEL_MEANS, _UPLOAD_MEANS
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer, StoredObject


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with FaultyServer() as server:
        server.add_model("m", "v1", {"../w": Content(1000)})
        with AgentProcess(tmp_path / "box", server.url, KEY) as agent:
            (agent.drop / "bad.jsonl").write_text("no json\n")
            agent.sync(expect=1)
            yield agent


def test_every_state_has_its_meaning() -> None:
    assert set(_UPLOAD_MEANS) == set(UploadState)
    assert set(_MODEL_MEANS) == set(ModelState)


@pytest.mark.parametrize("target", ["m", "m/v1"])
def test_a_model_says_why_it_is_not_here(agent: AgentProcess, target: str) -> None:
    said = agent.call("explain", target).stdout
    assert said.startswith("m/v1: blocked: it can't go on")
    assert "why: " in said
    assert "kept by: no agent runs" in said
    assert "next try: " in said


def test_a_published_model_says_what_could_be_proven_of_each_file(tmp_path: Path) -> None:
    with FaultyServer() as server:
        model_id = server.add_model("m", "v1", {"proven.bin": Content(1000), "other.bin": Content(2000)})
        server.objects[f"{model_id}/1"] = StoredObject(Content(2000), '"opaque"')
        with AgentProcess(tmp_path / "box", server.url, KEY) as agent:
            agent.sync()
            (document,) = json.loads(agent.call("explain", "m", "--json").stdout)
            assert {file["rel"]: file["proof"] for file in document["facts"]["files"]} == {
                "proven.bin": "proven",
                "other.bin": "size only",
            }
            said = agent.call("explain", "m").stdout
            assert "files: 1 proven, 1 size only" in said
            assert "    other.bin: size only" in said


def test_a_file_is_named_by_its_path_or_name(agent: AgentProcess) -> None:
    for target in ("bad.jsonl", str(agent.drop / "bad.jsonl")):
        (document,) = json.loads(agent.call("explain", target, "--json").stdout)
        assert (document["kind"], document["state"], document["keeps"]) == ("upload", "rejected", []), "no agent changes it"
        assert document["reason"].startswith("line 1, column 1: the line is a text and no object; write an object, {…}")
        assert "write an object" in agent.call("uploads").stdout
    file, upload = json.loads(agent.call("explain", "rejected/bad.jsonl", "--json").stdout)
    assert (file["facts"]["rule"], upload["state"]) == ("put away", "rejected")


def test_what_is_not_known_is_told(agent: AgentProcess) -> None:
    done = agent.call("explain", "nonsense")
    assert done.returncode == 1
    assert "neither a file of the drop folder nor a model" in done.stderr


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[AgentProcess]:
    with FaultyServer() as server:
        server.add_model("bot", "v1", {"w.bin": Content(1000)})
        with AgentProcess(tmp_path / "box", server.url, KEY) as agent:
            agent.sync()
            yield agent


@pytest.mark.parametrize("path", ["bot/v1/w.bin", "bot/current", "bot/current/w.bin", "bot/current/.axomsync.json"])
def test_a_path_by_current_names_its_model(mirrored: AgentProcess, path: str) -> None:
    (document,) = json.loads(mirrored.call("explain", str(mirrored.mirror / path), "--json").stdout)
    assert (document["kind"], document["name"], document["state"]) == ("model", "bot/v1", "published")


@pytest.mark.parametrize("path", ["bot", "bot/next", "own.bin", ".axomsync", "never/v1"])
def test_what_belongs_to_no_model_is_not_to_be_moved_or_pushed(mirrored: AgentProcess, path: str) -> None:
    (mirrored.mirror / "own.bin").touch()
    (mirrored.mirror / "bot" / "next").symlink_to("v2")
    done = mirrored.call("explain", str(mirrored.mirror / path))
    assert done.returncode == 1
    assert "it belongs to no published model; `axomsync models` lists the models and their paths" in done.stderr
    assert "push" not in done.stderr


def test_a_file_is_named_as_it_is_or_as_it_is_printed(mirrored: AgentProcess) -> None:
    for name in ("caf\udce9/caf\udce9.jsonl", "caf\udce9/line\nline.txt"):  # one becomes an upload, the other is left alone
        (mirrored.drop / name).parent.mkdir(exist_ok=True)
        (mirrored.drop / name).write_text('{"text": "a"}\n')
    for _ in ("before its row", "after that"):
        for exact, printed in (
            ("caf\udce9/caf\udce9.jsonl", r"caf\xe9/caf\xe9.jsonl"),
            ("caf\udce9/line\nline.txt", r"caf\xe9/line\nline.txt"),
        ):
            for target in (exact, printed, f"{mirrored.drop}/{printed}"):
                (document,) = json.loads(mirrored.call("explain", target, "--json").stdout)
                assert document["name"] == printed
        mirrored.sync()
    assert json.loads(mirrored.call("explain", r"caf\xe9.jsonl", "--json").stdout)[0]["state"] == "uploaded"


def test_a_name_stands_for_every_file_of_that_name_unless_it_is_a_path(mirrored: AgentProcess) -> None:
    for folder in ("a", "b"):
        (mirrored.drop / folder).mkdir()
        (mirrored.drop / folder / "train.jsonl").write_text(f'{{"text": "{folder}"}}\n')
    mirrored.sync()
    named = json.loads(mirrored.call("explain", "train.jsonl", "--json").stdout)
    assert [document["name"] for document in named] == ["a/train.jsonl", "b/train.jsonl"]
    (mirrored.drop / "train.jsonl").write_text('{"text": "top"}\n')
    mirrored.sync()
    (document,) = json.loads(mirrored.call("explain", "train.jsonl", "--json").stdout)
    assert document["name"] == "train.jsonl"


def test_a_held_file_has_one_cause(mirrored: AgentProcess) -> None:
    mirrored.configure({"drop": {"include": ["*.jsonl*"]}, "mirror": {"reserve": "900TB"}})
    (mirrored.drop / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    mirrored.sync(expect=1)
    said = mirrored.call("explain", "packed.jsonl.gz").stdout
    assert said.startswith("packed.jsonl.gz: held: it can't be uploaded as things are: the reason says what to change\n")
    assert "[mirror] reserve" in said
    assert "shard" not in said


def test_a_new_file_says_what_keeps_it(tmp_path: Path) -> None:
    with FaultyServer() as server, AgentProcess(tmp_path / "box", server.url, KEY) as agent:

        def explained(name: str) -> dict[str, Any]:
            (agent.drop / name).write_text('{"text": "a"}\n')
            document: dict[str, Any]
            (document,) = json.loads(agent.call("explain", name, "--json").stdout)
            return document

        stopped = explained("first.jsonl")
        assert [kept.partition(": ")[0] for kept in stopped["keeps"]] == ["no agent runs"]
        assert (stopped["state"], stopped["reason"]) == ("no upload yet", "no agent looks at the folder now")
        assert f"no agent runs: {stopped['facts']['fix']}" in stopped["keeps"]
        agent.call("pause")
        agent.start()
        eventually("the pause", lambda: agent.status()["agent"]["paused"])
        assert explained("second.jsonl")["keeps"] == ["the agent is paused: `axomsync resume`"]
        agent.terminate()
        agent.configure({"drop": {"enabled": False}})
        agent.start()
        agent.call("resume")
        eventually("the end of the pause", lambda: not agent.status()["agent"]["paused"])
        off = explained("third.jsonl")
        assert off["facts"]["fix"] == "set [drop] enabled = true, then `axomsync reload`"
        assert off["keeps"] == [f"[drop] enabled is false: {off['facts']['fix']}"]
        agent.configure({"drop": {"settle": "1h"}})
        agent.call("reload")
        eventually("the row", lambda: "third.jsonl" in [row["path"] for row in agent.uploads()])
        assert explained("third.jsonl")["keeps"] == []


def test_a_model_says_that_this_agent_does_not_mirror(agent: AgentProcess) -> None:
    agent.configure({"mirror": {"enabled": False}})
    (document,) = json.loads(agent.call("explain", "m", "--json").stdout)
    assert document["keeps"][0] == "[mirror] enabled is false: set [mirror] enabled = true"
