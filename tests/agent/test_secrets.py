"""A whole session with every kind of failure, then a search for the key and for signatures in all its remains."""

import os
import re
import sqlite3
from datetime import timedelta
from pathlib import Path

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


def log_as(agent: AgentProcess, form: str) -> None:
    """Make the running agent log everything, in another format."""
    before = agent.log().count("reloaded")
    agent.configure({"log": {"format": form, "level": "debug"}})
    agent.hangup()
    eventually("the reload", lambda: agent.log().count("reloaded") > before)


def session(sandbox: Sandbox, agent: AgentProcess, files: Path) -> bytes:
    """Upload, download, refusals, expired URLs, broken connections, all log formats; returns the agent's command line."""
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
    seen = command_line(agent)
    eventually("the model", (agent.mirror / "llama" / "v1" / "w.bin").exists)
    eventually("the receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    eventually("the reason", (agent.drop / "rejected" / "broken.jsonl.reason.txt").exists)
    log_as(agent, "json")
    relay.stop_accepting()
    relay.drop_connections()
    (agent.drop / "b.jsonl").write_text('{"text": "b"}\n')
    eventually("a storage in trouble", lambda: "can't connect" in agent.log())
    log_as(agent, "journal")
    sandbox.revoke_key(agent.environ["AXOM_KEY"])
    sandbox.set_model_status(model, "archived")
    eventually("the refusal", lambda: "<4>console: the console refuses the API key" in agent.log())
    return seen


def left_by(agent: AgentProcess) -> dict[str, bytes]:
    """Everything that an agent has written and a person may copy: files, and the ledger's tables except the secret one."""
    texts = {str(path): path.read_bytes() for path in agent.home.rglob("*") if path.is_file() and path.parent != agent.state}
    ledger = sqlite3.connect(agent.state / "state.db")
    for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if name != "signed_urls":
            texts[f"table {name}"] = repr(ledger.execute(f"SELECT * FROM {name}").fetchall()).encode()
    ledger.close()
    return texts


def test_key_and_signatures_are_left_nowhere(sandbox_factory: SandboxFactory, tmp_path: Path) -> None:
    sandbox = sandbox_factory(url_lifetime=timedelta(seconds=2))
    key = sandbox.create_key(["read", "models", "datasets"])
    config = {"log": {"format": "console", "level": "debug"}}
    with AgentProcess(tmp_path / "box", sandbox.url, key, config) as agent:
        texts = {"command line": session(sandbox, agent, tmp_path / "files")}
        for verb in (("status", "--json"), ("uploads", "--json"), ("models", "--json"), ("status",), ("config", "show")):
            done = agent.call(*verb)
            texts[" ".join(verb)] = (done.stdout + done.stderr).encode()
        assert agent.terminate() == 0
        texts |= left_by(agent)

        for expected in ("agent.log", "a.jsonl.receipt.json", "broken.jsonl.reason.txt", ".axomsync.json", "table uploads"):
            assert any(name.endswith(expected) for name in texts), expected
        assert isinstance(sandbox.relay, RecordingRelay)
        secrets = {key, *signatures(sandbox.relay)}
        for name, text in texts.items():
            assert not SECRET.search(text), name
            for secret in secrets:
                assert secret.encode() not in text, name
        for file in agent.state.iterdir():
            assert file.stat().st_mode & 0o007 == 0, f"others can read {file}"
        for request in sandbox.relay.requests:
            assert not {"authorization", "cookie"} & set(request.headers)
