"""A whole session with everything that goes wrong, and then a search for the key and for signatures in all that it left."""

import json
import os
import re
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from axomsync.sandbox.console import Sandbox
from tests.rig.agent import AgentProcess, eventually
from tests.rig.fixtures import SandboxFactory
from tests.rig.recording import RecordingRelay

SECRET = re.compile(rb"x-amz-(signature|credential|security-token|algorithm|expires|date)", re.IGNORECASE)


def command_line(agent: AgentProcess) -> bytes:
    assert agent.process is not None
    return Path(f"/proc/{agent.process.pid}/cmdline").read_bytes()


def signatures(relay: RecordingRelay) -> set[str]:
    found = {match for request in relay.requests for match in re.findall(r"X-Amz-Signature=([0-9a-f]{64})", request.query)}
    assert found, "no signed URL was used: this proves nothing"
    return found


def session(sandbox: Sandbox, agent: AgentProcess, files: Path) -> bytes:
    """Upload, download, refusals, expired URLs, broken connections; returns the agent's command line."""
    relay = sandbox.relay
    assert isinstance(relay, RecordingRelay)
    files.mkdir()
    (files / "w.bin").write_bytes(os.urandom(400_000))
    sandbox.rate = 200_000
    relay.cut(100_000)
    relay.cut(10, method="PUT")
    (agent.drop / "a.jsonl").write_text('{"text": "' + "x" * 100_000 + '"}\n')
    (agent.drop / "broken.jsonl").write_text('{"text": \n')
    model = sandbox.publish_model("llama", "v1", files)
    agent.start()
    eventually("the model", (agent.mirror / "llama" / "v1" / "w.bin").exists)
    eventually("the receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    eventually("the reason", (agent.drop / "rejected" / "broken.jsonl.reason.txt").exists)
    seen = command_line(agent)
    relay.stop_accepting()
    relay.drop_connections()
    (agent.drop / "b.jsonl").write_text('{"text": "b"}\n')
    eventually("a storage in trouble", lambda: "can't connect" in agent.log())
    sandbox.revoke_key(agent.environ["AXOM_KEY"])
    sandbox.set_model_status(model, "archived")
    agent.hangup()
    eventually("the refusal", lambda: "the console refuses the API key" in agent.log())
    return seen


@pytest.mark.parametrize("form", ["console", "json", "journal"])
def test_neither_key_nor_signature_is_left_anywhere(form: str, sandbox_factory: SandboxFactory, tmp_path: Path) -> None:
    sandbox = sandbox_factory(url_lifetime=timedelta(seconds=2))
    key = sandbox.create_key(["read", "models", "datasets"])
    config = {"log": {"format": form, "level": "debug"}}
    with AgentProcess(tmp_path / "box", sandbox.url, key, config) as agent:
        cmdline = session(sandbox, agent, tmp_path / "files")
        exports = [agent.call(verb, "--json") for verb in ("status", "uploads", "models", "datasets")]
        tables = [agent.call(verb) for verb in ("status", "uploads", "models")]
        shown = agent.call("config", "show")
        assert agent.terminate() == 0
        assert isinstance(sandbox.relay, RecordingRelay)
        secrets = {key, *signatures(sandbox.relay)}

        texts = {"command line": cmdline, "log": agent.log_file.read_bytes()}
        for number, done in enumerate([*exports, *tables, shown]):
            texts[f"output {number}"] = (done.stdout + done.stderr).encode()
        for path in agent.home.rglob("*"):
            if path.is_file() and path.parent != agent.state and path != agent.log_file:
                texts[str(path)] = path.read_bytes()
        ledger = sqlite3.connect(agent.state / "state.db")
        tables_kept = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in tables_kept:
            if name != "signed_urls":
                texts[f"table {name}"] = repr(ledger.execute(f"SELECT * FROM {name}").fetchall()).encode()
        urls = ledger.execute("SELECT url FROM signed_urls").fetchall()
        ledger.close()
        assert key not in repr(urls)
        assert len(urls) <= 1, "URLs of uploads that are over are kept"

        assert {"table uploads", "table models"} <= set(texts)
        assert any(name.endswith("a.jsonl.receipt.json") for name in texts)
        assert any(name.endswith("broken.jsonl.reason.txt") for name in texts)
        assert any(name.endswith(".axomsync.json") for name in texts)
        for name, text in texts.items():
            for secret in secrets:
                assert secret.encode() not in text, name
            assert not SECRET.search(text), name
        if form == "json":
            assert all(json.loads(line) for line in agent.log().splitlines())
        for file in agent.state.iterdir():
            assert file.stat().st_mode & 0o007 == 0, f"others can read {file}"
        for request in sandbox.relay.requests:
            assert "authorization" not in request.headers
            assert "cookie" not in request.headers
