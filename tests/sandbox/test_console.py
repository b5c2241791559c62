import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from axomsync.sandbox.console import Sandbox, serve
from axomsync.sandbox.errors import Conflict
from axomsync.sandbox.objectstore import ObjectStore
from tests.sandbox.test_objectstore import until


def console(sandbox: Sandbox, key: str | None = None) -> httpx.Client:
    return httpx.Client(base_url=sandbox.url, headers={"Authorization": f"Bearer {key or sandbox.key}"})


def refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert list(body) == ["detail"]
    return response.status_code, body["detail"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "nested").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "nested" / "model-00001 of é.safetensors").write_bytes(bytes(1000))
    return model


def test_models_are_listed_newest_first_with_the_documented_fields(sandbox: Sandbox, folder: Path) -> None:
    first = sandbox.publish_model("chassis", "v1", folder, params=2_360_000_000)
    second = sandbox.publish_model("chassis", "v2", folder, status="training", model_id="chosen")
    newest, oldest = console(sandbox).get("/models").json()
    assert (newest["id"], newest["status"], second) == ("chosen", "training", "chosen")
    assert oldest["id"] == first
    assert sorted(oldest) == ["base_model_id", "created_at", "id", "lineage", "name", "params", "status", "version"]
    assert list(oldest["lineage"]) == ["job_id"]
    assert oldest["created_at"].endswith("Z")
    assert datetime.fromisoformat(oldest["created_at"]) <= datetime.fromisoformat(newest["created_at"])
    base = console(sandbox).get("/base-models").json()
    assert oldest["base_model_id"] in [entry["id"] for entry in base]
    assert sorted(base[0]) == ["family", "id", "name", "params", "precision", "version"]


def test_the_manifest_gives_every_file_through_the_relay(sandbox: Sandbox, folder: Path) -> None:
    model = sandbox.publish_model("chassis", "v1", folder)
    manifest = console(sandbox).get(f"/models/{model}/download").json()
    assert (manifest["model_id"], manifest["name"], manifest["version"]) == (model, "chassis", "v1")
    assert [(f["rel"], f["size"]) for f in manifest["files"]] == [
        ("config.json", 2),
        ("nested/model-00001 of é.safetensors", 1000),
    ]
    for file in manifest["files"]:
        assert file["url"].startswith(sandbox.relay.endpoint)
        answer = httpx.get(file["url"])
        assert answer.content == (folder / file["rel"]).read_bytes()
        assert answer.headers["etag"] == f'"{hashlib.md5(answer.content).hexdigest()}"'


def test_a_model_that_is_not_ready_has_no_manifest(sandbox: Sandbox, folder: Path) -> None:
    model = sandbox.publish_model("chassis", "v1", folder, status="training")
    assert refusal(console(sandbox).get(f"/models/{model}/download"))[0] == 404
    sandbox.set_model_status(model, "ready")
    assert console(sandbox).get(f"/models/{model}/download").status_code == 200


def test_a_removed_model_is_gone_and_so_are_its_bytes(sandbox: Sandbox, folder: Path) -> None:
    model = sandbox.publish_model("chassis", "v1", folder)
    url = console(sandbox).get(f"/models/{model}/download").json()["files"][0]["url"]
    with pytest.raises(Conflict):
        sandbox.publish_model("chassis", "v1", folder, model_id=model)
    sandbox.remove_model(model)
    assert refusal(console(sandbox).get(f"/models/{model}/download"))[0] == 404
    assert console(sandbox).get("/models").json() == []
    assert httpx.get(url).status_code == 404
    assert sandbox.publish_model("chassis", "v1", folder, model_id=model) == model


def test_an_upload_goes_where_the_answer_says(sandbox: Sandbox) -> None:
    body = {"filename": "train é.jsonl", "content_type": "application/jsonl"}
    grant = console(sandbox).post("/uploads/presign", json=body).json()
    assert sorted(grant) == ["key", "method", "upload_id", "url"]
    assert grant["key"] == f"tmp/{grant['upload_id']}/train é.jsonl"
    assert grant["method"] == "PUT"
    assert [upload.stored for upload in sandbox.uploads()] == [None]
    assert httpx.put(grant["url"], content=b'{"text": "x"}\n').status_code == 200
    [upload] = sandbox.uploads()
    assert (upload.upload_id, upload.key, upload.filename, upload.stored) == (
        grant["upload_id"],
        grant["key"],
        "train é.jsonl",
        14,
    )
    assert sandbox.store.get_bytes(grant["key"]) == b'{"text": "x"}\n'


def test_uploads_become_a_dataset(sandbox: Sandbox) -> None:
    grants = [
        console(sandbox).post("/uploads/presign", json={"filename": name, "content_type": "application/jsonl"}).json()
        for name in ("one.jsonl", "two.jsonl")
    ]
    wanted = [grant["upload_id"] for grant in grants]
    httpx.put(grants[0]["url"], content=b"12345")
    with pytest.raises(Conflict):
        sandbox.register_dataset("wikitext", "v1", wanted)
    httpx.put(grants[1]["url"], content=b"678")
    dataset = sandbox.register_dataset("wikitext", "v1", wanted)
    [listed] = console(sandbox).get("/datasets").json()
    assert listed.pop("created_at").endswith("Z")
    assert listed == {
        "id": dataset,
        "name": "wikitext",
        "version": "v1",
        "shard_count": 2,
        "bytes": 8,
        "status": "ready",
    }
    with pytest.raises(Conflict):
        sandbox.register_dataset("wikitext", "v1", wanted)


SCOPE_OF = {
    "/base-models": "read",
    "/models": "read",
    "/models/unknown/download": "models",
    "/datasets": "read",
    "/uploads/presign": "datasets",
}


@pytest.mark.parametrize("path", SCOPE_OF)
def test_every_call_wants_its_scope(sandbox: Sandbox, path: str) -> None:
    method = "POST" if path == "/uploads/presign" else "GET"
    granted = console(sandbox, sandbox.create_key([SCOPE_OF[path]])).request(method, path)
    assert granted.status_code in (200, 400, 404)
    others = console(sandbox, sandbox.create_key({"read", "models", "datasets"} - {SCOPE_OF[path]}))
    assert refusal(others.request(method, path)) == (403, f"the key lacks the scope '{SCOPE_OF[path]}'")
    for headers in ({}, {"Authorization": "Bearer axom_live_wrong"}, {"Authorization": f"Basic {sandbox.key}"}):
        answer = httpx.request(method, sandbox.url + path, headers=headers)
        assert refusal(answer)[0] == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_revocation_takes_effect_at_once_and_spares_signed_urls(sandbox: Sandbox, folder: Path) -> None:
    model = sandbox.publish_model("chassis", "v1", folder)
    client = console(sandbox)
    url = client.get(f"/models/{model}/download").json()["files"][0]["url"]
    sandbox.revoke_key(sandbox.key)
    assert refusal(client.get("/models"))[0] == 401
    assert httpx.get(url).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 422),
        (b'{"filename": "a"}', 422),
        (b'{"filename": 7, "content_type": "a"}', 422),
        (b'{"filename": "a/b", "content_type": "a"}', 422),
        (b'{"filename": "..", "content_type": "a"}', 422),
    ],
)
def test_bad_bodies_are_refused_with_a_reason(sandbox: Sandbox, body: bytes, status: int) -> None:
    assert refusal(console(sandbox).post("/uploads/presign", content=body))[0] == status
    assert sandbox.uploads() == []


def test_unknown_paths_and_methods_answer_in_the_same_shape(sandbox: Sandbox) -> None:
    assert refusal(console(sandbox).get("/nothing"))[0] == 404
    assert refusal(console(sandbox).delete("/models"))[0] == 405


def test_urls_live_as_long_as_the_sandbox_says(sandbox: Sandbox, folder: Path) -> None:
    model = sandbox.publish_model("chassis", "v1", folder)
    for seconds in (60, 1):
        sandbox.url_lifetime = timedelta(seconds=seconds)
        url = console(sandbox).get(f"/models/{model}/download").json()["files"][0]["url"]
        assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(seconds)]
    until(lambda: httpx.get(url).status_code == 403)


def test_a_restart_in_the_same_folder_keeps_what_was_there(
    sandbox_factory: Callable[..., Sandbox], folder: Path, tmp_path: Path
) -> None:
    before = sandbox_factory(tmp_path / "state")
    model = before.publish_model("chassis", "v1", folder, part_size=5 << 20)
    narrow = before.create_key(["read"])
    grant = console(before).post("/uploads/presign", json={"filename": "a", "content_type": "b"}).json()
    httpx.put(grant["url"], content=b"1")
    before.register_dataset("wikitext", "v1", [grant["upload_id"]])
    kept = [console(before).get(path).json() for path in ("/models", "/datasets")]
    before.stop()
    after = sandbox_factory(tmp_path / "state")
    assert after.key == before.key
    assert [console(after).get(path).json() for path in ("/models", "/datasets")] == kept
    assert refusal(console(after, narrow).get(f"/models/{model}/download"))[0] == 403
    file = console(after).get(f"/models/{model}/download").json()["files"][0]
    assert httpx.get(file["url"]).headers["etag"].endswith('-1"')
    assert after.uploads()[0].stored == 1


def test_the_console_can_be_away_while_storage_goes_on(sandbox: Sandbox, folder: Path) -> None:
    model = sandbox.publish_model("chassis", "v1", folder)
    client = console(sandbox)
    url = client.get(f"/models/{model}/download").json()["files"][0]["url"]
    sandbox.stop_console()
    with pytest.raises(httpx.ConnectError):
        client.get("/models")
    assert httpx.get(url).status_code == 200
    sandbox.start_console()
    assert client.get("/models").status_code == 200
    assert [(r.method, r.path, r.status) for r in sandbox.console_requests] == [
        ("GET", f"/api/models/{model}/download", 200),
        ("GET", "/api/models", 200),
    ]


def test_the_address_is_free_again_after_stop_and_refused_while_taken(sandbox_factory: Callable[..., Sandbox]) -> None:
    sandbox = sandbox_factory()
    url = urlsplit(sandbox.url)
    listen = (url.hostname, url.port)
    with pytest.raises(OSError, match=f"in use: '{url.netloc}'"):
        sandbox_factory(listen=listen)
    sandbox.stop()
    assert urlsplit(sandbox_factory(listen=listen).url).netloc == url.netloc


def test_steering_over_http(sandbox: Sandbox, folder: Path) -> None:
    steer = httpx.Client(base_url=sandbox.admin_url)
    published = steer.post(
        "/models", json={"name": "n", "version": "v", "folder": str(folder), "status": "training", "id": "m"}
    )
    assert published.json() == {"id": "m"}
    assert refusal(steer.post("/models", json={"name": "n", "version": "v", "folder": str(folder), "id": "m"}))[0] == 409
    assert steer.post("/models/m/status", json={"status": "ready"}).status_code == 200
    assert console(sandbox).get("/models/m/download").status_code == 200
    assert steer.delete("/models/m").status_code == 200
    assert refusal(steer.delete("/models/m"))[0] == 404

    assert steer.post("/settings", json={"url_lifetime": 3, "rate": 1e6}).json() == {"url_lifetime": 3.0, "rate": 1e6}
    assert (sandbox.url_lifetime, sandbox.relay.rate) == (timedelta(seconds=3), 1e6)
    assert steer.post("/settings", json={"rate": None}).json() == {"url_lifetime": 3.0, "rate": None}
    assert steer.get("/settings").json() == {"url_lifetime": 3.0, "rate": None}
    assert refusal(steer.post("/settings", json={"rate": -1}))[0] == 422

    key = steer.post("/keys", json={"scopes": ["read", "datasets"]}).json()["key"]
    grant = console(sandbox, key).post("/uploads/presign", json={"filename": "a", "content_type": "b"}).json()
    httpx.put(grant["url"], content=b"12")
    [upload] = steer.get("/uploads").json()
    assert upload == {"upload_id": grant["upload_id"], "key": grant["key"], "filename": "a", "stored": 2}
    steer.post("/datasets", json={"name": "d", "version": "1", "upload_ids": [upload["upload_id"]]}).raise_for_status()
    assert [d["bytes"] for d in console(sandbox, key).get("/datasets").json()] == [2]
    assert steer.post("/keys/revoke", json={"key": key}).status_code == 200
    assert refusal(console(sandbox, key).get("/models"))[0] == 401
    assert refusal(steer.post("/keys", json={"scopes": ["root"]}))[0] == 422


def test_no_web_page_steers(sandbox: Sandbox) -> None:
    assert refusal(httpx.get(f"{sandbox.admin_url}/uploads", headers={"Origin": "https://example.org"}))[0] == 403


def test_serve_announces_itself_and_stops_everything(tmp_path: Path) -> None:
    announced: dict[str, str] = {}
    ready, stop = threading.Event(), threading.Event()

    def announce(facts: dict[str, str]) -> None:
        announced.update(facts)
        ready.set()

    arguments = (tmp_path, ("127.0.0.1", 0), timedelta(minutes=1), None, announce, stop)
    server = threading.Thread(target=serve, args=arguments)
    server.start()
    assert ready.wait(20)
    assert is_served(announced)
    assert httpx.get(announced["storage"]).status_code == 403
    assert announced["folder"] == str(tmp_path)
    assert working_in(tmp_path)
    stop.set()
    server.join(10)
    assert not is_served(announced)
    assert not working_in(tmp_path)


def is_served(announced: dict[str, str]) -> bool:
    """Whether this console answers: its port may be another program's meanwhile, which does not know the key."""
    try:
        return (
            httpx.get(f"{announced['console']}/models", headers={"Authorization": f"Bearer {announced['key']}"}).text == "[]"
        )
    except httpx.TransportError:
        return False


def working_in(folder: Path) -> list[str]:
    """Command lines of processes that name this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(folder) in line]


def test_a_failed_start_leaves_nothing_behind(tmp_path: Path) -> None:
    class NotStarting(ObjectStore):
        def start(self, timeout: float = 30.0) -> None:
            raise RuntimeError("no")

    sandbox = Sandbox(tmp_path, store=None)
    sandbox.store = NotStarting(tmp_path / "store")
    listen = urlsplit(sandbox.url).netloc
    with pytest.raises(RuntimeError):
        sandbox.start()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{listen}/api/models")
