"""`axomsync tell`, again and again, as processes of their own that can be killed.

Each is a fork of one process that has imported the program: so a run takes milliseconds.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_FORKS = """
import json, os, sys
import httpx, httpcore, axomsync.cli, axomsync.cli.verbs.tell, axomsync.config.units, axomsync.ops.logs
import axomsync.engines.client, axomsync.engines.ollama, axomsync.engines.sglang, axomsync.engines.unit
import axomsync.engines.v2, axomsync.engines.vllm_lora
while line := sys.stdin.buffer.readline():
    order = json.loads(line)
    go, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        os.dup2(os.open(order["event"], os.O_RDONLY), 0)
        os.dup2(os.open(order["output"], os.O_WRONLY | os.O_TRUNC), 1)
        os.dup2(1, 2)
        sys.stdin = open(0)
        os.environ.update(order["environ"])
        sys.argv = ["axomsync", "tell", *order["arguments"]]
        axomsync.cli.main()
    print(child, flush=True)
    sys.stdin.buffer.readline()
    os.write(said, b".")
    status = os.waitpid(child, 0)[1]
    os.close(go)
    os.close(said)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Told:
    code: int
    output: str


class Teller:
    """Runs the verb; a context manager. `pid` is the process that runs now."""

    pid = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AXOM")}
        self._forks = subprocess.Popen(
            [sys.executable, "-c", _FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environ
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._forks.stdin.close()
        self._forks.wait()
        self._forks.stdout.close()
        self._folder.cleanup()

    def tell(
        self, event: Any, *arguments: str, environ: dict[str, str] | None = None, kill_after: float | None = None
    ) -> Told:
        """Run `tell` with an event, a document or raw text, on standard input. `kill_after`: seconds that it lives."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        given, output = Path(self._folder.name, "event"), Path(self._folder.name, "output")
        given.write_bytes(event if isinstance(event, bytes) else json.dumps(event).encode())
        output.touch()
        order = {"event": str(given), "output": str(output), "arguments": arguments, "environ": environ or {}}
        self._forks.stdin.write(json.dumps(order) + "\n")
        self.pid = int(self._forks.stdout.readline())
        self._forks.stdin.write("go\n")
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        code = int(self._forks.stdout.readline())
        return Told(code, output.read_text())
