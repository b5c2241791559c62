"""A real server with the repository API of the V2 inference protocol: MLServer, in an environment of its own.

It serves models of one kind, whose answer is the content of a file: so a test sees which version was loaded.
"""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.rig.agent import eventually

PROGRAM = Path(sys.prefix, "mlserver", "bin", "mlserver")

_RUNTIME = """
from pathlib import Path
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse

class Reader(MLModel):
    async def load(self):
        self.content = Path(self.settings.parameters.uri, "config.json").read_text()
        return True

    async def predict(self, request):
        output = StringCodec.encode_output("content", [self.content])
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def refuse_if_missing() -> None:
    """Fail where MLServer was not installed; skip where it can't be: its releases ask for a Python below 3.13."""
    if sys.version_info >= (3, 13):  # only a leg of `make matrix`; CI and `make test` on Debian 12 have 3.11
        pytest.skip("MLServer asks for a Python below 3.13")
    assert PROGRAM.exists(), "MLServer is not installed; run: make .venv/mlserver/ready"


class MLServer:
    """A context manager. `model` adds a model that is read from a folder; nothing is loaded unless it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def model(self, name: str, uri: Path) -> None:
        place = self.folder / name
        place.mkdir()
        (place / "runtime.py").write_text(_RUNTIME)
        settings = {"name": name, "implementation": "runtime.Reader", "parameters": {"uri": str(uri)}}
        (place / "model-settings.json").write_text(json.dumps(settings))

    def __enter__(self) -> Self:
        ports = _free_ports(3)
        settings = {
            "host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
            "parallel_workers": 0, "load_models_at_startup": False,
        }  # fmt: skip
        (self.folder / "settings.json").write_text(json.dumps(settings))
        self.url = f"http://127.0.0.1:{ports[0]}"
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen([PROGRAM, "start", "."], cwd=self.folder, stdout=self._log, stderr=self._log)
        try:
            eventually("MLServer", self._answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ready(self, name: str) -> bool:
        return self._get(f"/v2/models/{name}/ready")

    def infer(self, name: str) -> Any:
        """What the model answers: the document that it read when it was loaded."""
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [0]}]}
        request = urllib.request.Request(f"{self.url}/v2/models/{name}/infer", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(json.load(answer)["outputs"][0]["data"][0])

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        return self._get("/v2/health/live")

    def _get(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
