"""A systemd unit that serves the model: restarted, or reloaded where it can.

`systemctl` talks to systemd over D-Bus, and polkit decides whether this user may: the service user may with
systemd/examples/50-axomsync-vllm.rules. systemctl(1): `restart` and `reload-or-restart` end when the unit has started, which
a unit with `Type=notify` says itself.

Failures handled: a unit that is not there or fails to start, a user who may not (`Rejected` with the words of systemctl), a
unit that does not run (left alone), one that was started after the event (nothing to do), a manager that can't be reached,
and a start that takes too long (`Transient`; systemd goes on with it), a machine or container without systemctl
(`LocalFault`).
"""

import subprocess
import time
from datetime import datetime

from axomsync.core.errors import LocalFault, Rejected, Transient
from axomsync.core.oserrors import local_fault
from axomsync.core.text import printable
from axomsync.engines.events import Load, Naming, Unload

PAUSE_SECONDS = 0.5
WORDS = 300
_RULE = "the polkit rule in systemd/examples/50-axomsync-vllm.rules lets it"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")


class Manager:
    """systemd, of the system or of the user. `wait`: seconds that a unit may take to start."""

    def __init__(self, *, user: bool, timeout: float, wait: float) -> None:
        self._command = ("systemctl", *(("--user",) if user else ()), "--no-ask-password", "--no-pager")
        self._timeout, self.wait = timeout, wait

    def facts(self, unit: str) -> dict[str, str]:
        """What systemd knows of a unit. Raises `Transient`, `Rejected`."""
        names = "LoadState,ActiveState,InactiveExitTimestamp,InactiveExitTimestampMonotonic"
        done = self._run(("show", "--timestamp=us+utc", f"--property={names}", "--", unit), self._timeout)
        if done.returncode != 0:
            raise Transient(f"{printable(unit)}: systemd does not answer: {_words(done)}")
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def order(self, verb: str, unit: str) -> None:
        """Restart or reload a unit. Raises `Transient`, `Rejected`."""
        done = self._run((verb, "--", unit), self.wait)
        if done.returncode != 0:
            words = _words(done)
            denied = any(sign in words for sign in ("authentication required", "Access denied", "ermission denied"))
            raise Rejected(f"{printable(unit)}: systemd refuses to {verb} it: {words}{f'; {_RULE}' if denied else ''}")

    def _run(self, arguments: tuple[str, ...], seconds: float) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                [*self._command, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Transient(f"{printable(arguments[-1])}: systemctl {arguments[0]} took more than {seconds:g} s") from None
        except FileNotFoundError:
            raise LocalFault("systemctl: it is not here; it comes with systemd, so tell units where systemd runs") from None
        except OSError as error:
            raise local_fault(error, "systemctl") from None


def load(manager: Manager, task: Load, naming: Naming, *, reload: bool) -> str:
    """Have the unit serve what `current` leads to."""
    unit = naming.of(task.version, escaped)
    facts = manager.facts(unit)
    if facts.get("LoadState") != "loaded":
        raise Rejected(
            f"{printable(unit)}: there is no such unit ({printable(facts.get('LoadState', '?'))}); correct --name"
        )
    if facts.get("ActiveState") == "inactive":
        return f"{printable(unit)} does not run"
    if reload or not _started_since(facts, task.version.at):
        manager.order("reload-or-restart" if reload else "restart", unit)
    _await_active(manager, unit)
    return f"{printable(unit)} serves {task.version}"


def unload(task: Unload) -> str:
    """A unit is stopped by people."""
    return f"{task.version}: units are left alone when a version goes"


def _started_since(facts: dict[str, str], at: float) -> bool:
    """Check that the unit began its present life after the event, whose time has whole seconds.

    Both clocks must say so: the wall clock may have been set, and the other one stands still while the machine sleeps.
    """
    if facts.get("ActiveState") not in ("active", "activating"):
        return False
    try:
        _, day, hour, _ = facts["InactiveExitTimestamp"].split()  # "Fri 2026-11-27 12:50:57.123456 UTC"
        began = datetime.fromisoformat(f"{day}T{hour}+00:00").timestamp()
        age = time.monotonic() - int(facts["InactiveExitTimestampMonotonic"]) / 1e6
    except (KeyError, ValueError):
        return False
    return began > at + 1.0 and age < time.time() - at - 1.0


def _await_active(manager: Manager, unit: str) -> None:
    ends = time.monotonic() + manager.wait
    while (state := manager.facts(unit).get("ActiveState")) != "active":
        if state in ("failed", "inactive"):
            raise Rejected(f"{printable(unit)}: it did not stay up ({state}); see journalctl --unit={printable(unit)}")
        if time.monotonic() > ends:
            raise Transient(f"{printable(unit)}: it is not active after {manager.wait:g} s")
        time.sleep(PAUSE_SECONDS)


def escaped(text: str) -> str:
    """A text as a part of a unit's name, as systemd-escape(1) writes it."""
    made = "".join(
        "-" if c == "/" else c if c in _PLAIN else "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", "surrogateescape"))
        for c in text
    )
    return f"\\x2e{made[1:]}" if made.startswith(".") else made


def _words(done: "subprocess.CompletedProcess[str]") -> str:
    return printable(" ".join(done.stderr.split()))[:WORDS] or "no reason given"
