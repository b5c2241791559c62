"""The five console calls as HTTP, and the ways in which they refuse.

Every refusal is `{"detail": "…"}`: 400 for a body that is not a JSON object, 401 without a valid key, 403 for a key without
the scope, 404 for unknown ids and paths, 405, 409, 422 for a body that lacks something.
"""

from dataclasses import asdict
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from axomsync.sandbox.catalog import BASE_MODELS, PublishedModel, new_upload
from axomsync.sandbox.errors import Conflict
from axomsync.sandbox.far_side import FarSide


def routes(sandbox: FarSide) -> list[Route]:
    """Return the calls, below `/api`. Keys are looked up on every call: revocation takes effect at once."""

    def authorize(request: Request, scope: str) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        scopes = sandbox.catalog.scopes(key.strip()) if scheme.lower() == "bearer" else None
        if scopes is None:
            raise HTTPException(401, "missing, wrong or revoked key", headers={"WWW-Authenticate": "Bearer"})
        if scope not in scopes:
            raise HTTPException(403, f"the key lacks the scope '{scope}'")

    def base_models(request: Request) -> Response:
        authorize(request, "read")
        return answer([asdict(model) for model in BASE_MODELS])

    def models(request: Request) -> Response:
        authorize(request, "read")
        return answer([_listed(model) for model in sandbox.catalog.models()])

    def download(request: Request) -> Response:
        authorize(request, "models")
        model = sandbox.catalog.model(request.path_params["id"])
        if model.status != "ready":
            raise HTTPException(404, "the model is not ready")
        files = [{"rel": f.rel, "size": f.size, "url": sandbox.presign("GET", f.key)} for f in model.files]
        return answer({"model_id": model.id, "name": model.name, "version": model.version, "files": files})

    def datasets(request: Request) -> Response:
        authorize(request, "read")
        return answer([asdict(dataset) for dataset in sandbox.catalog.datasets()])

    async def presign(request: Request) -> Response:
        authorize(request, "datasets")
        body = await read_object(request)
        filename, content_type = text(body, "filename"), text(body, "content_type")
        if "/" in filename or len(filename.encode()) > 255:
            raise HTTPException(422, "filename: not the name of one file")
        upload = new_upload(filename, content_type)
        url = sandbox.presign("PUT", upload.key)
        sandbox.catalog.add_upload(upload)
        return answer({"upload_id": upload.upload_id, "key": upload.key, "url": url, "method": "PUT"})

    return [
        Route("/base-models", base_models),
        Route("/models", models),
        Route("/models/{id}/download", download),
        Route("/datasets", datasets),
        Route("/uploads/presign", presign, methods=["POST"]),
    ]


def answer(data: object, status: int = 200) -> Response:
    return Response(orjson.dumps(data), status, media_type="application/json")


async def read_object(request: Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return body


def text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise HTTPException(422, f"{name}: a non-empty string is required")
    return value


def refuse(_: Request, error: Exception) -> Response:
    """Return the answer to an exception that means a status."""
    match error:
        case HTTPException():
            response = answer({"detail": error.detail}, error.status_code)
            response.headers.update(error.headers or {})
            return response
        case Conflict():
            return answer({"detail": str(error)}, 409)
        case KeyError():
            return answer({"detail": f"not found: {error.args[0]}"}, 404)
        case ValueError():
            return answer({"detail": str(error)}, 422)
    raise error


REFUSALS = dict.fromkeys((HTTPException, Conflict, KeyError, ValueError), refuse)


def _listed(model: PublishedModel) -> dict[str, object]:
    return {
        "id": model.id,
        "name": model.name,
        "version": model.version,
        "params": model.params,
        "base_model_id": model.base_model_id,
        "lineage": {"job_id": model.job_id},
        "status": model.status,
        "created_at": model.created_at,
    }
