"""A gateway placed by `axomsync service install --gateway`, under a real systemd, with the agent and storage beside it."""

import json

from tests.rig.agent import eventually
from tests.rig.container import Container
from tests.rig.inside import SandboxInside
from tests.rig.installation import PROGRAM
from tests.systemd.conftest import CONFIG, KEY, UNIT

GATEWAY = "axomsync-gateway.service"
URL = "http://127.0.0.1:9080"


def test_a_gateway_is_placed_serves_and_is_removed(machine: Container, sandbox: SandboxInside) -> None:
    machine.run("sh", "-c", "mkdir -p /var/tmp/through && head -c 3000000 /dev/urandom > /var/tmp/through/w.bin")
    sandbox.steer("models", name="through", version="v1", folder="/var/tmp/through")
    storage = sandbox.storage
    said = machine.run(PROGRAM, "service", "install", "--gateway", storage, "--listen", "127.0.0.1:9080").stdout
    for line in ("/usr/sbin/nginx: can use the configuration", "/etc/axomsync-gateway/nginx.conf: written",
                 f"/usr/local/lib/systemd/system/{GATEWAY}: written", f"storage that it may ask: {storage}",
                 "systemctl enable --now axomsync-gateway"):  # fmt: skip
        assert line in said
    again = machine.run(PROGRAM, "service", "install", "--gateway", storage, "--listen", "127.0.0.1:9080").stdout
    assert "written" not in again
    verdict = machine.run("systemd-analyze", "verify", "--man=no", GATEWAY)
    assert verdict.stdout + verdict.stderr == ""
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", "--offline=yes", GATEWAY)
    machine.systemctl("enable", "--now", GATEWAY)
    ask = "exec 3<>/dev/tcp/127.0.0.1/9080; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    eventually("the gateway", lambda: "axomsync gateway" in machine.run("bash", "-c", ask, check=False).stdout)
    machine.write(CONFIG, f'[console]\nurl = "{sandbox.url}"\n[transfer]\ngateways = ["{URL}"]\n')
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    machine.systemctl("start", UNIT)

    def model() -> dict[str, object] | None:
        rows = json.loads(machine.run(PROGRAM, "models", "--json", "--config", CONFIG, check=False).stdout)
        return next((row for row in rows if row["state"] == "published"), None)

    assert eventually("the model", model)["bytes_from_gateways"] == 3_000_000
    logged = machine.journal(GATEWAY)
    assert "206 storage=206" in logged
    everything = machine.run("journalctl", "--no-pager", "--output=cat").stdout
    assert "X-Amz-Signature" not in everything
    machine.systemctl("reload", GATEWAY)
    assert machine.show(GATEWAY, "SubState") == "running"
    machine.systemctl("stop", UNIT)
    said = machine.run(PROGRAM, "service", "uninstall", "--gateway").stdout
    assert f"{GATEWAY}: stopped and disabled" in said
    assert "/var/cache/axomsync-gateway: removed" in said
    assert machine.run("pgrep", "nginx", check=False).returncode == 1
