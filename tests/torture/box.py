"""The configuration of a box, and the gates that it names."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.torture.worlds import World

# A gate says no by the words of a file.
GATES = {
    "refuse-version": 'grep -qx "$AXOMSYNC_VERSION" {home}/refused',
    "refuse-file": 'grep -qFf {home}/secrets "$AXOMSYNC_FILE"',
}


class Box:
    """Files of the box whose folders are below `home`. `console` is an address."""

    def __init__(self, home: Path, world: World, console: str, gateways: Sequence[str]) -> None:
        self._home, self._world, self._console, self._gateways = home, world, console, gateways

    def configure(self, takes: Sequence[str]) -> None:
        """Write its configuration; `takes` is [mirror] files."""
        data = self._home / "data"
        own = self._of_every_box(data / "state", data / "mirror")
        for name, values in self._world.config.items():
            own.setdefault(name, {}).update(values)
        views = own["mirror"].get("views", [])
        own["mirror"]["views"] = [view.replace("VIEW", str(data / "view" / "v")) for view in views]
        own["mirror"]["files"] = list(takes)
        own["transfer"]["gateways"] = list(self._gateways)
        for key, command in own.get("hooks", {}).items():
            own["hooks"][key] = [word.replace("HOME", str(self._home)) for word in command]
        (self._home / "config.toml").write_text(_table(own))

    def configure_other(self) -> Path:
        """Write the configuration of another box, that only mirrors, onto the disk to import; returns the file."""
        own = self._of_every_box(self._home / "other-state", self._home / "disk")
        own["drop"]["enabled"], own["mirror"]["reserve"], own["web"] = False, "1MiB", {"listen": ""}
        file = self._home / "other.toml"
        file.write_text(_table(own))
        return file

    def make_gates(self) -> None:
        """Write the programs of its gates."""
        (self._home / "secrets").write_text("".join(f"{word}\n" for word in self._world.secrets))
        for name, test in GATES.items():
            words = test.format(home=shlex.quote(str(self._home)))
            (self._home / name).write_text(f"#!/bin/sh\n{words} && {{ echo a gate of the campaign; exit 1; }}\nexit 0\n")
            (self._home / name).chmod(0o755)

    def refuse(self, versions: Iterable[str]) -> None:
        """Have the gate of models say no to these versions, and yes to all others."""
        (self._home / "refused").write_text("".join(f"{version}\n" for version in sorted(versions)))

    def _of_every_box(self, state: Path, mirror: Path) -> dict[str, dict[str, Any]]:
        return {
            "console": {"url": self._console},
            "state": {"folder": str(state)},
            "drop": {"folder": str(self._home / "data" / "drop")},
            "mirror": {"folder": str(mirror)},
        }


def _table(own: dict[str, dict[str, Any]]) -> str:
    return "".join(f"[{name}]\n" + "".join(f"{key} = {_toml(of)}\n" for key, of in own[name].items()) for name in own)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return str(value) if isinstance(value, int | float) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
