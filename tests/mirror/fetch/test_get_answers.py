"""Storage answers GETs in every wrong way: only the object's bytes are ever published."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from axomsync.core.records import ModelState
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import eventually
from tests.rig.faults import FOREVER, Content, Fault, FaultyServer, s3_error

SIZE = 5000
FILE = Content(SIZE, seed=3)
OTHER = Content(SIZE, seed=4)
PAGE = (b"<!doctype html><title>Sign in</title>" * 200)[:SIZE]
CHUNKED = {"Content-Length": None, "Transfer-Encoding": "chunked", "Content-Range": None, "ETag": None}


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def page(**headers: str | None) -> dict[str, str | None]:
    return {"Content-Type": "text/html", "ETag": None, "Content-Range": None, **headers}


ANSWERS: dict[str, Fault] = {
    "a page": Fault(200, page(), PAGE),
    "a short page": Fault(200, page(), PAGE[:100]),
    "a long page in chunks": Fault(200, {**CHUNKED, "Content-Type": "text/html"}, chunked(PAGE + PAGE)),
    "a page in chunks, of the right length": Fault(200, {**CHUNKED, "Content-Type": "text/html"}, chunked(PAGE)),
    "more in chunks": Fault(200, CHUNKED, chunked(FILE.read() + b"?")),
    "more in another chunk": Fault(200, CHUNKED, chunked(FILE.read(), b"?")),
    "less in chunks": Fault(200, CHUNKED, chunked(FILE.read()[:-1])),
    "chunks without an end": Fault(200, CHUNKED, chunked(FILE.read())[:-5]),
    "gzip": Fault(206, {"Content-Encoding": "gzip"}, gzip.compress(FILE.read())),
    "gzip of the right length": Fault(206, {"Content-Encoding": "gzip"}, OTHER.read()),
    "deflate": Fault(206, {"Content-Encoding": "deflate"}, OTHER.read()),
    "an error document": Fault(200, {"Content-Range": None}, b"<Error><Code>SlowDown</Code></Error>"),
    "an error document as a part": Fault(206, {"Content-Range": None}, b"<Error><Code>SlowDown</Code></Error>"),
    "nothing": Fault(206, {}, b""),
    "nothing, 200": Fault(200, {"Content-Range": None}, b""),
    "nothing, 204": Fault(204, {"Content-Range": None}, b""),
    "another size": Fault(206, {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE + 1}"}),
    "another place": Fault(206, {"Content-Range": f"bytes 1-{SIZE - 1}/{SIZE}"}),
    "too much": Fault(206, {"Content-Range": f"bytes 0-{SIZE}/{SIZE}"}),
    "another unit": Fault(206, {"Content-Range": f"items 0-{SIZE - 1}/{SIZE}"}),
    "digits without end": Fault(206, {"Content-Range": f"bytes 0-{SIZE - 1}/{'9' * 5000}"}),
    "no place": Fault(206, {"Content-Range": None}),
    "a longer body than said": Fault(206, {"Content-Length": str(SIZE + 4)}, FILE.read() + b"more"),
    "a shorter body than said": Fault(cut=100),
    "two lengths": Fault(206, {"Content-Length": f"{SIZE}, {SIZE + 1}"}),
    "a length of letters": Fault(206, {"Content-Length": "many"}),
    "a negative length": Fault(206, {"Content-Length": "-5"}),
    "cut at once": Fault(cut=0),
    "cut in the middle": Fault(cut=SIZE // 2),
    "reset at once": Fault(cut=0, ending="reset"),
    "reset in the middle": Fault(cut=SIZE // 2, ending="reset"),
    "stalls at once": Fault(cut=0, ending="stall"),
    "stalls at the last byte": Fault(cut=SIZE - 1, ending="stall"),
    **{f"status {status}": Fault(status, {}, b"") for status in (
        201, 202, 203, 205, 207, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408,
        409, 410, 411, 413, 414, 415, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503,
        504, 505, 507, 508, 511, 520, 529, 599,
    )},
    "archived": s3_error(403, "InvalidObjectState", "no"),
    "clock": s3_error(403, "RequestTimeTooSkewed", "no"),
    "no such key": s3_error(404, "NoSuchKey", "no"),
    "changed": s3_error(412, "PreconditionFailed", "no"),
    "too short": s3_error(416, "InvalidRange", "no"),
}  # fmt: skip


def test_answers_are_enough() -> None:
    assert len(ANSWERS) >= 80


def test_answers_that_are_not_the_object_are_never_published(server: FaultyServer, mirror: MirrorHere) -> None:
    mirror.stall, mirror.patience, mirror.jitter = 1.0, 0.3, 0.05
    models = {name: server.add_model(f"m{number}", "v1", {"a.bin": FILE}) for number, name in enumerate(ANSWERS)}
    for name, fault in ANSWERS.items():
        server.inject(fault, f"/bucket/{models[name]}/", times=FOREVER)
    mirror.sync()
    asked: dict[str, int] = {}
    for name, model_id in models.items():
        model = mirror.model(model_id)
        if model.state is ModelState.PUBLISHED:
            assert FILE.fault_in(Path(model.path or "") / "a.bin") is None, name
            continue
        assert not (mirror.folder / model.name).exists(), name
        assert model.reason, name
        assert model.reason.startswith("a.bin: "), (name, model.reason)
        assert "please report it" not in model.reason, name
        asked[name] = len(server.storage_requests(f"{model_id}/0"))
    most = {"a shorter body than said": 160}  # brings a little each time
    unlimited = {name: count for name, count in asked.items() if count > most.get(name, 16)}
    assert unlimited == {}, "what is tried again has pauses"
    server.heal()
    mirror.later = 2 * 3600.0
    mirror.sync()
    assert {mirror.model(model_id).state for model_id in models.values()} == {ModelState.PUBLISHED}


MIB = 1 << 20
OLD = {"big.bin": Content(6 * MIB, 11), "a.json": Content(900, 12), "b.json": Content(800, 13), "empty": Content(0)}
NEW = {"big.bin": Content(6 * MIB, 21), "a.json": Content(900, 22), "b.json": Content(800, 23), "empty": Content(0)}


def replace_all(server: FaultyServer, model_id: str) -> None:
    for rel, content in NEW.items():
        server.replace(server.key_of(model_id, rel), content)


def fault_of(mirror: MirrorHere, model_id: str, files: dict[str, Content]) -> list[str]:
    model = mirror.model(model_id)
    assert (model.state, model.reason) == (ModelState.PUBLISHED, None)
    return [fault for rel, content in files.items() if (fault := content.fault_in(Path(model.path or "") / rel))]


def half_mirrored(server: FaultyServer, mirror: MirrorHere) -> str:
    """A model of which one process has fetched the small files and a part of the large one; a later process resumes."""
    model_id = server.add_model("m", "v1", OLD)
    server.longest_answer = MIB
    mirror.patience = 0.2
    no = Fault(503, first=mirror.once_whole({"a.json": OLD["a.json"], "b.json": OLD["b.json"]}))
    server.inject(no, server.key_of(model_id, "big.bin"), skip=2, times=FOREVER)
    mirror.sync()
    assert mirror.model(model_id).bytes_done > 1700, "the small ones are complete"
    server.heal()
    return model_id


def test_objects_replaced_between_two_processes_are_not_mixed(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = half_mirrored(server, mirror)
    replace_all(server, model_id)
    mirror.later = 600.0
    mirror.sync()
    assert fault_of(mirror, model_id, NEW) == []


def test_failure_of_a_repeated_request_names_the_file(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = half_mirrored(server, mirror)
    server.inject(s3_error(404, "NoSuchKey", "no"), server.key_of(model_id, "a.json"), times=FOREVER)
    mirror.later = 600.0
    mirror.sync()
    assert (mirror.model(model_id).reason or "").startswith("a.json: storage 127.0.0.1")


@pytest.mark.parametrize("at", ["big.bin", "b.json"])
@pytest.mark.parametrize("dates", [True, False])
def test_objects_replaced_during_the_download_are_not_mixed(
    server: FaultyServer, mirror: MirrorHere, at: str, dates: bool
) -> None:
    model_id = server.add_model("m", "v1", OLD)
    server.longest_answer = MIB
    mirror.lanes = 1
    skip = 2 if at == "big.bin" else 0
    headers = {} if dates else {"Last-Modified": None, "Date": None}
    server.inject(
        Fault(headers=headers, first=lambda: replace_all(server, model_id)), server.key_of(model_id, at), skip=skip
    )
    if not dates:
        server.inject(Fault(headers=headers), times=FOREVER)
    mirror.sync()
    assert fault_of(mirror, model_id, NEW) == []


@pytest.mark.parametrize("answer", [Fault(), Fault(416, {"Content-Range": "bytes */7"}, b"")])
def test_empty_file_of_the_manifest_is_requested(server: FaultyServer, mirror: MirrorHere, answer: Fault) -> None:
    model_id = server.add_model("m", "v1", {"a.bin": FILE, "config.json": Content(0)})
    server.replace(server.key_of(model_id, "config.json"), Content(7, 1))
    server.inject(answer, server.key_of(model_id, "config.json"), times=FOREVER)
    mirror.sync()
    model = mirror.model(model_id)
    assert model.state is ModelState.QUEUED
    assert model.reason == "config.json: storage has 7 bytes where the manifest says 0"
    assert len(server.storage_requests(server.key_of(model_id, "config.json"))) <= 4


def test_repeated_tries_are_logged_once(server: FaultyServer, mirror: MirrorHere, caplog: pytest.LogCaptureFixture) -> None:
    model_id = server.add_model("m", "v1", {"a.bin": FILE, "config.json": Content(0)})
    server.replace(server.key_of(model_id, "config.json"), Content(7, 1))
    with mirror.running() as loop:

        def tried_thrice() -> bool:
            loop.wake()
            return len(server.storage_requests(server.key_of(model_id, "config.json"))) > 9

        eventually("three tries", tried_thrice)
    told = [record.getMessage() for record in caplog.records if "where the manifest says 0" in record.getMessage()]
    assert len(told) == len(set(told)), told


@pytest.mark.parametrize("etag", [True, False])
def test_bytes_changed_on_disk_between_two_processes_are_fetched_again(
    server: FaultyServer, mirror: MirrorHere, etag: bool
) -> None:
    files = {"big.bin": Content(6 * MIB, 11), "a.json": Content(900, 12)}
    model_id = server.add_model("m", "v1", files, etag=etag)
    server.longest_answer = MIB
    mirror.patience = 0.2
    big = server.key_of(model_id, "big.bin")
    no = Fault(503, first=mirror.once_whole({"big.bin": files["big.bin"]}))
    server.inject(no, server.key_of(model_id, "a.json"), times=FOREVER)
    mirror.sync()
    (partial,) = (mirror.folder / ".axomsync" / "here").rglob("big.bin")
    with partial.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(bytes(4096))
    server.heal()
    server.requests.clear()
    mirror.later = 600.0
    mirror.sync()
    assert fault_of(mirror, model_id, files) == []
    fetched = sum(request.sent for request in server.storage_requests(big))
    assert 0 < fetched < 6 * MIB, "only the damaged segments"


@pytest.mark.parametrize("times", [1, FOREVER])
def test_part_size_of_a_sibling_finds_a_damaged_file(server: FaultyServer, mirror: MirrorHere, times: int) -> None:
    files = {"a.bin": Content(9 * MIB, 1), "b.bin": Content(9 * MIB, 2)}
    model_id = server.add_model("m", "v1", files, part_size=5 * MIB)
    key = server.key_of(model_id, "b.bin")
    server.inject(Fault(body=Content(9 * MIB, 3)), key, times=times)
    mirror.lanes = 1  # no range is requested: the answer is the whole of another object
    mirror.sync()
    if times == 1:
        assert fault_of(mirror, model_id, files) == []
        assert len([request for request in server.storage_requests(key) if request.sent > 1]) >= 2
        return
    model = mirror.model(model_id)
    assert model.state is ModelState.BLOCKED, "that it comes alike each time proves nothing here"
    assert "b.bin: in parts of 5242880 bytes, as others came to storage, its ETag would be" in (model.reason or "")


@pytest.mark.parametrize("servers", [2, 3, 5])
def test_etags_that_differ_by_server_are_reported(server: FaultyServer, mirror: MirrorHere, servers: int) -> None:
    """The servers answer in turn, each with its own ETag."""
    model_id = server.add_model("m", "v1", {"a.bin": Content(6 * MIB, 1)})
    server.longest_answer = MIB // 2
    key = server.key_of(model_id, "a.bin")
    mirror.lanes = 1
    for number in range(400):
        etag = f'"edge-{number % servers}"'
        server.inject(Fault(headers={"ETag": etag}, ignores_if_match=True), key)
    mirror.sync()
    model = mirror.model(model_id)
    if servers == 2:
        assert model.state is ModelState.BLOCKED
        assert "different ETags for one object" in (model.reason or "")
        assert "publish" not in (model.reason or ""), "the model is not to blame"
    assert 'verify = "size"' in (model.reason or "")
    mirror.settings["verify"] = "size"
    mirror.later = 2 * 3600.0
    mirror.sync()
    assert fault_of(mirror, model_id, {"a.bin": Content(6 * MIB, 1)}) == []


@pytest.mark.parametrize("verify", ["etag", "size"])
def test_size_that_contradicts_the_manifest_ends_the_tries(server: FaultyServer, mirror: MirrorHere, verify: str) -> None:
    model_id = server.add_model("m", "v1", {"a.bin": Content(1000, 1)})
    server.replace(server.key_of(model_id, "a.bin"), Content(10, 1))
    mirror.settings["verify"] = verify
    mirror.sync()
    reason = mirror.model(model_id).reason or ""
    assert reason.startswith("a.bin: storage has 10 bytes where the manifest says 1000; ")
    assert reason.endswith("publish the model again in the console")
    assert len(server.storage_requests()) <= 8


@pytest.mark.parametrize("etag", [True, False])
def test_broken_model_is_requested_at_each_try(server: FaultyServer, mirror: MirrorHere, etag: bool) -> None:
    """It also works when storage gives nothing that shows a replaced object."""
    broken, mended = Content(400, head=b"GGML" + bytes(396)), Content(400, head=b"GGUF" + bytes(396))
    model_id = server.add_model("m", "v1", {"a.gguf": broken}, etag=etag)
    mirror.sync()
    assert mirror.model(model_id).state is ModelState.BLOCKED
    server.replace(server.key_of(model_id, "a.gguf"), mended)
    if not etag:
        server.inject(Fault(headers={"ETag": None}), "/bucket/", times=FOREVER)
    mirror.later = 2 * 3600.0
    mirror.sync()
    assert fault_of(mirror, model_id, {"a.gguf": mended}) == []


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_refusal_of_a_used_url_is_worth_a_fresh_one(server: FaultyServer, mirror: MirrorHere, status: int) -> None:
    model_id = server.add_model("m", "v1", {"a.bin": Content(6 * MIB, 1)})
    server.longest_answer = MIB
    server.inject(Fault(status, {}, b""), server.key_of(model_id, "a.bin"), skip=3)
    mirror.lanes = 1
    mirror.sync()
    assert fault_of(mirror, model_id, {"a.bin": Content(6 * MIB, 1)}) == []
    assert len(server.console_requests("/download")) == 2


@pytest.mark.parametrize(
    ("told", "proof"),
    [
        (lambda c: {"sha256": c.digest("sha256").hex()}, "manifest checksum"),
        (lambda c: {"sha256": c.digest("sha256").hex().upper()}, "manifest checksum"),
        (lambda c: {"checksum": f"sha256:{c.digest('sha256').hex()}"}, "manifest checksum"),
        (lambda c: {"md5": c.digest("md5").hex()}, "manifest checksum"),
        (lambda c: {"etag": f'"{c.digest("md5").hex()}"'}, "manifest checksum"),
        (lambda c: {"blake3": c.digest("blake3").hex()}, "manifest checksum"),
        (lambda c: {"sha256": "not told", "checksum": "crc32:17", "etag": '"x-3"', "md5": 5}, "size only"),
        (lambda c: {"sha256": None, "checksum": {"sha256": "a"}}, "size only"),
    ],
)
def test_manifest_checksums_are_checked_and_named(
    server: FaultyServer, mirror: MirrorHere, told: Callable[[Content], dict[str, object]], proof: str
) -> None:
    model_id = server.add_model("m", "v1", {"a.bin": FILE}, etag=False)
    server.manifests[model_id][0].update(told(FILE))
    mirror.sync()
    assert fault_of(mirror, model_id, {"a.bin": FILE}) == []
    assert mirror.proofs(model_id) == {"a.bin": proof}


def test_manifest_checksum_that_differs_blocks_the_model(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = server.add_model("m", "v1", {"a.bin": FILE})
    server.manifests[model_id][0]["sha256"] = OTHER.digest("sha256").hex()
    mirror.sync()
    model = mirror.model(model_id)
    assert model.state is ModelState.BLOCKED
    assert "a.bin: its sha256 is" in (model.reason or "")
