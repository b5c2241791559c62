"""A real systemd, booted over a copy-on-write view of this machine, for what no imitation of a service manager shows.

Owns the container: systemd-nspawn in a mount namespace and a control group of its own, over an overlay whose upper half
is memory. Nothing inside can change a file outside. The network is private: loopback and nothing else.

Failures handled:

- no root, no systemd-nspawn, a kernel that refuses: `ContainerError` that says what to do (a skipped test proves nothing);
- the boot hangs: `ContainerError` with what nspawn said;
- a test fails: everything is taken down; the test process is killed: the kernel ends the processes and their mounts, and
  an empty folder and empty control groups are all that stays.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

_BOOT_PATIENCE = 30.0
_STOP_PATIENCE = 15.0

# Mounts end with their namespace and processes with theirs, whose first process the kernel ends with us.
_WALLS = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child")

# The bytes of the upper layer live in its tmpfs.
# The machine's own mounts, identity and journal are not for the container, nor an image's rule that packages start nothing.
_BOOT = """
set -eu
umask 022  # the upper layer's root becomes the container's, and its services must get in
folder=$1 name=$2
shift 2
for hierarchy in $AXOM_RIG_CGROUPS; do
    mkdir "$hierarchy/$name"
    echo $$ > "$hierarchy/$name/cgroup.procs"
done
mount -t tmpfs -o size=2g,mode=755 axom-rig "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" axom-rig "$folder/root"
: > "$folder/root/etc/fstab"
: > "$folder/root/etc/machine-id"
rm -f "$folder/root/usr/sbin/policy-rc.d"
exec systemd-nspawn -q --register=no --keep-unit --private-network --console=pipe --link-journal=no \
    -M "$name" -D "$folder/root" "$@" --boot -- --unit=basic.target --show-status=no
"""


class ContainerError(Exception):
    """The container can't be had; the message says why and what to do."""


class Container:
    """A booted container, as a context manager.

    `binds` maps folders of this machine to paths inside, read-only; `overlays` maps several folders, the first one below,
    to one path inside.
    """

    def __init__(
        self, *, binds: Mapping[Path, str] | None = None, overlays: Mapping[Sequence[Path], str] | None = None
    ) -> None:
        self._mounts = [f"--bind-ro={_escaped(source)}:{target}" for source, target in (binds or {}).items()]
        for sources, target in (overlays or {}).items():
            self._mounts.append(f"--overlay-ro={':'.join(map(_escaped, sources))}:{target}")
        self._cgroups = _cgroup_hierarchies()

    def __enter__(self) -> Self:
        _demand_what_it_takes(self._cgroups)
        self.name = f"axom-rig-{secrets.token_hex(4)}"
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self._log = tempfile.TemporaryFile()
        self._nspawn = subprocess.Popen(
            [*_WALLS, "sh", "-c", _BOOT, "boot", str(self._folder), self.name, *self._mounts],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "AXOM_RIG_CGROUPS": " ".join(self._cgroups)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._init = 0
        try:
            self._await_boot()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._nspawn.poll() is None:
            self.run("systemctl", "poweroff", check=False)
            with suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(_STOP_PATIENCE)
        self._clean_up()

    @property
    def root(self) -> Path:
        """The container's `/`, to look at. Write by `write`: an absolute symlink would lead out of here."""
        return Path(f"/proc/{self._init}/root")

    @property
    def init(self) -> int:
        """The process id of the container's init, as this machine sees it."""
        return self._init

    def run(self, *argv: str, check: bool = True, timeout: float = 60, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside as root and wait for it; `check` makes a failure an AssertionError with its output."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._init), "-a", *argv],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            check=False,
        )
        assert not check or done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside, making its folders."""
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, stdin=text)

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run systemctl inside."""
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, such as `MainPID` or `StatusText`."""
        return self.systemctl("show", "--value", "--property", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """What the journal holds of a unit, oldest first, messages only."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def _await_boot(self) -> None:
        deadline = time.monotonic() + _BOOT_PATIENCE
        while time.monotonic() < deadline:
            if self._nspawn.poll() is not None:
                raise ContainerError(f"systemd-nspawn ended with {self._nspawn.returncode}: {self._said()}")
            self._init = self._init or _init_of(self._nspawn.pid)
            if self._init and self.systemctl("is-active", "basic.target", check=False).stdout == "active\n":
                return
            time.sleep(0.05)
        raise ContainerError(f"the container did not boot within {_BOOT_PATIENCE:.0f} s: {self._said()}")

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip() or "(it said nothing)"

    def _clean_up(self) -> None:
        if self._nspawn.poll() is None:
            self._nspawn.send_signal(signal.SIGKILL)  # the kernel ends what runs inside with it
            self._nspawn.wait()
        self._log.close()
        self._folder.rmdir()  # empty: its mounts are gone
        for hierarchy in self._cgroups:
            _remove_cgroup(Path(hierarchy, self.name))


def _demand_what_it_takes(cgroups: Sequence[str]) -> None:
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "setpriv", "unshare") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        raise ContainerError("only root can boot a container; run: sudo make test")
    if missing:
        raise ContainerError(f"{', '.join(missing)}: not installed; run: tests/rig/debian-packages.sh")
    if not cgroups:
        raise ContainerError("there is no cgroup2 below /sys/fs/cgroup; boot the kernel with it")


def _cgroup_hierarchies() -> list[str]:
    """Where a control group must be made: one place on a unified machine, two on a hybrid one."""
    places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"]
    return [place for place in places if os.path.exists(f"{place}/cgroup.procs")]


def _remove_cgroup(group: Path) -> None:
    """Control groups are removed folder by folder, deepest first, once the kernel has buried their last process."""
    deadline = time.monotonic() + 5
    for folder, _, _ in list(os.walk(group, topdown=False)):
        while True:
            try:
                os.rmdir(folder)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _init_of(pid: int) -> int:
    """The container's init, a grandchild of `pid` by way of nspawn; 0 while it has not become that."""
    for child in _children(pid):
        for grandchild in _children(child):
            with suppress(OSError):
                if Path(f"/proc/{grandchild}/comm").read_text() == "systemd\n":
                    return grandchild
    return 0


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")
