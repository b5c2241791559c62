"""The agent as a process with gateways: reload, documents, metrics, doctor, and that proxies are not for gateways."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from axomsync.config import Settings
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer
from tests.rig.gateway import Gateway

FILES = {"w.bin": Content(3 << 20, seed=1), "config.json": Content(100, seed=2)}
TOTAL = sum(content.size for content in FILES.values())
NOBODY = "http://127.0.0.1:9"


def config(*gateways: str) -> dict[str, Any]:
    return {"drop": {"enabled": False}, "web": {"listen": "127.0.0.1:0"}, "transfer": {"gateways": list(gateways)}}


def model(agent: AgentProcess, name: str) -> dict[str, Any]:
    eventually("the model", (agent.mirror / name / "v1").exists)
    eventually("its end in the ledger", lambda: f"{name}/v1: published" in agent.log())
    return next(row for row in json.loads(agent.call("models", "--json").stdout) if row["name"] == name)


def test_a_list_that_is_reloaded_counts_at_once(tmp_path: Path, server: FaultyServer, gateway: Gateway) -> None:
    server.add_model("direct", "v1", FILES)
    # A proxy that nobody runs: loopback and gateways must not be asked through it.
    environ = {"http_proxy": NOBODY, "https_proxy": NOBODY}
    with AgentProcess(tmp_path / "box", server.url, KEY, config(), environ=environ) as agent:
        agent.start()
        first = model(agent, "direct")
        assert first["bytes_from_gateways"] == 0
        agent.configure(config(gateway.url, NOBODY))
        agent.hangup()
        eventually("the new list", lambda: "reloaded" in agent.log())
        server.add_model("through", "v1", FILES)
        second = model(agent, "through")
        assert second["bytes_from_gateways"] == TOTAL
        assert "from gateways" in agent.call("models").stdout
        states = {row["gateway"]: row["up"] for row in agent.status()["mirror"]["gateways"]}
        assert states[gateway.url] is True
        page = agent.status()["agent"]["page"]
        with urllib.request.urlopen(f"{page}metrics") as answer:
            metrics = answer.read().decode()
        assert f'axomsync_gateway_up{{gateway="{gateway.url}"}} 1.0' in metrics
        came = [line for line in metrics.splitlines() if line.startswith("axomsync_gateway_bytes_total{")]
        assert [line.partition('"')[2].partition('"')[0] for line in came] == ["owner", "next", "storage", "wrong"]
        assert sum(float(line.rpartition(" ")[2]) for line in came) == TOTAL
        done = agent.call("doctor", "--json", "--no-write")
        found = [row for row in json.loads(done.stdout) if row["subject"] == "gateway"]
        assert [(row["verdict"], row["found"].split()[0].rstrip(":")) for row in found] == [
            ("ok", gateway.url),
            ("warn", NOBODY),
        ]


def test_gateways_are_written_one_way() -> None:
    settings = Settings.model_validate({"transfer": {"gateways": ["http://Box1:9080/", "https://[fd00::1]:9080"]}})
    assert settings.transfer.gateways == ("http://box1:9080", "https://[fd00::1]:9080")
