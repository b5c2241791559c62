"""Installs axomsync as a service, of the machine or of one user, and uninstalls it.

Owns the units, the service's user, its folders and the first configuration. May be run again at any time: files that are the
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
from axomsync.ops.access import ONE_PASS, SERVICE, SERVICE_USER, TIMER

SHIPPED = Path(__file__).parent / "units"  # the checkout's systemd/
UNITS = (SERVICE, ONE_PASS, TIMER)
ENABLED = (SERVICE, TIMER)
SHIPPED_PROGRAM = "/usr/local/bin/axomsync"  # what the shipped units start

SYSTEM_UNITS = Path("/usr/local/lib/systemd/system")
PACKAGED_UNIT = Path("/usr/lib/systemd/system/axomsync.service")
SYSUSERS = Path("/usr/local/lib/sysusers.d/axomsync.conf")
TMPFILES = Path("/usr/local/lib/tmpfiles.d/axomsync.conf")

Echo = Callable[[str], object]


def running_program(called_as: str) -> list[str]:
    """Return the command that starts the program that runs now; `called_as` is its `sys.argv[0]`."""
    path = Path(called_as).absolute()
    if path.name == "axomsync" and os.access(path, os.X_OK):
        return [str(path.resolve())]
    return [sys.executable, "-m", "axomsync"]


def install_for_machine(program: Sequence[str], echo: Echo) -> None:
    """Install units, user and folders of the machine's service, and /etc/axomsync/config.toml."""
    demand_root()
    if PACKAGED_UNIT.exists():
        raise LocalFault("the Debian package has the service in place: systemctl enable --now axomsync")
    place(SYSUSERS, (SHIPPED / "axomsync.sysusers.conf").read_text(), echo)
    _make_user(echo)
    _demand_reachable(program)
    place(TMPFILES, (SHIPPED / "axomsync.tmpfiles.conf").read_text(), echo)
    _make_folders(echo)
    _place_units(SHIPPED, SYSTEM_UNITS, program, machine_manager(), echo)
    settings = Path(config.SYSTEM_CONFIG)
    _place_settings(settings, {}, echo)
    _echo_next_steps(
        settings,
        echo,
        f"install -m 600 /dev/stdin {settings.parent}/key     # paste the API key, Enter, Ctrl-D",
        *([f"ln -s {shlex.join(program)} {SHIPPED_PROGRAM}"] if _is_out_of_the_way(program) else []),
        f"axomsync config check --config {settings}",
        "systemctl enable --now axomsync               # or axomsync-sync.timer: a pass every five minutes, and no daemon",
        f"usermod -aG {SERVICE_USER} NAME                     # for each person who may drop datasets into /srv/axom/drop",
    )


def install_for_user(program: Sequence[str], environ: Mapping[str, str], echo: Echo) -> None:
    """Install units and configuration of the calling user, and the folders that this configuration names."""
    settings, values = config.defaults_for_user(None, _without_choice(environ), root=False)
    key_file = settings.parent / "key"
    _place_units(SHIPPED / "user", _user_units(settings), program, _user_manager(environ), echo)
    if _place_settings(settings, {**values, "console.key_file": str(key_file)}, echo):
        for folder in (values["drop.folder"], values["mirror.folder"]):
            _make_folder(Path(str(folder)), echo)
    _echo_next_steps(
        settings,
        echo,
        f"install -m 600 /dev/stdin {shlex.quote(str(key_file))}     # paste the API key, Enter, Ctrl-D",
        f"axomsync config check --config {shlex.quote(str(settings))}",
        "systemctl --user enable --now axomsync        # or axomsync-sync.timer: a pass every five minutes, and no daemon",
        "loginctl enable-linger                        # for it to run while you are not logged in",
    )


def uninstall_for_machine(echo: Echo) -> None:
    """Stop the service and remove everything but configuration, ledger, data and user."""
    demand_root()
    _remove_units(SYSTEM_UNITS, (SYSUSERS, TMPFILES), machine_manager(), echo)
    echo(f"kept: {Path(config.SYSTEM_CONFIG).parent}, /var/lib/axomsync, /srv/axom and the user {SERVICE_USER}")


def uninstall_for_user(environ: Mapping[str, str], echo: Echo) -> None:
    """Stop the service of the calling user and remove its units."""
    settings, values = config.defaults_for_user(None, _without_choice(environ), root=False)
    _remove_units(_user_units(settings), (), _user_manager(environ), echo)
    echo(f"kept: {settings.parent}, and the folders that {settings.name} names, such as {values['state.folder']}")


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


def demand_root() -> None:
    """Raise `LocalFault` unless root calls."""
    if os.geteuid() != 0:
        raise LocalFault("the machine's service is root's: use sudo; or --user for a service of your own")


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


def _make_folders(echo: Echo) -> None:
    folders = [Path(line.split()[1]) for line in TMPFILES.read_text().splitlines() if line.startswith("d ")]
    before = {folder for folder in folders if folder.exists()}
    _call("systemd-tmpfiles", "--create", str(TMPFILES))
    for folder in folders:
        echo(f"{folder}: {'unchanged' if folder in before else 'made'}")


def _make_folder(folder: Path, echo: Echo) -> None:
    before = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise local_fault(error, str(folder)) from None
    echo(f"{folder}: {'unchanged' if before else 'made'}")


def _place_units(source: Path, target: Path, program: Sequence[str], manager: Sequence[str], echo: Echo) -> None:
    starts = " ".join(map(_quoted, program))
    texts = {name: (source / name).read_text().replace(SHIPPED_PROGRAM, starts) for name in UNITS}
    changed = [place(target / name, text, echo) for name, text in texts.items()]
    restart = f"{' '.join(manager)} restart axomsync"
    tell_manager(manager, SERVICE, f"it keeps the bytes that it has: {restart}", echo, changed=any(changed))


def tell_manager(manager: Sequence[str], unit: str, restart: str, echo: Echo, *, changed: bool) -> None:
    """Have the service manager read changed units; `restart` tells how a running `unit` becomes the new one."""
    if not changed:
        return
    if not manager:
        echo("no systemd runs here: it reads the units when it starts")
        return
    _call(*manager, "daemon-reload")
    echo("systemd: has read the units")
    if _says_yes(*manager, "is-active", unit):
        what = "agent" if unit == SERVICE else "gateway"
        echo(f"the running {what} is still the old one; {restart}")


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


def _echo_next_steps(settings: Path, echo: Echo, *steps: str) -> None:
    if (settings.parent / "key").exists():
        return  # these steps were done before
    echo("\nWhat remains:")
    for step in steps:
        echo(f"  {step}")


def _remove_units(units: Path, others: Sequence[Path], manager: Sequence[str], echo: Echo) -> None:
    for name in ENABLED:
        if (units / name).exists():
            _disable(name, manager, echo)
    if manager and (units / ONE_PASS).exists():
        _call(*manager, "stop", ONE_PASS)  # the timer's pass, should one be under way
    _unlink((*(units / name for name in UNITS), *others), echo)
    if manager:
        _forget_units(UNITS, manager)


def remove(unit: str, paths: Sequence[Path], manager: Sequence[str], echo: Echo) -> None:
    """Stop a unit, and remove it with all that belongs to it."""
    _disable(unit, manager, echo)
    _unlink(paths, echo)
    if manager:
        _forget_units((unit,), manager)


def _disable(unit: str, manager: Sequence[str], echo: Echo) -> None:
    if manager and any(_says_yes(*manager, question, unit) for question in ("is-active", "is-enabled")):
        _call(*manager, "disable", "--quiet", "--now", unit)
        echo(f"{unit}: stopped and disabled")


def _forget_units(units: Iterable[str], manager: Sequence[str]) -> None:
    _call(*manager, "daemon-reload")
    for name in units:  # one that failed is remembered, and listed, though its file is gone
        _asked(*manager, "reset-failed", name)


def _unlink(paths: Iterable[Path], echo: Echo) -> None:
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise local_fault(error, str(path)) from None
        echo(f"{path}: removed")


def _call(*argv: str) -> None:
    done = _asked(*argv)
    if done.returncode:
        raise LocalFault(f"{shlex.join(argv)} ended with {done.returncode}: {done.stderr.strip() or 'it did not say why'}")


def _says_yes(*argv: str) -> bool:
    return _asked(*argv).returncode == 0


def _asked(*argv: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LocalFault(f"{argv[0]} is missing: this machine has no systemd; `axomsync run` is the agent") from None
