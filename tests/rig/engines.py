"""Engines on the wire: servers that accept exactly the documented calls of vLLM, SGLang, the V2 repository API and Ollama.

Another path is a 404, another field a 422. Each keeps its state, which a test compares, and every request. An order can be
made to go wrong (`fault`), and the client can be killed at any request (`kill`), before or after it had its effect.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

Answer = tuple[int, Any]  # status, and what is sent as JSON; text is sent as text
HUGE = 9 * 1024 * 1024
FAULTS = ("503", "hang", "cut", "no json", "400", "huge", "redirect", "reset")


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: Any
    headers: Mapping[str, str]


class Unprocessable(Exception):
    """A field that is not documented, or one that is missing."""


class EngineServer:
    """A server on loopback; a context manager. `order` is the path that faults hit."""

    order = ""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.fault: str | None = None
        self.token: str | None = None
        self.elsewhere = "http://127.0.0.1:9/"
        self.kill: tuple[int, bool, Callable[[], int]] | None = None  # which request, after its effect, whom
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        engine = self

        class Handler(_Handler):
            server_of: EngineServer = engine

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def calls(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    def state(self) -> Any:
        raise NotImplementedError

    def answer(self, method: str, path: str, body: Any) -> Answer:
        raise NotImplementedError

    def refusal(self) -> Answer:
        return 400, {"error": "the engine's own words"}

    def take(self, handler: "_Handler", method: str, body: Any) -> None:
        """Answer one request, or misbehave."""
        with self._lock:
            number = len(self.asked)
            self.asked.append(Asked(method, handler.path, body, dict(handler.headers)))
        kill = self.kill if self.kill is not None and self.kill[0] == number else None
        if kill is not None and not kill[1]:
            return self._end(kill[2])
        if self.token is not None and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return handler.send(401, {"error": f"not {handler.headers.get('Authorization')}"})
        if self.fault is not None and handler.path.startswith(self.order):
            return self._misbehave(handler, self.fault)
        try:
            status, answer = self.answer(method, unquote(handler.path), body)
        except Unprocessable as fault:
            status, answer = 422, {"detail": [{"loc": ["body"], "msg": str(fault)}]}
        if kill is not None:
            return self._end(kill[2])
        return handler.send(status, answer)

    def _end(self, whom: Callable[[], int]) -> None:
        os.kill(whom(), signal.SIGKILL)

    def _misbehave(self, handler: "_Handler", fault: str) -> None:
        if fault == "503":
            self.fault = None
            handler.send(503, {"error": "starting"})
        elif fault == "hang":
            self._closing.wait()
        elif fault == "cut":
            handler.send(200, {"status": "success"}, length=1000)
        elif fault == "no json":
            handler.send(200, "<html>sign in</html>")
        elif fault == "400":
            handler.send(*self.refusal())
        elif fault == "huge":
            handler.send(200, "[" + "0," * (HUGE // 2) + "0]")
        elif fault == "redirect":
            handler.send(307, {}, location=self.elsewhere)
        elif fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: EngineServer

    def send(self, status: int, answer: Any, *, length: int | None = None, location: str | None = None) -> None:
        body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _take(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = self.headers.get("Content-Type", "") == "application/json"
        try:
            self.server_of.take(self, self.command, json.loads(content) if is_json and content else content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_HEAD = do_DELETE = _take  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def fields(body: Any, needed: Mapping[str, type], also: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The body, if it has these fields and no others. Raises `Unprocessable`."""
    known = {**needed, **(also or {})}
    if not isinstance(body, dict) or set(body) - set(known) or set(needed) - set(body):
        raise Unprocessable(f"fields are {sorted(needed)} and perhaps {sorted(also or {})}, not {body!r}")
    for name, value in body.items():
        if not isinstance(value, known[name]):
            raise Unprocessable(f"{name} is no {known[name].__name__}")
    return body


class Vllm(EngineServer):
    """`adapters`: what is loaded, by name. `in_place`: whether this version can replace an adapter."""

    order = "/v1/load_lora_adapter"

    def __init__(self, *, in_place: bool = True, allowed: bool = True) -> None:
        super().__init__()
        self.adapters: dict[str, str] = {}
        self.in_place, self.allowed = in_place, allowed

    def state(self) -> Any:
        return self.adapters

    def refusal(self) -> Answer:
        return self._error(400, "the engine's own words")

    def _error(self, status: int, words: str) -> Answer:
        inner = {"message": words, "type": "InvalidUserInput", "param": None, "code": status}
        return status, {"error": inner} if self.in_place else {"object": "error", **inner}

    def answer(self, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("GET", "/v1/models"):
            cards = [("base", "/models/base", None), *((name, root, "base") for name, root in self.adapters.items())]
            rest = {"object": "model", "created": 1, "owned_by": "vllm", "permission": []}
            return 200, {"object": "list", "data": [{"id": i, "root": r, "parent": p, **rest} for i, r, p in cards]}
        if not self.allowed or method != "POST":
            return 404, {"detail": "Not Found"}
        if path == "/v1/load_lora_adapter":
            return self._load(fields(body, {"lora_name": str, "lora_path": str}, {"load_inplace": bool}))
        if path == "/v1/unload_lora_adapter":
            name = fields(body, {"lora_name": str})["lora_name"]
            if self.adapters.pop(name, None) is None:
                return self._error(404, f"The lora adapter '{name}' cannot be found.")
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        return 404, {"detail": "Not Found"}

    def _load(self, order: dict[str, Any]) -> Answer:
        name, path = order["lora_name"], order["lora_path"]
        if name in self.adapters and not (self.in_place and order.get("load_inplace")):
            return self._error(400, f"The lora adapter '{name}' has already been loaded.")
        if not Path(path, "adapter_config.json").exists():
            return self._error(404, f"Loading lora {name} failed: No adapter found for {path}")
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."


class Sglang(EngineServer):
    """`serves` is the folder of its weights. `info`: where it tells that."""

    order = "/update_weights_from_disk"

    def __init__(self, *, info: str = "/get_model_info") -> None:
        super().__init__()
        self.serves, self.info = "/models/base", info

    def state(self) -> Any:
        return self.serves

    def refusal(self) -> Answer:
        return 400, {"success": False, "message": "the engine's own words", "num_paused_requests": 0}

    def answer(self, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("GET", self.info):
            return 200, {"model_path": self.serves, "tokenizer_path": "/models/base", "is_generation": True}
        if (method, path) == ("GET", "/health"):
            return 200, ""
        if (method, path) == ("POST", "/update_weights_from_disk"):
            folder = fields(body, {"model_path": str})["model_path"]
            if not Path(folder, "config.json").exists():
                return 400, {"success": False, "message": f"Failed to update weights: {folder}", "num_paused_requests": 0}
            self.serves = folder
            return 200, {"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0}
        return 404, {"detail": "Not Found"}


class Repository(EngineServer):
    """The V2 protocol as Triton speaks it. `folders`: what each model is read from; `loaded`: the folder that was read.

    `slow`: the number of questions that are answered with "not ready" after a load.
    """

    order = "/v2/repository/models/"

    def __init__(self, folders: Mapping[str, Path], *, slow: int = 0) -> None:
        super().__init__()
        self.folders, self.slow, self._not_yet = dict(folders), slow, 0
        self.loaded: dict[str, str] = {}

    def state(self) -> Any:
        return self.loaded

    def answer(self, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("POST", "/v2/repository/index"):
            fields(body, {}, {"ready": bool, "repository_name": str})
            return 200, [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in self.loaded]
        begin, name, end = path[: len(self.order)], path[len(self.order) :].rpartition("/")[0], path.rpartition("/")[2]
        if method == "POST" and begin == self.order and end in ("load", "unload"):
            fields(body, {}, {"parameters": dict})
            if name not in self.folders:
                return 400, {"error": f"failed to {end} '{name}', no such model"}
            if end == "unload":
                self.loaded.pop(name, None)
            else:
                self.loaded[name], self._not_yet = os.path.realpath(self.folders[name]), self.slow
            return 200, {}
        if method == "GET" and path.startswith("/v2/models/") and path.endswith("/ready"):
            self._not_yet -= 1
            ready = path.removeprefix("/v2/models/").removesuffix("/ready") in self.loaded and self._not_yet < 0
            return 200 if ready else 400, ""
        return 404, {"error": "Not Found"}


class Ollama(EngineServer):
    """`store` is its OLLAMA_MODELS; `models`: the files of each, by digest."""

    order = "/api/create"

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.store = store
        (store / "blobs").mkdir(parents=True)
        self.models: dict[str, dict[str, str]] = {}

    def state(self) -> Any:
        return self.models, sorted(blob.name for blob in (self.store / "blobs").iterdir())

    def answer(self, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("GET", "/api/version"):
            return 200, {"version": "0.30.0"}
        if path.startswith("/api/blobs/sha256:"):
            return self._blob(method, path.removeprefix("/api/blobs/"), body)
        if (method, path) == ("POST", "/api/create"):
            order = fields(body, {"model": str, "files": dict, "stream": bool})
            if missing := [digest for digest in order["files"].values() if not self._place(digest).exists()]:
                return 400, {"error": f"blob not found: {missing}"}
            self.models[order["model"]] = order["files"]
            return 200, {"status": "success"}
        if (method, path) in (("POST", "/api/show"), ("DELETE", "/api/delete")):
            name = fields(body, {"model": str})["model"]
            if name not in self.models:
                return 404, {"error": f"model '{name}' not found"}
            if method == "DELETE":
                del self.models[name]
            return 200, {}
        return 404, "404 page not found"

    def _blob(self, method: str, digest: str, body: bytes) -> Answer:
        place = self._place(digest)
        if method == "HEAD":
            return 200 if place.exists() else 404, ""
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            return 400, {"error": "digest mismatch"}
        place.write_bytes(body)
        return 201, ""

    def _place(self, digest: str) -> Path:
        return self.store / "blobs" / digest.replace(":", "-")
