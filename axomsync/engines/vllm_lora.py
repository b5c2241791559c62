"""vLLM: LoRA adapters, loaded and unloaded while it serves.

    GET  /v1/models               `data[]` with `id`, `root` (the adapter's folder) and `parent` (null for a base model)
    POST /v1/load_lora_adapter    {"lora_name", "lora_path"}, and "load_inplace": true to replace one of that name
    POST /v1/unload_lora_adapter  {"lora_name"}

https://docs.vllm.ai/en/latest/features/lora/ ("Dynamically serving LoRA Adapters", "In-Place LoRA Reloading"). The server
needs `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`.

Failures handled: an adapter that is there already (nothing to do), one of that name from another folder (replaced in place;
where a version of vLLM can't, unloaded and loaded again), one that somebody else unloads meanwhile, a name that the base
model has, models that are no adapters (nothing to do), a server that does not allow it (`Rejected`).
"""

import os

from pydantic import BaseModel, ConfigDict, TypeAdapter

from axomsync.core.errors import Rejected
from axomsync.core.text import printable
from axomsync.engines.client import Answer, Client
from axomsync.engines.events import Load, Naming, Unload

ADAPTER = "adapter_config.json"  # the file by which vLLM knows an adapter
_LOADED = "already been loaded"
_NOT_ALLOWED = "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"


class _Card(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    id: str
    root: str | None = None
    parent: str | None = None


class _Models(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    data: list[_Card]


_MODELS = TypeAdapter(_Models)


def load(client: Client, task: Load, naming: Naming) -> str:
    """Load the adapter, and unload those of its other versions when each version has a name of its own."""
    name, folder = naming.of(task.version), task.version.folder
    if not os.path.exists(os.path.join(folder, ADAPTER)):
        return f"{task.version} is no LoRA adapter: it has no {ADAPTER}"
    known = _cards(client)
    there = known.get(name)
    if there is not None and there.parent is None:
        raise Rejected(f"{client.url}: {printable(name)} is the base model there; choose another --name")
    if there is None or there.root != folder:
        _load(client, name, folder, replaces=there is not None)
        client.until(printable(name), lambda: _serves(client, name, folder))
    gone = [card.id for card in known.values() if card.id != name and _was_replaced(card, folder, naming)]
    for old in gone:
        _unload(client, old)
    told = f"; unloaded {', '.join(map(printable, gone))}" if gone else ""
    return f"{printable(name)} serves {task.version}{told}"


def unload(client: Client, task: Unload) -> str:
    """Unload the adapters that came from the folder that is gone, whatever their names are."""
    gone = [card.id for card in _cards(client).values() if card.parent is not None and card.root == task.version.folder]
    for name in gone:
        _unload(client, name)
    return f"unloaded {', '.join(map(printable, gone))}" if gone else f"{task.version} was not loaded"


def _cards(client: Client) -> dict[str, _Card]:
    answer = client.ask("GET", "/v1/models")
    if not answer.good:
        raise answer.refusal("does --url name vLLM?")
    return {card.id: card for card in answer.document(_MODELS).data}


def _serves(client: Client, name: str, folder: str) -> bool:
    card = _cards(client).get(name)
    return card is not None and card.root in (folder, None)


def _was_replaced(card: _Card, folder: str, naming: Naming) -> bool:
    """Check that an adapter is another version of the model, by the folder that it came from."""
    if card.parent is None or card.root is None or os.path.dirname(card.root) != os.path.dirname(folder):
        return False
    return naming.tells_versions and card.root != folder


def _load(client: Client, name: str, folder: str, *, replaces: bool) -> None:
    order = {"lora_name": name, "lora_path": folder}
    answer = client.order("POST", "/v1/load_lora_adapter", {**order, "load_inplace": True} if replaces else order)
    if replaces and answer.status == 400 and _LOADED in answer.words:  # this vLLM can't replace in place
        _unload(client, name)
        answer = client.order("POST", "/v1/load_lora_adapter", order)
    if not answer.good and _LOADED not in answer.words:
        raise answer.refusal(_remedy(answer))


def _unload(client: Client, name: str) -> None:
    answer = client.order("POST", "/v1/unload_lora_adapter", {"lora_name": name})
    if not answer.good and "cannot be found" not in answer.words:
        raise answer.refusal(_remedy(answer))


def _remedy(answer: Answer) -> str:
    return _NOT_ALLOWED if answer.status in (404, 405) else ""
