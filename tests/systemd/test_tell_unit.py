"""`tell unit` as the service's user, under a real systemd: polkit decides, by the rule that is shipped."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.rig.agent import eventually
from tests.rig.container import Container
from tests.rig.inside import SandboxInside
from tests.rig.installation import PROGRAM, SOURCES
from tests.systemd.conftest import CONFIG, KEY, UNIT

RULES = "/etc/polkit-1/rules.d/50-axomsync-vllm.rules"
MODELS = "/srv/axom/models"
# The model `bot` and the one with an odd name; a version whose config.json is missing does not start.
TEMPLATE = f"""
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -ec 'cat {MODELS}/bot/current/config.json; systemd-notify --ready; exec sleep 1000'
ExecReload=/bin/true
"""


class Engines:
    """The unit of each model, and the verb as the service's user runs it."""

    def __init__(self, machine: Container) -> None:
        self.machine = machine

    def publish(self, version: str, name: str = "bot") -> None:
        folder = f"{MODELS}/{name}/{version}"
        self.machine.write(f"{folder}/config.json", "{}")
        self.machine.run("ln", "-sfn", version, f"{MODELS}/{name}/current")

    def tell(self, version: str, *options: str, name: str = "bot", age: float = 0.0, life: str = "60") -> tuple[int, str]:
        """Exit code and output. `age`: seconds since the event; `life`: seconds until the process is killed."""
        model = {"id": "i", "name": name, "version": version, "path": f"{MODELS}/{name}/{version}"}
        at = (datetime.now(UTC) - timedelta(seconds=age)).isoformat(timespec="seconds")
        event = json.dumps({"event": "model_published", "at": at, "model": model})
        # as a hook of the hardened unit runs: it can't gain rights by a program with the setuid bit
        words = (
            "timeout",
            "--signal=KILL",
            life,
            "setpriv",
            "--reuid=axomsync",
            "--regid=axomsync",
            "--init-groups",
            "--no-new-privs",
            PROGRAM,
        )
        done = self.machine.run(*words, "tell", "unit", *options, check=False, stdin=event)
        return done.returncode, done.stdout + done.stderr

    def allow(self) -> None:
        """Install the rule as the documents tell: polkit may look at the file before install(1) has made it readable."""
        self.machine.run("install", "-D", "-m", "644", f"{SOURCES}/systemd/examples/50-axomsync-vllm.rules", RULES)
        self.machine.systemctl("try-restart", "polkit")

    def pid(self, unit: str) -> int:
        return int(self.machine.show(unit, "MainPID"))


@pytest.fixture
def engines(machine: Container) -> Iterator[Engines]:
    machine.write("/run/systemd/system/vllm@.service", TEMPLATE)
    machine.write("/run/systemd/system/other.service", "[Service]\nExecStart=/bin/sleep 1000\n")
    machine.systemctl("daemon-reload")
    engines = Engines(machine)
    engines.publish("v1")
    machine.systemctl("start", "vllm@bot.service", "other.service")
    yield engines
    machine.systemctl("stop", "vllm@*.service", "other.service")
    machine.run("rm", "-rf", RULES, f"{MODELS}/bot", f"{MODELS}/a b")


def test_the_service_may_restart_what_the_rule_names(engines: Engines) -> None:
    unit = "vllm@bot.service"
    before = engines.pid(unit)
    code, words = engines.tell("v1", "--name", "vllm@{name}.service")
    assert (code, "50-axomsync-vllm.rules" in words, words.count("\n")) == (1, True, 1), words
    assert engines.pid(unit) == before

    engines.allow()
    assert engines.tell("v1", "--name", "vllm@{name}.service")[0] == 0
    after = engines.pid(unit)
    assert after not in (0, before)
    assert engines.tell("v1", "--name", "vllm@{name}.service", age=-5)[0] == 0  # a later event
    again = engines.pid(unit)
    assert again not in (0, after)

    assert engines.tell("v1", "--name", "vllm@{name}.service", age=60) == (0, "vllm@bot.service serves bot/v1\n")
    assert engines.pid(unit) == again, "it was started after the event"
    assert engines.tell("v1", "--name", "vllm@{name}.service", "--reload", age=60)[0] == 0
    assert engines.pid(unit) == again, "a reload keeps the process"

    code, words = engines.tell("v1", "--name", "other.service")
    assert (code, "50-axomsync-vllm.rules" in words) == (1, True), words
    assert engines.tell("v1", "--name", "vllm@idle.service") == (0, "vllm@idle.service does not run\n")
    code, words = engines.tell("v1", "--name", "nobody.service")
    assert (code, "there is no such unit" in words) == (1, True), words

    engines.publish("v1", "a b")
    engines.machine.systemctl("start", r"vllm@a\x20b.service")
    assert engines.tell("v1", "--name", "vllm@{name}.service", name="a b", age=60)[0] == 0

    engines.publish("v2")
    engines.machine.run("rm", f"{MODELS}/bot/v2/config.json")
    code, words = engines.tell("v2", "--name", "vllm@{name}.service")
    assert (code, "vllm@bot.service" in words, words.count("\n")) == (1, True, 1), words
    engines.machine.write(f"{MODELS}/bot/v2/config.json", "{}")
    assert engines.tell("v2", "--name", "vllm@{name}.service")[0] == 0, "a unit that failed is started"
    for life in ("0.3", "0.4", "0.5"):
        engines.tell("v2", "--name", "vllm@{name}.service", age=-60, life=life)
    code, words = engines.tell("v2", "--name", "vllm@{name}.service", age=-60)
    assert code == 0, words
    assert engines.machine.show(unit, "ActiveState") == "active"


def test_a_hook_of_the_hardened_service_restarts_the_unit(engines: Engines, sandbox: SandboxInside) -> None:
    machine, unit = engines.machine, "vllm@bot.service"
    engines.allow()
    machine.run("rm", "-rf", f"{MODELS}/bot")
    machine.write("/var/tmp/bot/config.json", "{}")
    sandbox.steer("models", name="bot", version="v7", folder="/var/tmp/bot")
    hook = json.dumps([PROGRAM, "tell", "unit", "--name", "vllm@{name}.service"])
    config = f'[console]\nurl = "{sandbox.url}"\n[drop]\nenabled = false\n[mirror]\npoll = "500ms"\n[hooks]\n'
    machine.write(CONFIG, f"{config}model_published = {hook}\n")
    machine.write(KEY, sandbox.key + "\n", mode=0o600)
    before = engines.pid(unit)
    machine.systemctl("start", UNIT)
    eventually("the hook", lambda: "vllm@bot.service serves bot/v7" in machine.journal(UNIT), patience=90)
    assert engines.pid(unit) not in (0, before)
    machine.systemctl("stop", UNIT)
