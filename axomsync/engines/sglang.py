"""SGLang: new weights for the model that it serves, read from disk without a restart.

    GET  /get_model_info            `model_path`; newer servers call it /model_info
    POST /update_weights_from_disk  {"model_path"} → `success`, `message`
    GET  /health                    200 when it can answer

https://docs.sglang.io/docs/basic_usage/native_api and https://docs.sglang.io/docs/advanced_features/sglang_for_rl ("Update
weights from disk"). The new version must have the architecture of the old one.

Failures handled: weights that it has already (nothing to do), weights that do not fit (`Rejected` with its words; SGLang
goes back to the old ones), a server that is not healthy yet.
"""

from pydantic import BaseModel, ConfigDict, TypeAdapter

from axomsync.engines.client import Client
from axomsync.engines.events import Load, Unload


class _Info(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())
    model_path: str


class _Update(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    success: bool


_INFO, _UPDATE = TypeAdapter(_Info), TypeAdapter(_Update)


def load(client: Client, task: Load) -> str:
    """Have the server read the weights of this version."""
    folder = task.version.folder
    if _path(client) != folder:
        answer = client.order("POST", "/update_weights_from_disk", {"model_path": folder})
        if not answer.good or not answer.document(_UPDATE).success:
            raise answer.refusal()
    client.until(str(task.version), lambda: client.ask("GET", "/health").good and _path(client) == folder)
    return f"serves {task.version}"


def unload(_: Client, task: Unload) -> str:
    """Weights can't be unloaded, only replaced."""
    return f"{task.version}: SGLang keeps the weights that it has"


def _path(client: Client) -> str:
    answer = client.ask("GET", "/get_model_info")
    if answer.status == 404:
        answer = client.ask("GET", "/model_info")
    if not answer.good:
        raise answer.refusal("does --url name SGLang?")
    return answer.document(_INFO).model_path
