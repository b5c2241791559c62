"""A console that refuses or can't be reached: messages, kept files, and recovery."""

from pathlib import Path
from threading import Event
from typing import Any

from axomsync.sandbox.console import Sandbox
from tests.drop.conftest import AgentFactory, dataset, puts, stored, tree
from tests.rig.agent import AgentProcess, eventually
from tests.rig.fixtures import SandboxFactory
from tests.rig.moody import MoodyStorage, refusal


def test_refused_key_ends_a_pass_with_4_and_changes_nothing(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    files = {f"{n}.jsonl": dataset(str(n)) for n in range(20)}
    agent = make_agent(sandbox, key="axom_live_wrong")
    for name, data in files.items():
        (agent.drop / name).write_bytes(data)
    done = agent.sync(expect=4)
    assert "the console refuses the API key (missing, wrong or revoked key): create a new one" in done.stderr
    assert "axom_live_wrong" not in done.stderr
    assert tree(agent.drop) == files
    assert len([request for request in sandbox.console_requests if request.status == 401]) <= 8  # no quick repeats
    agent.environ["AXOM_KEY"] = sandbox.key
    agent.sync()
    assert stored(sandbox) == {name: [data] for name, data in files.items()}


def test_key_without_the_scope_is_reported_with_its_name(sandbox: Sandbox, make_agent: AgentFactory) -> None:
    agent = make_agent(sandbox, key=sandbox.create_key(["read", "models"]))
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    done = agent.sync(expect=1)
    assert "the API key lacks the scope 'datasets'" in done.stderr
    assert tree(agent.drop) == {"a.jsonl": dataset("a")}


def test_unreachable_console_ends_a_pass_with_75_and_a_running_agent_waits(sandbox: Sandbox, agent: AgentProcess) -> None:
    sandbox.stop_console()
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    agent.start()
    eventually("the message", lambda: "a.jsonl: http" in agent.log())

    def problem() -> Any:
        return next((problem for problem in agent.status()["problems"] if problem["subject"] == "a.jsonl"), None)

    assert eventually("the problem", problem)["next_attempt"] is not None
    sandbox.start_console()
    eventually("the receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    assert agent.terminate() == 0
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
    assert len(puts(sandbox)) == 1


def test_key_refused_during_an_upload_does_not_strand_it(
    sandbox_factory: SandboxFactory, make_agent: AgentFactory, tmp_path: Path
) -> None:
    """The URL expires, a new one is requested, and at that moment the key is revoked."""
    sandbox = sandbox_factory(relay_class=MoodyStorage)
    storage = sandbox.relay
    assert isinstance(storage, MoodyStorage)
    revoked, key_file = Event(), tmp_path / "key"
    expired = refusal(403, "AccessDenied", "Request has expired")
    expired.hold = revoked
    storage.be("a.jsonl", expired)
    old_key = sandbox.create_key(["datasets"])
    key_file.write_text(old_key)
    agent = make_agent(sandbox, rescan="1h", config={"console": {"key_file": str(key_file)}})
    del agent.environ["AXOM_KEY"]
    (agent.drop / "a.jsonl").write_bytes(dataset("a"))
    agent.start()
    eventually("a PUT", lambda: storage.puts)
    sandbox.revoke_key(old_key)
    revoked.set()
    eventually("the refusal", lambda: "console: the console refuses the API key" in agent.log())
    assert tree(agent.drop) == {"a.jsonl": dataset("a")}
    key_file.write_text(sandbox.key)
    agent.hangup()
    eventually("the receipt", (agent.drop / "uploaded" / "a.jsonl.receipt.json").exists)
    assert agent.terminate() == 0
    assert stored(sandbox) == {"a.jsonl": [dataset("a")]}
