"""An installation of axomsync as a user has it: a configuration, a key file, folders, and the agent as a process of its own.

Owns one folder and the agent that runs in it. The tour asks the command line; nothing of the agent is imported.

Failures handled: an agent that ends by itself (`TourFailed` with the end of its log), a command that fails (with its
output), an answer that does not come. When this process is killed, the kernel ends the agent too.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from axomsync.core.own_program import own_program

T = TypeVar("T")

STOP_SECONDS = 15.0  # the agent promises 10
_DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")
_FOREIGN = ("AXOM", "NOTIFY_", "WATCHDOG_", "JOURNAL_", "CREDENTIALS_")


class TourFailed(Exception):
    """An obstacle that ends the tour; the message names it, and shows the log."""


class Installation:
    """An installation below `home`; `config` is the text of further sections. A context manager that leaves no process."""

    def __init__(self, home: Path, url: str, key: str, config: str) -> None:
        self.drop, self.mirror, self.state = (home / name for name in ("drop", "models", "state"))
        for folder in (self.drop, self.mirror):
            folder.mkdir(parents=True)
        self.config_file, self.log_file, self._key_file = home / "config.toml", home / "agent.log", home / "key"
        self._key_file.touch(mode=0o600)
        self._key_file.write_text(key, encoding="ascii")
        self.config_file.write_text(self._own_config(url) + config, encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> "Installation":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the agent, as it runs or as it last ran."""
        if self._process is None:
            raise TourFailed("the agent was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the agent; returns when it says that it works and has asked the console."""
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, *_command("run", self.config_file)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the tour, which then stops the agent
            )
        self.until("a running agent", lambda: self._runs(self.ask("status")))

    def stop(self) -> None:
        """End the agent as the service manager does, by SIGTERM; harmless when it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Kill the agent, as `kill -9` does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def log(self) -> str:
        """Return the log since the agent was last started."""
        return self.log_file.read_bytes()[self._log_start :].decode(errors="replace")

    def ask(self, verb: str) -> Any:
        """Return the output of a command with `--json`."""
        done = subprocess.run(
            [*_command(verb, self.config_file), "--json"],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise TourFailed(
                f"`axomsync {verb}` ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
            )
        return json.loads(done.stdout)

    def until(self, what: str, probe: Callable[[], T], *, patience: float = 60.0) -> T:
        """Return the first true value of `probe`, asked again while the agent runs. `what` names it in messages."""
        deadline = time.monotonic() + patience
        while not (value := probe()):
            if self._process is not None and self._process.poll() is not None:
                raise TourFailed(f"the agent ended with {self._process.returncode} instead of {what}; {self._log_tail()}")
            if time.monotonic() > deadline:
                raise TourFailed(f"not within {patience:g} s: {what}; {self._log_tail()}")
            time.sleep(0.2)
        return value

    def _runs(self, status: dict[str, Any]) -> bool:
        return status["agent"]["pid"] == self.pid and status["console"]["ok"] is True

    def _own_config(self, url: str) -> str:
        values = {
            "console": {"url": url, "key_file": str(self._key_file)},
            "state": {"folder": str(self.state)},
            "drop": {"folder": str(self.drop), "settle": "1s"},
            "mirror": {"folder": str(self.mirror), "poll": "1s", "reserve": "64MiB"},
        }
        # JSON's strings are TOML's.
        return "".join(
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for section, keys in values.items()
        )

    def _log_tail(self) -> str:
        return "\n".join(["the end of its log:", *(self.log().splitlines()[-15:] or ["(empty)"])])


def _command(verb: str, config_file: Path) -> list[str]:
    return own_program(verb, "--config", str(config_file))


def _environment() -> dict[str, str]:
    """Return our environment without settings and keys of an agent, a service manager, and proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy")
    }
