"""The agent as its users have it: a process of its own, `python -m axomsync`, with a configuration file and a key.

Owns one installation in a folder of its own: configuration, drop folder, mirror and state. Nothing is imported from the
program under test and nothing in it is patched; what a test wants to know it asks the command line.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.rig.forks import forks

T = TypeVar("T")

PATIENCE = 30.0  # seconds; a deadline that only a failure reaches
POLL = 0.02

Config = Mapping[str, Any]  # each section maps keys to values

_QUICK: Config = {
    "drop": {"settle": "200ms", "rescan": "10s"},
    "mirror": {"poll": "500ms", "reserve": "1MiB"},
    "transfer": {"stall": "5s"},
    "web": {"listen": ""},
}


def eventually(what: str, probe: Callable[..., T | None], *, patience: float = PATIENCE) -> T:
    """The first true value of `probe`, which is asked again and again. `what` is what the failure says was missing.

    A probe that starts a process leaves as much time to what it waits for as it takes itself.
    """
    deadline = time.monotonic() + patience
    while True:
        began = time.monotonic()
        value = probe()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}; last seen: {value!r}"
        time.sleep(max(POLL, time.monotonic() - began))


class AgentProcess:
    """One installation of axomsync below `home`, and its agent while it runs; a context manager that leaves none behind.

    `config` holds sections that override a quick default (settling in 0.2 s, polls every 0.5 s, no status page); a value
    of None leaves a key out. `key` is passed as `$AXOM_KEY`; None passes none. `environ` is added to the environment.

        with AgentProcess(tmp_path, sandbox.url, sandbox.key, {"mirror": {"enabled": False}}) as agent:
            (agent.drop / "a.jsonl").write_text('{"text": "a"}\\n')
            assert agent.sync().returncode == 0
            assert agent.uploads()[0]["state"] == "uploaded"
    """

    def __init__(
        self,
        home: Path,
        url: str,
        key: str | None,
        config: Config | None = None,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.drop, self.mirror, self.state = home / "drop", home / "models", home / "state"
        for folder in (self.drop, self.mirror):
            folder.mkdir(parents=True, exist_ok=True)
        self.config_file = home / "config.toml"
        self.log_file = home / "agent.log"
        foreign = {name: value for name, value in os.environ.items() if not name.startswith("AXOM")}
        self.environ = {**foreign, **({"AXOM_KEY": key} if key is not None else {}), **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._url = url
        self._launched_at = 0
        self.configure(config or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if error is not None and self.log_file.exists():
            print(f"--- {self.log_file}\n{self.log()}")

    def configure(self, config: Config) -> None:
        """Write the configuration anew; a running agent reads it after `hangup()`."""
        own: Config = {
            "console": {"url": self._url},
            "state": {"folder": str(self.state)},
            "drop": {"folder": str(self.drop)},
            "mirror": {"folder": str(self.mirror)},
        }
        sections = {name: dict(values) for name, values in own.items()}
        for layer in (_QUICK, config):
            for name, values in layer.items():
                sections.setdefault(name, {}).update(values)
        text = "".join(f"[{name}]\n{_toml(values)}\n" for name, values in sections.items())
        self.config_file.write_text(text, encoding="utf-8")

    # The long-running agent

    def start(self, *prefix: str) -> None:
        """Start `axomsync run`, and return when it works. `prefix` is a command to run it under."""
        self.launch("run", prefix=prefix)
        eventually("a running agent", self._runs, patience=2 * PATIENCE)  # a busy disk syncs a new ledger late

    def launch(self, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        """Start any verb without waiting for anything. What it writes is appended to `log_file`."""
        assert self.process is None or self.process.poll() is not None, "the last one still runs"
        with self.log_file.open("ab") as log:
            self._launched_at = log.tell()
            self.process = subprocess.Popen(
                [*prefix, *self.command(*arguments)],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
            )

    def kill(self) -> None:
        """SIGKILL: the power cable of processes. Harmless when it has ended."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code, which must come within the 10 s that a stop may take."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)

    def hangup(self) -> None:
        """SIGHUP: read the configuration again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code of a process that ends by itself."""
        assert self.process is not None
        return self.process.wait(patience)

    def log(self) -> str:
        """Everything that launched processes wrote so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    # Commands that end

    def command(self, *arguments: str) -> list[str]:
        """The argument list of a verb, with the configuration."""
        verb, rest = arguments[0], arguments[1:]
        return [sys.executable, "-m", "axomsync", verb, *rest, "--config", str(self.config_file)]

    def call(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, in a fork where that makes no difference."""
        if forks().fits(self.environ):
            return forks().run(self.command(*arguments)[3:], self.environ, self.home, timeout)
        return subprocess.run(
            self.command(*arguments),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.home,
            timeout=timeout,
            check=False,
        )

    def sync(self, *, expect: int | None = 0, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """One pass; it must end with the exit code `expect`, unless that is None."""
        done = self.call("sync", timeout=timeout)
        assert expect is None or done.returncode == expect, f"sync ended with {done.returncode}:\n{done.stderr}"
        return done

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self._json("status")
        return document

    def uploads(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._json("uploads")
        return rows

    def models(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._json("models")
        return rows

    def _json(self, verb: str) -> Any:
        """What the verb prints. A process that was launched just now may still be making the ledger."""

        def answer() -> subprocess.CompletedProcess[str] | None:
            done = self.call(verb, "--json")
            return None if "it starts at this moment" in done.stderr else done

        done = eventually("a ledger", answer)
        assert done.returncode == 0, f"{verb} ended with {done.returncode}:\n{done.stderr}"
        return json.loads(done.stdout)

    def _runs(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the agent ended with {self.process.returncode}:\n{self.log()}"
        return b" works with " in self.log_file.read_bytes()[self._launched_at :]


def _toml(values: Mapping[str, object]) -> str:
    """JSON's strings, numbers, booleans and lists are written the same way in TOML."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if value is not None)
