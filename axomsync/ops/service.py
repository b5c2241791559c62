"""Installs axomsync as a service, of the machine or of one user, and uninstalls it; as often as there are instances.

Owns the units, the service's user, its folders and the first configuration. An instance has folders, a configuration and a
key of its own, and a unit that is made of the same template. May be run again at any time: files that are the
same are left alone. Units are written over, since changes to them belong into drop-ins; a configuration never is. Each step
is echoed in a line, also one that was not needed.

Failures handled, all as `LocalFault` with the remedy: no root, no systemd, a program that the service's user can't run, a
Debian package that has done all this, a file that can't be written.
"""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from axomsync import config
from axomsync.core.confinement import HOMES
from axomsync.core.errors import LocalFault
from axomsync.core.oserrors import local_fault
from axomsync.core.own_program import own_program
from axomsync.ops.access import ONE_PASS, SERVICE, SERVICE_USER, TEMPLATE, TIMER, unit_of_instance

SHIPPED = Path(__file__).parent / "units"  # the checkout's systemd/
UNITS = (SERVICE, TEMPLATE, ONE_PASS, TIMER)
SHIPPED_PROGRAM = "/usr/local/bin/axomsync"  # what the shipped units start

SYSTEM_UNITS = Path("/usr/local/lib/systemd/system")
PACKAGED_UNIT = Path("/usr/lib/systemd/system/axomsync.service")
SYSUSERS = Path("/usr/local/lib/sysusers.d/axomsync.conf")
TMPFILES_SHIPPED = "axomsync.tmpfiles.conf"
TMPFILES = Path("/usr/local/lib/tmpfiles.d/axomsync.conf")

Echo = Callable[[str], object]


def running_program(called_as: str) -> list[str]:
    """Return the command that starts the program that runs now; `called_as` is its `sys.argv[0]`."""
    path = Path(called_as).absolute()
    if path.name == "axomsync" and os.access(path, os.X_OK):
        return [str(path.resolve())]
    return own_program()


def install_for_machine(program: Sequence[str], echo: Echo, instance: str | None = None) -> None:
    """Install units, user and folders of the machine's service or of an `instance`, and its configuration."""
    demand_root()
    if instance is not None:
        config.check_instance(instance)
    elif PACKAGED_UNIT.exists():
        raise LocalFault("the Debian package has the service in place: systemctl enable --now axomsync")
    if not PACKAGED_UNIT.exists():
        place(SYSUSERS, (SHIPPED / "axomsync.sysusers.conf").read_text(), echo)
        _make_user(echo)
        _demand_reachable(program)
    tmpfiles = _tmpfiles(instance)
    place(tmpfiles, _folders_of((SHIPPED / TMPFILES_SHIPPED).read_text(), instance), echo)
    _make_folders(tmpfiles, echo)
    if not PACKAGED_UNIT.exists():
        _place_units(SHIPPED, SYSTEM_UNITS, program, machine_manager(), echo)
    settings, values = _machine_settings(instance)
    _place_settings(settings, values, echo)
    unit = SERVICE if instance is None else unit_of_instance(instance)
    once = "" if instance else "               # or axomsync-sync.timer: a pass every five minutes, and no daemon"
    drop = values.get("drop.folder", "/srv/axom/drop")
    _echo_next_steps(
        _key_beside(settings, instance),
        echo,
        f"install -m 600 /dev/stdin {_key_beside(settings, instance)}     # paste the API key, Enter, Ctrl-D",
        *([f"ln -s {shlex.join(program)} {SHIPPED_PROGRAM}"] if _is_out_of_the_way(program) else []),
        f"axomsync config check --config {settings}",
        f"systemctl enable --now {unit.removesuffix('.service')}{once}",
        f"usermod -aG {SERVICE_USER} NAME                     # for each person who may drop datasets into {drop}",
    )


def install_for_user(program: Sequence[str], environ: Mapping[str, str], echo: Echo, instance: str | None = None) -> None:
    """Install units and configuration of the calling user, and the folders that this configuration names."""
    settings, values = _user_settings(environ, instance)
    key_file = _key_beside(settings, instance)
    _place_units(SHIPPED / "user", _user_units(settings), program, _user_manager(environ), echo)
    if _place_settings(settings, {**values, "console.key_file": str(key_file)}, echo):
        for folder in (values["drop.folder"], values["mirror.folder"]):
            _make_folder(Path(str(folder)), echo)
    unit = SERVICE if instance is None else unit_of_instance(instance)
    once = "" if instance else "        # or axomsync-sync.timer: a pass every five minutes, and no daemon"
    _echo_next_steps(
        key_file,
        echo,
        f"install -m 600 /dev/stdin {shlex.quote(str(key_file))}     # paste the API key, Enter, Ctrl-D",
        f"axomsync config check --config {shlex.quote(str(settings))}",
        f"systemctl --user enable --now {unit.removesuffix('.service')}{once}",
        "loginctl enable-linger                        # for it to run while you are not logged in",
    )


def uninstall_for_machine(echo: Echo, instance: str | None = None) -> None:
    """Stop the service and remove everything but configuration, ledger, data and user; an `instance` alone, or all."""
    demand_root()
    settings, values = _machine_settings(instance)
    if instance is not None:
        _stop(unit_of_instance(instance), machine_manager(), echo)
        _remove(_tmpfiles(instance), echo)
        kept = [
            settings,
            _key_beside(settings, instance),
            *(values[f"{part}.folder"] for part in ("state", "drop", "mirror")),
        ]
        echo(f"kept: {', '.join(map(str, kept))}")
        return
    tmpfiles = [_tmpfiles(name) for name in (None, *config.instance_names({}))]
    _remove_units({}, SYSTEM_UNITS, (SYSUSERS, *tmpfiles), machine_manager(), echo)
    echo(f"kept: {settings.parent}, /var/lib/axomsync, /srv/axom and the user {SERVICE_USER}")


def uninstall_for_user(environ: Mapping[str, str], echo: Echo, instance: str | None = None) -> None:
    """Stop the service of the calling user and remove its units; of an `instance`, only stop it."""
    settings, values = _user_settings(environ, instance)
    if instance is not None:
        _stop(unit_of_instance(instance), _user_manager(environ), echo)
    else:
        _remove_units(environ, _user_units(settings), (), _user_manager(environ), echo)
    echo(f"kept: {settings.parent}, and the folders that {settings.name} names, such as {values['state.folder']}")


# Instances


def _machine_settings(instance: str | None) -> tuple[Path, dict[str, object]]:
    """The configuration of the machine's service or of an instance, and its values that are no defaults."""
    if instance is None:
        return Path(config.SYSTEM_CONFIG), {}
    settings = config.instance_config(instance, {}, root=True)
    return settings, {**config.instance_values(instance), "web.listen": config.free_listen(settings, {})}


def _user_settings(environ: Mapping[str, str], instance: str | None) -> tuple[Path, dict[str, object]]:
    """As `_machine_settings`, of the calling user."""
    own = _without_choice(environ)
    settings, values = config.defaults_for_user(None, own, root=False)
    if instance is None:
        return settings, values
    config.check_instance(instance)
    settings = settings.with_name(f"{instance}.toml")
    values = config.defaults_for_user(str(settings), own, root=False)[1]
    return settings, {**values, "web.listen": config.free_listen(settings, own)}


def _key_beside(settings: Path, instance: str | None) -> Path:
    return settings.with_name("key" if instance is None else f"{instance}.key")


def _tmpfiles(instance: str | None) -> Path:
    return TMPFILES if instance is None else TMPFILES.with_name(f"axomsync@{instance}.conf")


def _folders_of(text: str, instance: str | None) -> str:
    """The folders of an instance, from those of the service without a name."""
    if instance is None:
        return text
    apart = text.replace("/srv/axom/", f"/srv/axom/{instance}/")
    return apart.replace("root     root\n", f"root     root\nd /srv/axom/{instance} 0755 root     root\n", 1)


# The service manager: how to call systemctl; nothing where no manager runs


def machine_manager() -> list[str]:
    """Return how to call the machine's service manager; nothing where none runs."""
    return ["systemctl"] if Path("/run/systemd/system").is_dir() else []  # not so while an image is being built


def _user_manager(environ: Mapping[str, str]) -> list[str]:
    runtime = environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return ["systemctl", "--user"] if Path(runtime, "systemd", "private").exists() else []


def _user_units(settings: Path) -> Path:
    return settings.parents[1] / "systemd" / "user"


def _without_choice(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without AXOMSYNC_CONFIG: each unit names its own configuration."""
    return {name: value for name, value in environ.items() if name != "AXOMSYNC_CONFIG"}


# Obstacles


def demand_root(why: str = "the machine's service is root's: use sudo; or --user for a service of your own") -> None:
    """Raise `LocalFault` with these words unless root calls."""
    if os.geteuid() != 0:
        raise LocalFault(why)


def _demand_reachable(program: Sequence[str]) -> None:
    """Check that the service's user can run the program under the unit's sandbox. Raises `LocalFault`."""
    advice = (
        "install axomsync where everybody may read it: python3 -m venv /opt/axomsync, then /opt/axomsync/bin/pip install …; "
        "or use --user"
    )
    parts = (program[0], sys.prefix, sys.base_prefix, str(SHIPPED))
    for part in map(os.path.realpath, parts):
        if part.startswith(tuple(f"{home}/" for home in HOMES)):
            raise LocalFault(f"{part}: services can't look into home folders; {advice}")
    try:
        tried = subprocess.run(
            [*program, "--version"],
            user=SERVICE_USER,
            group=SERVICE_USER,
            extra_groups=[],
            cwd="/",
            env={"LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        said = tried.stderr.strip().rpartition("\n")[2] if tried.returncode else None
    except OSError as error:
        said = str(error)
    if said is not None:
        raise LocalFault(f"{shlex.join(program)}: the user {SERVICE_USER} can't run it ({said}); {advice}")


def _is_out_of_the_way(program: Sequence[str]) -> bool:
    return len(program) == 1 and shutil.which("axomsync") is None


# Parts that are installed


def _make_user(echo: Echo) -> None:
    def is_there() -> bool:
        return any(user.pw_name == SERVICE_USER for user in pwd.getpwall())

    before = is_there()
    _call("systemd-sysusers", str(SYSUSERS))
    if not is_there():
        raise LocalFault(f"systemd-sysusers has not made the user {SERVICE_USER}; useradd --system {SERVICE_USER} does")
    echo(f"user {SERVICE_USER}: {'unchanged' if before else 'made'}")


def _make_folders(tmpfiles: Path, echo: Echo) -> None:
    folders = [Path(line.split()[1]) for line in tmpfiles.read_text().splitlines() if line.startswith("d ")]
    before = {folder for folder in folders if folder.exists()}
    _call("systemd-tmpfiles", "--create", str(tmpfiles))
    for folder in folders:
        echo(f"{folder}: {'unchanged' if folder in before else 'made'}")


def _make_folder(folder: Path, echo: Echo) -> None:
    before = os.path.isdir(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise local_fault(error, str(folder)) from None
    echo(f"{folder}: {'unchanged' if before else 'made'}")


def _place_units(source: Path, target: Path, program: Sequence[str], manager: Sequence[str], echo: Echo) -> None:
    starts = " ".join(map(_quoted, program))
    texts = {name: (source / name).read_text().replace(SHIPPED_PROGRAM, starts) for name in UNITS}
    changed = [place(target / name, text, echo) for name, text in texts.items()]
    if any(changed) and reload_units(manager, echo) and (running := _running(manager)):
        agents = "the running agent is" if len(running) == 1 else "the running agents are"
        units = " ".join(unit.removesuffix(".service") for unit in running)
        echo(f"{agents} still the old one; it keeps the bytes that it has: {' '.join(manager)} restart {units}")


def reload_units(manager: Sequence[str], echo: Echo) -> bool:
    """Have the service manager read the units; False where none runs."""
    if not manager:
        echo("no systemd runs here: it reads the units when it starts")
        return False
    _call(*manager, "daemon-reload")
    echo("systemd: has read the units")
    return True


def _quoted(word: str) -> str:
    """Quote a word for ExecStart= of a unit; systemd takes no program whose name has quotes or backslashes."""
    escaped = word.replace("%", "%%")
    return f'"{escaped}"' if " " in word else escaped


def _place_settings(path: Path, values: Mapping[str, object], echo: Echo) -> bool:
    """Write a configuration, unless there is one. Returns True when it was written."""
    if os.path.lexists(path):
        echo(f"{path}: kept")
        return False
    return place(path, config.example(values), echo)


def place(path: Path, text: str, echo: Echo) -> bool:
    """Write the whole file or nothing, as a unit may be read at any time. Returns True when it had another text."""
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            echo(f"{path}: unchanged")
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o644)
        fresh.replace(path)
    except OSError as error:
        raise local_fault(error, error.filename or str(path)) from None
    echo(f"{path}: written")
    return True


def _echo_next_steps(key: Path, echo: Echo, *steps: str) -> None:
    if os.path.exists(key):
        return  # these steps were done before
    echo("\nWhat remains:")
    for step in steps:
        echo(f"  {step}")


def _remove_units(
    environ: Mapping[str, str], units: Path, others: Sequence[Path], manager: Sequence[str], echo: Echo
) -> None:
    instances = dict.fromkeys(map(unit_of_instance, config.instance_names(environ)))
    instances |= dict.fromkeys(unit for unit in _running(manager) if unit != SERVICE)
    for name in (SERVICE, *instances, TIMER):
        template = TEMPLATE if name in instances else name
        if (units / template).exists():
            _stop(name, manager, echo)
    if manager and (units / ONE_PASS).exists():
        _call(*manager, "stop", ONE_PASS)  # the timer's pass, should one be under way
    for path in (*(units / name for name in UNITS), *others):
        _remove(path, echo)
    if manager:
        _forget_units((SERVICE, *instances, ONE_PASS, TIMER), manager)


def remove(unit: str, paths: Iterable[Path], manager: Sequence[str], echo: Echo) -> None:
    """Stop a unit, and remove it with all that belongs to it."""
    _stop(unit, manager, echo)
    for path in paths:
        _remove(path, echo)
    if manager:
        _forget_units((unit,), manager)


def _forget_units(units: Iterable[str], manager: Sequence[str]) -> None:
    _call(*manager, "daemon-reload")
    for name in units:  # one that failed is remembered, and listed, though its file is gone
        _asked(*manager, "reset-failed", name)


def _running(manager: Sequence[str]) -> list[str]:
    """Units of agents that run now."""
    if not manager:
        return []
    states = "--state=active,reloading,activating"
    listed = _asked(*manager, "list-units", "--plain", "--no-legend", states, SERVICE, TEMPLATE.replace("@", "@*")).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def _stop(name: str, manager: Sequence[str], echo: Echo) -> None:
    if manager and any(_says_yes(*manager, question, name) for question in ("is-active", "is-enabled")):
        _call(*manager, "disable", "--quiet", "--now", name)
        echo(f"{name}: stopped and disabled")


def _remove(path: Path, echo: Echo) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise local_fault(error, str(path)) from None
    echo(f"{path}: removed")


def _call(*argv: str) -> None:
    done = _asked(*argv)
    if done.returncode:
        raise LocalFault(f"{shlex.join(argv)} ended with {done.returncode}: {done.stderr.strip() or 'it did not say why'}")


def is_active(manager: Sequence[str], unit: str) -> bool:
    """Check whether a unit runs."""
    return _says_yes(*manager, "is-active", unit)


def _says_yes(*argv: str) -> bool:
    return _asked(*argv).returncode == 0


def _asked(*argv: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LocalFault(f"{argv[0]} is missing: this machine has no systemd; `axomsync run` is the agent") from None
