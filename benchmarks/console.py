"""The far side's console: its five calls over http on loopback, as fast as they go, with every call counted."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

KEY = "axom_live_bench"

File = tuple[str, int, Callable[[], str]]  # rel, size, and a link that is made anew for every manifest
Grant = Callable[[str], tuple[str, str]]  # a file name → key and link


class Console:
    """From entering to leaving the context, a console that knows the models published so far. `calls` counts by path.

    Each answer takes `away` seconds.
    """

    def __init__(self, grant: Grant | None = None, away: float = 0.0) -> None:
        self._away = away
        self.calls: Counter[str] = Counter()
        self._grant = grant
        self._models: list[dict[str, Any]] = []
        self._files: dict[str, list[File]] = {}
        self._listing = b"[]"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}/api"

    def publish(self, name: str, files: list[File], version: str = "v1", status: str = "ready") -> None:
        """List a model, as the newest."""
        model_id = str(uuid.uuid4())
        self._files[model_id] = files
        self._models.insert(0, {
            "id": model_id, "name": name, "version": version, "params": 1, "base_model_id": str(uuid.uuid4()),
            "lineage": {"job_id": str(uuid.uuid4())}, "status": status, "created_at": "2026-01-01T00:00:00Z",
        })  # fmt: skip
        self._listing = b""

    def answer(self, method: str, path: str, body: bytes) -> bytes | None:
        """The JSON that answers a call, None for what is not there."""
        match method, path.strip("/").split("/")[1:]:
            case "GET", ["models"]:
                self.calls["models"] += 1
                self._listing = self._listing or json.dumps(self._models).encode()
                return self._listing
            case "GET", ["models", model_id, "download"] if model_id in self._files:
                self.calls["download"] += 1
                model = next(model for model in self._models if model["id"] == model_id)
                files = [{"rel": rel, "size": size, "url": link()} for rel, size, link in self._files[model_id]]
                return json.dumps(
                    {"model_id": model_id, "name": model["name"], "version": model["version"], "files": files}
                ).encode()
            case "POST", ["uploads", "presign"] if self._grant is not None:
                self.calls["presign"] += 1
                key, link = self._grant(json.loads(body)["filename"])
                answer = {"upload_id": str(uuid.uuid4()), "key": key, "url": link, "method": "PUT"}
                return json.dumps(answer).encode()
            case "GET", ["datasets" | "base-models"]:
                return b"[]"
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        console = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def _answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                allowed = self.headers.get("Authorization") == f"Bearer {KEY}"
                time.sleep(console._away)
                found = console.answer(method, self.path, body) if allowed else b'{"detail": "wrong key"}'
                self.send_response(401 if not allowed else 404 if found is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(found or b"{}")))
                self.end_headers()
                self.wfile.write(found or b"{}")

            def log_message(self, *_: object) -> None:
                pass

        return Handler
