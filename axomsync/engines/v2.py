"""The repository API of the V2 inference protocol, which Triton, MLServer and KServe's servers share.

    POST /v2/repository/models/{name}/load     loads, or loads again; ends when the model is loaded
    POST /v2/repository/models/{name}/unload
    POST /v2/repository/index  {"ready": true} `[]` of `name`
    GET  /v2/models/{name}/ready               200 when the model can answer

Triton: docs/protocol/extension_model_repository.md in its `server` repository, with `--model-control-mode=explicit`;
MLServer: https://docs.seldon.ai/mlserver/examples/model-repository. The engine finds the files by its own configuration,
which leads to `current`.

Failures handled: a model that the engine does not know or can't load (`Rejected` with its words; the engines go on with the
version they have), one that is not ready yet, one that was unloaded already.
"""

from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, TypeAdapter

from axomsync.core.text import printable
from axomsync.engines.client import Client
from axomsync.engines.events import Load, Naming, Unload


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    name: str


_INDEX = TypeAdapter(list[_Entry])


def load(client: Client, task: Load, naming: Naming) -> str:
    """Load the model; which version the engine has is not told by the protocol, so it reads the files again."""
    name = naming.of(task.version)
    answer = client.order("POST", f"/v2/repository/models/{_quoted(name)}/load", {})
    if not answer.good:
        raise answer.refusal()
    client.until(printable(name), lambda: _is_ready(client, name))
    return f"{printable(name)} serves {task.version}"


def unload(client: Client, task: Unload, naming: Naming) -> str:
    """Unload the model if no version that it could serve is left."""
    name = naming.of(task.version)
    if not (task.last or naming.tells_versions):
        return f"{printable(name)} serves another version"
    answer = client.ask("POST", "/v2/repository/index", {"ready": True})
    if not answer.good:
        raise answer.refusal("does --url name a server with a model repository?")
    if name not in {entry.name for entry in answer.document(_INDEX)}:
        return f"{printable(name)} was not loaded"
    answer = client.order("POST", f"/v2/repository/models/{_quoted(name)}/unload", {})
    if not answer.good and answer.status != 404:
        raise answer.refusal()
    client.until(f"the end of {printable(name)}", lambda: not _is_ready(client, name))
    return f"unloaded {printable(name)}"


def _is_ready(client: Client, name: str) -> bool:
    return client.ask("GET", f"/v2/models/{_quoted(name)}/ready").good


def _quoted(name: str) -> str:
    return quote(name, safe="")
