"""Whatever an event or an answer holds, the verb ends with a failure of ours or with a word, and never in a traceback."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from axomsync.core.errors import AxomsyncError, Rejected
from axomsync.engines import ollama, sglang, v2, vllm_lora
from axomsync.engines.client import Client
from axomsync.engines.events import Load, Naming, Nothing, Task, Unload, Version, read_task
from tests.engines.conftest import Mirror
from tests.rig.anything import ANYTHING, for_any, how_many, nearly
from tests.rig.engines import Answer, EngineServer

NAME = Naming("{name}-{version}")


@how_many(300)
def test_any_event(mirror: Mirror, examples: int) -> None:
    mirror.publish("v1")

    def holds(event: Any) -> None:
        text = json.dumps(event).encode()
        try:
            task: Task = read_task(io.BytesIO(text))
        except Rejected:
            return
        if isinstance(task, Nothing):
            assert task.reason.isprintable()
        else:
            assert task.version.folder.startswith("/")

    good = mirror.event("v1")
    for_any(ANYTHING | nearly(good) | nearly(good | {"event": "model_removed"}), examples, holds)


class Anything(EngineServer):
    """Answers everything with the same."""

    said: Answer = (200, None)

    def answer(self, method: str, path: str, body: Any) -> Answer:
        return self.said


GOOD = {
    "data": [{"id": "bot-v0", "root": "/m/bot/v0", "parent": "base"}], "model_path": "/m/bot/v0", "success": True,
    "message": "words", "status": "success", "error": {"message": "words"},
}  # fmt: skip
CALLS: dict[str, Callable[[Client, Version], object]] = {
    "vllm-lora": lambda client, version: vllm_lora.load(client, Load(version), NAME),
    "vllm-lora, unload": lambda client, version: vllm_lora.unload(client, Unload(version, True)),
    "sglang": lambda client, version: sglang.load(client, Load(version)),
    "v2": lambda client, version: v2.load(client, Load(version), NAME),
    "v2, unload": lambda client, version: v2.unload(client, Unload(version, True), NAME),
    "ollama": lambda client, version: ollama.load(client, Load(version), NAME, None),
    "ollama, unload": lambda client, version: ollama.unload(client, Unload(version, True), NAME),
}


@how_many(60)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_any_answer(call: Callable[[Client, Version], object], tmp_path: Path, examples: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "adapter_config.json").write_text("{}")
    version = Version("i", "bot", "v1", str(tmp_path), 0.0)
    with Anything() as engine:
        client = Client(engine.url, token="secret-of-the-engine", timeout=5.0, wait=0.05)

        def holds(said: tuple[int, Any]) -> None:
            engine.said = (said[0], said[1] if isinstance(said[1], str) and said[1].isascii() else json.dumps(said[1]))
            with suppress(AxomsyncError):
                call(client, version)

        statuses = st.sampled_from([200, 201, 204, 301, 400, 401, 404, 409, 422, 429, 500, 503, 599])
        for_any(st.tuples(statuses, ANYTHING | nearly(GOOD)), min(examples, 500), holds)
        client.close()
