"""The files in deploy/: schemas, and that what they say to axomsync is understood. Long runs are in `test_long.py`."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axomsync import config
from axomsync.cli import cli
from tests.deploy.programs import BIN, DEPLOY, yaml_documents
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY, Content, FaultyServer

MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents() -> Iterator[dict[str, Any]]:
    for manifest in MANIFESTS:
        yield from yaml_documents(manifest.read_text(encoding="utf-8"))


def our_containers() -> list[dict[str, Any]]:
    pods = [document["spec"]["template"]["spec"] for document in documents() if "template" in document.get("spec", {})]
    containers = [one for pod in pods for one in (*pod["initContainers"], *pod["containers"])]
    return [one for one in containers if "/axomsync:" in one["image"]]


@pytest.mark.parametrize("version", ["1.29.0", "1.35.0"])
def test_manifests_pass_kubernetes_schemas(version: str) -> None:
    done = subprocess.run(
        [BIN / "kubernetes-validate", "--strict", "--kubernetes-version", version, *MANIFESTS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = re.findall(r"passed for resource (\w+)/", done.stdout + done.stderr)
    assert sorted(kinds) == ["configmap", "daemonset", "deployment"]


def test_what_manifests_say_to_axomsync_is_understood() -> None:
    (settings,) = [document["data"]["config.toml"] for document in documents() if document["kind"] == "ConfigMap"]
    loaded = config.parse(settings, Path("config.toml"), {}).settings
    assert str(loaded.console.key_file) == "/run/secrets/axomsync/key"
    mounts = [mount["mountPath"] for one in our_containers() for mount in one["volumeMounts"]]
    for path in (loaded.state.folder, loaded.drop.folder.parent, loaded.console.key_file, loaded.web.token_file):
        assert any(Path(str(path)).is_relative_to(mount) for mount in mounts), path
    commands = [one["args"] for one in our_containers() if "args" in one]
    assert [command[0] for command in commands] == ["run", "wait"]
    for words in commands:
        cli.commands[words[0]].make_context(words[0], list(words[1:]))
    for one in our_containers():
        config.parse("", Path("none"), {each["name"]: each["value"] for each in one.get("env", [])})
        security = one["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"]["drop"] == ["ALL"]


def test_an_init_container_waits_although_it_may_write_nothing(tmp_path: Path) -> None:
    with FaultyServer() as server, AgentProcess(tmp_path / "box", server.url, KEY) as agent:
        agent.start()
        settings = {"AXOMSYNC_STATE__FOLDER": str(agent.state), "AXOMSYNC_MIRROR__FOLDER": str(agent.mirror)}
        outside = {name: value for name, value in os.environ.items() if not name.startswith("AXOM")}
        words = [*agent.command("wait", "chassis")[:3], "wait", "chassis", "--timeout", "30s"]
        script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
        waiting = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", agent.home, *words],
            env={**outside, **settings}, cwd="/", stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        eventually("a poll", lambda: agent.status()["console"]["last_poll"])
        assert waiting.poll() is None
        server.add_model("chassis", "v1", {"w": Content(100)})
        assert waiting.communicate()[0].strip() == str(agent.mirror / "chassis" / "v1")
        assert waiting.returncode == 0


def test_playbook_and_role_are_understood() -> None:
    done = subprocess.run(
        [BIN / "ansible-playbook", "--syntax-check", "-i", "hosts.ini.example", "site.yml"],
        cwd=DEPLOY / "ansible", env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_configuration_of_the_role_is_toml(tmp_path: Path) -> None:
    variables = {
        "axomsync_config": {
            "mirror": {"keep": 2, "include": ["llama-*", 'with "quotes" and ä'], "warm": "current"},
            "drop": {"enabled": False},
        }
    }
    written = tmp_path / "config.toml"
    template = DEPLOY / "ansible/roles/axomsync/templates/config.toml.j2"
    done = subprocess.run(
        [
            BIN / "ansible", "localhost", "--connection=local", "--module-name=ansible.builtin.template",
            f"--args=src={template} dest={written}", "--extra-vars", json.dumps(variables),
        ],
        env={**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_PYTHON_INTERPRETER": str(BIN / "python")},  # noqa: E501
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    settings = config.parse(written.read_text(encoding="utf-8"), written, {}).settings
    assert (settings.mirror.keep, settings.drop.enabled) == (2, False)
    assert settings.mirror.include[1] == 'with "quotes" and ä'


def test_the_build_of_the_image_sees_what_it_copies_and_all_that_links_lead_to() -> None:
    """`make stress` builds it. Of the checkout, the build sees only what `.containerignore` lets through."""
    root = DEPLOY.parent
    seen = {line[1:] for line in (root / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert {source for copy in copies for source in copy.split()} == seen
    copied = [root / source for source in seen]
    links = [path for top in copied for path in top.rglob("*") if path.is_symlink()]
    assert links, "the package has links to files outside it"
    for link in links:
        assert any(link.resolve().is_relative_to(top) for top in copied), link
