"""What deploy/ promises, with the tools themselves: a role on three booted machines, user data on one, a built image."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.programs import DEPLOY, yaml_documents
from tests.rig.agent import eventually
from tests.rig.container import Container
from tests.rig.faults import KEY, Content, FaultyServer
from tests.rig.inside import sandbox_inside
from tests.rig.installation import CHECKOUT, machine_with_program
from tests.rig.network import join

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1200)]

UNIT = "axomsync.service"
PACKAGES, TOOLS, ROLE = "/opt/packages", "/opt/ansible-environment", "/opt/checkout/deploy/ansible"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environ = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none"}
    folder = tmp_path_factory.mktemp("packages")
    build: list[str | Path] = [CHECKOUT / "debian/build.sh", sys.executable, folder]
    done = subprocess.run(build, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def machines(package: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Container]]:
    more = {package.parent: PACKAGES, CHECKOUT / ".venv/deploy": TOOLS}
    with ExitStack() as stack:
        yield [stack.enter_context(machine_with_program(tmp_path / f"box-{n}", more)) for n in range(request.param)]


def play(
    machine: Container, variables: dict[str, object], boxes: Sequence[str] = ("box",), box: str = "box"
) -> dict[str, int]:
    """Run the role on a machine, from there, as `box` of the inventory; returns the recap."""
    machine.write("/root/hosts.ini", "\n".join(("[axomsync]", *boxes, "")))
    machine.write("/root/variables.json", json.dumps(variables))
    machine.write("/root/play.yml", "- {hosts: all, become: false, roles: [axomsync]}\n")
    done = machine.run(
        "env", "HOME=/root", "LC_ALL=C.UTF-8", f"ANSIBLE_ROLES_PATH={ROLE}/roles",
        f"{TOOLS}/bin/python", "-m", "ansible", "playbook", "--connection=local",
        "--inventory=/root/hosts.ini", f"--limit={box}",
        "--extra-vars=@/root/variables.json", "--extra-vars=ansible_python_interpreter=/usr/bin/python3", "/root/play.yml",
        timeout=300,
    )  # fmt: skip
    (recap,) = re.findall(rf"^{box} +: (.*)$", done.stdout, re.MULTILINE)
    return {name: int(count) for name, count in (word.split("=") for word in recap.split())}


@pytest.mark.parametrize("machines", [3], indirect=True)
def test_the_role_changes_nothing_the_second_time(machines: list[Container], package: Path) -> None:
    for machine in machines:
        with sandbox_inside(machine) as sandbox:
            variables: dict[str, object] = {
                "axomsync_package": f"{PACKAGES}/{package.name}",
                "axomsync_key": sandbox.key,
                "axomsync_config": {"console": {"url": sandbox.url}, "mirror": {"keep": 2, "reserve": "4MiB"}},
            }
            first = play(machine, variables)
            assert (first["failed"], first["changed"] > 0) == (0, True), first
            status = eventually("a poll", lambda m=machine: told(m))
            assert status["agent"]["running"]
            pid = machine.show(UNIT, "MainPID")
            second = play(machine, variables)
            assert (second["failed"], second["changed"]) == (0, 0), second
            if machine is not machines[0]:
                continue
            third = play(machine, {**variables, "axomsync_config": {"console": {"url": sandbox.url}, "mirror": {"keep": 3}}})
            assert (third["failed"], third["changed"]) == (0, 2), "the file, and the reload"
            assert machine.show(UNIT, "MainPID") == pid, "no transfer is interrupted"
            assert "keep = 3" in machine.run("cat", "/etc/axomsync/config.toml").stdout
            logged = [line for line in machine.run("journalctl", "--no-pager").stdout.splitlines() if "ansible" in line]
            assert logged
            assert sandbox.key not in "".join(logged)


@pytest.mark.parametrize("machines", [3], indirect=True)
def test_boxes_are_each_others_gateways_as_the_page_says(machines: list[Container], package: Path) -> None:
    page = (CHECKOUT / "docs/fleet.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(axomsync_gateway_for:.*?)```", page, re.DOTALL)
    (variables,) = yaml_documents(example)
    with sandbox_inside(machines[0]) as sandbox:
        boxes = join(machines, [int(url.split(":")[2].partition("/")[0]) for url in (sandbox.url, sandbox.storage)])
        variables |= {
            "axomsync_package": f"{PACKAGES}/{package.name}",
            "axomsync_key": sandbox.key,
            "axomsync_web_token": "the-token-of-the-page",
            "axomsync_gateway_for": [sandbox.storage],
        }
        variables["axomsync_config"] |= {
            "console": {"url": sandbox.url}, "mirror": {"poll": "1s", "reserve": "4MiB"},
            "web": {"listen": "0.0.0.0:9464", "token_file": "/etc/axomsync/web-token"},
        }  # fmt: skip
        for box, machine in zip(boxes, machines, strict=True):
            first = play(machine, variables, boxes, box)
            assert (first["failed"], first["changed"] > 0) == (0, True), first
        machines[0].run("sh", "-c", "mkdir /var/tmp/model && head -c 20000000 /dev/urandom > /var/tmp/model/w.bin")
        sandbox.steer("models", name="m", version="v1", folder="/var/tmp/model")
        digest = machines[0].run("sha256sum", "/var/tmp/model/w.bin").stdout.split()[0]
        for box, machine in zip(boxes, machines, strict=True):
            (row,) = eventually(f"the model on {box}", lambda m=machine: published(m))
            assert int(str(row["bytes_from_gateways"])) > 0, row
            assert machine.run("sha256sum", "/srv/axom/models/m/v1/w.bin").stdout.split()[0] == digest
            second = play(machine, variables, boxes, box)
            assert (second["failed"], second["changed"]) == (0, 0), second
        assert 'gateways = ["http://box1:9080", "http://box2:9080", "http://box3:9080"]' in configured(machines[0])
        page_of_another = ["curl", "-sf", "-H", "Authorization: Bearer the-token-of-the-page", "http://box3:9464/metrics"]
        assert 'axomsync_gateway_up{gateway="http://box1:9080"} 1' in machines[0].run(*page_of_another).stdout


def published(machine: Container) -> list[dict[str, object]]:
    rows = json.loads(machine.run("axomsync", "models", "--json", check=False).stdout)
    return [row for row in rows if row["state"] == "published"]


def configured(machine: Container) -> str:
    return machine.run("cat", "/etc/axomsync/config.toml").stdout


def told(machine: Container) -> dict[str, dict[str, object]] | None:
    status: dict[str, dict[str, object]] = json.loads(machine.run("axomsync", "status", "--json").stdout)
    return status if status["console"]["ok"] else None


@pytest.mark.parametrize("machines", [1], indirect=True)
def test_user_data_installs_and_starts_the_agent(machines: list[Container], package: Path) -> None:
    (machine,) = machines
    (data,) = yaml_documents((DEPLOY / "cloud-init/user-data.yaml").read_text(encoding="utf-8"))
    digest = machine.run("sha256sum", f"{PACKAGES}/{package.name}").stdout.split()[0]
    with sandbox_inside(machine) as sandbox:
        for file in data["write_files"]:
            text = file["content"].replace("axom_live_PUT_THE_KEY_HERE", sandbox.key).replace("PUT_THE_DIGEST_HERE", digest)
            text = text.replace("https://packages.example.net/axomsync_0.1.0_amd64.deb", f"file://{PACKAGES}/{package.name}")
            text = text.replace("[mirror]", f'[console]\nurl = "{sandbox.url}"\n[mirror]')
            text = text.replace("apt-get update -qq", ":")  # there is no network
            machine.write(file["path"], text, int(file["permissions"], 8))
        for command in data["runcmd"]:
            machine.run(*command, timeout=300)
        assert eventually("a poll", lambda: told(machine))
        assert "keep = 2" in machine.run("cat", "/etc/axomsync/config.toml").stdout
        machine.write("/root/other.deb", "not the package")
        script = machine.run("cat", "/usr/local/sbin/install-axomsync").stdout
        machine.write("/root/again", script.replace(f"{PACKAGES}/{package.name}", "/root/other.deb"), 0o755)
        refused = machine.run("/root/again", check=False)
        assert (refused.returncode, "FAILED" in refused.stdout + refused.stderr) == (1, True), refused


# The image


def buildah(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], str]:
    """What runs a command in the image, which is built from deploy/Containerfile over this machine's Debian release."""
    folder = tmp_path_factory.mktemp("image")
    storage = ("--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs")
    release = next(line for line in Path("/etc/os-release").read_text().splitlines() if line.startswith("VERSION_CODENAME="))
    tree = folder / "tree"
    subprocess.run(
        ["debootstrap", "--variant=minbase", release.partition("=")[2], tree], check=True, capture_output=True, text=True
    )
    # Where this machine finds packages is its own business: the build gets the same.
    for place in ("apt/sources.list", "apt/sources.list.d", "apt/apt.conf.d", "apt/auth.conf.d"):
        source, target = Path("/etc", place), tree / "etc" / place
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, target)
    base = buildah(*storage, "from", "scratch").stdout.strip()
    buildah(*storage, "add", base, tree, "/")
    buildah(*storage, "commit", base, "localhost/base")
    shutil.rmtree(tree)
    build = ("bud", "--isolation", "chroot", "--build-arg", "BASE=localhost/base", "--tag", "localhost/axomsync")
    buildah(*storage, *build, *handed_on(folder), "--file", DEPLOY / "Containerfile", ".")
    return (*storage, "run", "--isolation", "chroot"), buildah(*storage, "from", "localhost/axomsync").stdout.strip()


def handed_on(folder: Path) -> list[str]:
    """Options that give pip in the build the configuration that it has on this machine, if any."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    values = {}
    for name, _, value in (line.partition("=") for line in listed.stdout.splitlines()):
        values[name.strip(".").rpartition(".")[2]] = value.strip("'")
    mounts = []
    for name, value in values.items():
        if os.path.isabs(value) and os.path.exists(value):
            place = f"/mnt/{name}"
            mounts.append(f"--volume={value}:{place}:ro")
            values[name] = place
    settings = folder / "pip.conf"
    settings.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    return [*mounts, f"--volume={settings}:/etc/pip.conf:ro"]


def test_the_image_runs_as_it_says(image: tuple[tuple[str, ...], str]) -> None:
    options, container = image
    with FaultyServer() as server:
        server.add_model("m", "v1", {"w": Content(100_000)})
        settings = {
            "AXOMSYNC_CONSOLE__URL": server.url, "AXOMSYNC_STATE__FOLDER": "/var/lib/axomsync", "AXOM_KEY": KEY,
            "AXOMSYNC_DROP__FOLDER": "/srv/axom/drop", "AXOMSYNC_MIRROR__FOLDER": "/srv/axom/models",
            "AXOMSYNC_MIRROR__RESERVE": "1MiB",
        }  # fmt: skip

        def inside(*words: str) -> str:
            given = (f"--env={name}={value}" for name, value in settings.items())
            return buildah(*options, *given, container, *words).stdout

        assert inside("axomsync", "--version").startswith("axomsync, version")
        assert inside("id", "-u").strip() == "54321"
        inside("axomsync", "sync")
        assert inside("axomsync", "wait", "m", "--timeout", "5s") == "/srv/axom/models/m/v1\n"
        assert "source" not in inside("ls", "/").split(), "the build stays outside"
