"""A real agent whose hooks tell an engine: a new version, an engine that does not answer at first, a version that goes."""

import sys
from pathlib import Path

from tests.rig.agent import AgentProcess, eventually
from tests.rig.engines import Vllm
from tests.rig.faults import KEY, Content, FaultyServer


def test_the_agent_has_its_engine_serve_what_it_publishes(tmp_path: Path) -> None:
    files = {"adapter_config.json": Content(20, head=b'{"r": 8}'), "adapter.bin": Content(5000)}
    with FaultyServer() as server, Vllm() as engine:
        tell = [sys.executable, "-m", "axomsync", "tell", "vllm-lora", "--url", engine.url, "--name", "{name}:{version}"]
        config = {
            "drop": {"enabled": False},
            "mirror": {"keep": 1},
            "hooks": {"model_published": tell, "model_removed": tell, "timeout": "1m"},
        }
        with AgentProcess(tmp_path, server.url, KEY, config) as agent:
            engine.fault = "503"  # once
            server.add_model("bot", "v1", files)
            agent.start()
            eventually("v1", lambda: engine.adapters == {"bot:v1": str(agent.mirror / "bot" / "v1")})
            assert engine.calls().count("POST /v1/load_lora_adapter") == 2
            assert "hook model_published" in agent.log()
            assert "ended with 75; it said: axomsync: POST" in agent.log()
            server.add_model("bot", "v2", files)
            eventually("v2", lambda: engine.adapters == {"bot:v2": str(agent.mirror / "bot" / "v2")})
            eventually("the removal of v1, told", lambda: "hook model_removed: done" in agent.log())
            assert engine.adapters == {"bot:v2": str(agent.mirror / "bot" / "v2")}
            assert agent.terminate() == 0


def test_the_engine_serves_what_current_leads_to_whoever_moved_it(tmp_path: Path) -> None:
    """One hook for publication, promotion and rollback."""
    files = {"adapter_config.json": Content(20, head=b'{"r": 8}'), "adapter.bin": Content(5000)}
    with FaultyServer() as server, Vllm() as engine:
        tell = [sys.executable, "-m", "axomsync", "tell", "vllm-lora", "--url", engine.url]
        config = {"drop": {"enabled": False}, "hooks": {"current_moved": tell, "timeout": "1m"}}
        with AgentProcess(tmp_path, server.url, KEY, config) as agent:
            bot = agent.mirror / "bot"
            server.add_model("bot", "v1", files)
            agent.start()
            eventually("v1", lambda: engine.adapters == {"bot": str(bot / "v1")})
            server.add_model("bot", "v2", files)
            eventually("v2", lambda: engine.adapters == {"bot": str(bot / "v2")})
            assert agent.call("rollback", "bot").returncode == 0
            eventually("v1 again", lambda: engine.adapters == {"bot": str(bot / "v1")})
            assert agent.call("unpin", "bot").returncode == 0
            eventually("v2 again", lambda: engine.adapters == {"bot": str(bot / "v2")})
            assert agent.terminate() == 0


def test_the_engine_follows_a_model_that_is_renamed_in_the_console(tmp_path: Path) -> None:
    files = {"adapter_config.json": Content(20, head=b'{"r": 8}'), "adapter.bin": Content(5000)}
    with FaultyServer() as server, Vllm() as engine:
        tell = [sys.executable, "-m", "axomsync", "tell", "vllm-lora", "--url", engine.url]
        config = {"drop": {"enabled": False}, "hooks": {"current_moved": tell, "model_removed": tell, "timeout": "1m"}}
        with AgentProcess(tmp_path, server.url, KEY, config) as agent:
            server.add_model("bot", "v1", files)
            agent.start()
            eventually("v1", lambda: engine.adapters == {"bot": str(agent.mirror / "bot" / "v1")})
            server.models[0]["version"] = "v1.0"
            eventually("its new label", lambda: engine.adapters == {"bot": str(agent.mirror / "bot" / "v1.0")})
            server.models[0]["name"] = "chat"
            eventually("its new name", lambda: engine.adapters == {"chat": str(agent.mirror / "chat" / "v1.0")})
            assert agent.terminate() == 0
