"""axomsync as users run it: a process with a configuration file and a fresh state folder."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.console import KEY
from benchmarks.measure import PATIENCE_SECONDS, Program, Run, run

Sections = Mapping[str, Mapping[str, object]]


class Agent:
    """One installation in the new folder `home`; `sections` change the configuration's defaults."""

    def __init__(self, home: Path, console_url: str, mirror: Path, ca: Path | None = None, sections: Sections | None = None):
        self.home, self.mirror = home, mirror
        self.log = home / "agent.log"
        home.mkdir(parents=True)
        mirror.mkdir(parents=True, exist_ok=True)
        (home / "drop").mkdir()
        own: dict[str, dict[str, object]] = {
            "console": {"url": console_url, "ca_file": str(ca or "")},
            "state": {"folder": str(home / "state")},
            "drop": {"enabled": False, "folder": str(home / "drop"), "settle": "50ms"},
            "mirror": {"folder": str(mirror), "reserve": "64MiB"},
            "web": {"listen": ""},
        }
        for name, values in (sections or {}).items():
            own.setdefault(name, {}).update(values)
        lines = (f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in own[name].items()) for name in own)
        (home / "config.toml").write_text("".join(lines), encoding="utf-8")

    def command(self, verb: str, *words: str) -> list[str | Path]:
        """The argument list of a verb."""
        return [Path(sys.executable).parent / "axomsync", verb, *words, "--config", self.home / "config.toml"]

    def program(self, verb: str, *words: str) -> Program:
        """Start a verb."""
        return Program(self.command(verb, *words), self.log, {"AXOM_KEY": KEY})

    def sync(self, *, code: int | None = 0, patience: float = PATIENCE_SECONDS) -> Run:
        """One pass, to its end."""
        return run(self.command("sync"), self.log, {"AXOM_KEY": KEY}, code=code, patience=patience)

    def published(self, name: str, rel: str, version: str = "v1") -> Path:
        """Where a file of a model appears."""
        return self.mirror / name / version / rel

    def remove(self) -> None:
        """Give all its space back."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.mirror, ignore_errors=True)
