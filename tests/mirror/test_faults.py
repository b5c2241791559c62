"""Every known fault of console and storage, one at a time, on the wire."""

import dataclasses
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from axomsync.core.errors import Rejected, Transient
from axomsync.core.records import ModelState
from axomsync.mirror.loop import Mirror
from axomsync.runtime.heartbeat import Liveness
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import eventually
from tests.rig.clocks import HandClock
from tests.rig.faults import EXPIRED, FOREVER, Content, Fault, FaultyServer, http_date, json_answer, s3_error

MIB = 1 << 20
PART = 2 * MIB  # the longest answer
BIG = Content(5 * PART - 12_345, seed=1)
SMALL = Content(1234, seed=2)
FILES = {"weights/big.bin": BIG, "config.json": SMALL, "empty": Content(0)}
REQUESTS = 6  # least time for FILES


@pytest.fixture
def model_id(server: FaultyServer) -> str:
    server.longest_answer = PART
    return server.add_model("chassis", "v1", FILES)


def published(mirror: MirrorHere, model_id: str, files: dict[str, Content] = FILES) -> Path:
    """Check that a model is published: whole, only its files, and known to the ledger."""
    model = mirror.model(model_id)
    assert (model.state, model.reason) == (ModelState.PUBLISHED, None)
    assert model.path is not None
    folder = Path(model.path)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    assert found == set(files) | {".axomsync.json"}
    assert [fault for rel, content in files.items() if (fault := content.fault_in(folder / rel))] == []
    assert model.bytes_done == model.bytes_total == sum(content.size for content in files.values())
    return folder


def proofs(folder: Path) -> dict[str, str]:
    return {file["rel"]: file["proof"] for file in json.loads((folder / ".axomsync.json").read_bytes())["files"]}


def set_back(mirror: MirrorHere, model_id: str, state: ModelState, reason: str) -> None:
    """Check that a model is not published, with the reason for a person."""
    model = mirror.model(model_id)
    assert model.state == state
    assert reason in (model.reason or "")
    assert model.next_attempt is not None
    assert [path.name for path in mirror.folder.iterdir() if path.name != ".axomsync"] == []


def moved(fault: Fault, **headers: str | None) -> Fault:
    return dataclasses.replace(fault, headers={**fault.headers, **headers})


PASSING = {
    "expired": EXPIRED,
    "expired token": s3_error(403, "ExpiredToken", "The provided token has expired."),
    "forbidden without words": Fault(403, body=b""),
    "internal error": s3_error(500, "InternalError", "We encountered an internal error. Please try again."),
    "bad gateway in HTML": Fault(502, {"Content-Type": "text/html"}, b"<html><body>Bad Gateway</body></html>"),
    "slow down": s3_error(503, "SlowDown", "Please reduce your request rate."),
    "slow down, in seconds": s3_error(503, "SlowDown", "Please reduce your request rate.", Retry_After="1"),
    "slow down, until a date": s3_error(503, "SlowDown", "Please reduce your request rate.", Retry_After=http_date(-5)),
    "a Retry-After that is none": s3_error(503, "SlowDown", "Please reduce your request rate.", Retry_After="²"),
    "too many requests": Fault(429, {"Retry-After": "0"}, b""),
    "request timeout": s3_error(400, "RequestTimeout", "Your socket connection was not read from in time."),
    "reset at once": Fault(cut=0, ending="reset"),
    "reset on the way": Fault(cut=777_777, ending="reset"),
    "the end on the way": Fault(cut=777_777),
    "the end one byte early": Fault(cut=PART - 1),
    "stall at once": Fault(cut=0, ending="stall"),
    "stall on the way": Fault(cut=777_777, ending="stall"),
    "the whole object": Fault(ignores_range=True),
    "no Content-Range": Fault(headers={"Content-Range": None}),
    "a Content-Range that is none": Fault(headers={"Content-Range": "bytes */*"}),
    "another range": Fault(headers={"Content-Range": f"bytes 7-{PART - 1}/{BIG.size}"}),
    "more than was asked": Fault(headers={"Content-Range": f"bytes 0-{BIG.size + 5}/{BIG.size}"}),
    "a total that is not told": Fault(headers={"Content-Range": None}, ignores_range=True),
    "no content": Fault(204, body=b""),
    "no ETag this time": Fault(headers={"ETag": None}),
    "cookies": Fault(headers={"Set-Cookie": "AWSALB=abc; Path=/"}),
}


@pytest.mark.parametrize("when", [0, 3], ids=["first", "fourth"])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_passing_fault_costs_only_its_own_bytes(
    server: FaultyServer, mirror: MirrorHere, model_id: str, fault: Fault, when: int
) -> None:
    if fault.ending == "stall":  # with all others a busy machine's pause is none of theirs
        mirror.stall = 0.3
    server.inject(fault, server.key_of(model_id, "weights/big.bin"), skip=when)
    mirror.sync()
    folder = published(mirror, model_id)
    assert proofs(folder) == {"weights/big.bin": "proven", "config.json": "proven", "empty": "size only"}
    assert len(server.storage_requests()) <= REQUESTS + 6
    assert server.sent() <= BIG.size + SMALL.size + BIG.size + 2 * PART  # a store that sends all when a part was asked


def test_revoked_urls_are_renewed_by_one_lane_for_all(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.longest_answer = MIB
    server.inject(Fault(first=server.revoke_urls), skip=5, times=1)
    mirror.sync()
    published(mirror, model_id)
    refused = [r for r in server.storage_requests() if r.status == 403]
    assert 1 <= len(refused) <= mirror.lanes
    assert len(server.console_requests("/download")) == 2
    assert server.sent() == BIG.size + SMALL.size


def test_store_that_always_sends_the_whole_object(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(Fault(ignores_range=True), times=FOREVER)
    mirror.sync()
    published(mirror, model_id)
    assert len(server.storage_requests()) <= 4 * mirror.lanes


def test_a_whole_object_that_breaks_off_is_fetched_from_its_beginning(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    server.inject(Fault(ignores_range=True, cut=PART + 5), server.key_of(model_id, "weights/big.bin"), times=2)
    server.inject(Fault(ignores_range=True), times=FOREVER)
    mirror.sync()
    published(mirror, model_id)


def test_a_store_without_etags(server: FaultyServer, mirror: MirrorHere) -> None:
    server.longest_answer = PART
    model_id = server.add_model("chassis", "v1", FILES, etag=False)
    mirror.sync()
    assert set(proofs(published(mirror, model_id)).values()) == {"size only"}


def test_a_store_with_weak_etags(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    for stored in server.objects.values():
        stored.etag = f"W/{stored.etag}"
    server.inject(Fault(412), where=lambda r: "if-match" in r.headers, times=FOREVER)  # it never holds for these
    mirror.sync()
    published(mirror, model_id)
    assert len(server.storage_requests()) < 2 * REQUESTS


def test_swapped_shards_of_equal_size_are_reported(server: FaultyServer, mirror: MirrorHere) -> None:
    """Each object matches storage's checksum; only the names are swapped."""

    def shard(tensor: str) -> Content:
        header = json.dumps({tensor: {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}}).encode()
        head = struct.pack("<Q", len(header)) + header
        return Content(len(head) + 1000, ord(tensor), head)

    text = json.dumps({"weight_map": {"x": "1.safetensors", "y": "2.safetensors"}}).encode()
    files = {
        "1.safetensors": shard("y"),
        "2.safetensors": shard("x"),
        "m.safetensors.index.json": Content(len(text), 0, text),
    }
    model_id = server.add_model("chassis", "v1", files)
    mirror.sync()
    model = mirror.model(model_id)
    assert model.state == ModelState.PUBLISHED
    assert any("expects 'x' in '1.safetensors', which does not hold it" in remark for remark in model.remarks)


def test_a_complete_partial_is_compared_with_storage_after_a_restart(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    """All bytes were durable at the power loss; one of them has changed after it."""
    no = Fault(status=500, first=mirror.once_whole({"weights/big.bin": FILES["weights/big.bin"]}))
    server.inject(no, server.key_of(model_id, "config.json"), times=FOREVER)
    mirror.patience = 0.5
    mirror.sync()
    partial = mirror.folder / ".axomsync" / "here" / model_id / "weights" / "big.bin"
    assert FILES["weights/big.bin"].fault_in(partial) is None
    with partial.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"?")
    server.heal()
    sent = server.sent()
    mirror.sync()
    assert proofs(published(mirror, model_id))["weights/big.bin"] == "proven"
    assert 0 < server.sent() - sent < FILES["weights/big.bin"].size, "only what was damaged is fetched again"


def test_multipart_etags_prove_the_bytes(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = server.add_model("chassis", "v1", FILES, part_size=5 * MIB)
    mirror.sync()
    assert proofs(published(mirror, model_id)) == {
        "weights/big.bin": "proven",
        "config.json": "proven",
        "empty": "size only",
    }


def test_an_etag_that_is_no_checksum_is_not_taken_for_one(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    for stored in server.objects.values():
        stored.etag = f'"{"0" * 32}"'
        stored.headers["x-amz-server-side-encryption"] = "aws:kms"
    mirror.sync()
    assert set(proofs(published(mirror, model_id)).values()) == {"size only"}
    assert len(server.storage_requests()) < 2 * REQUESTS


# An object that changes


@pytest.mark.parametrize("tells", [True, False], ids=["412", "ignores If-Match"])
def test_changed_file_alone_starts_over(server: FaultyServer, mirror: MirrorHere, model_id: str, tells: bool) -> None:
    fresh, key = Content(BIG.size, seed=99), server.key_of(model_id, "weights/big.bin")
    server.inject(Fault(first=lambda: server.replace(key, fresh)), key, skip=3)
    server.inject(Fault(ignores_if_match=not tells), times=FOREVER)
    mirror.sync()
    published(mirror, model_id, {**FILES, "weights/big.bin": fresh})
    fetched, *asked = server.storage_requests(server.key_of(model_id, "config.json"))
    assert (fetched.sent, [request.sent for request in asked]) == (SMALL.size, [1])
    assert len(server.storage_requests(key)) <= 2 * REQUESTS + mirror.lanes


def test_object_that_always_changes_is_tried_later(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    key, seeds = server.key_of(model_id, "weights/big.bin"), iter(range(10_000))
    server.inject(Fault(first=lambda: server.replace(key, Content(BIG.size, next(seeds)))), key, times=FOREVER)
    mirror.sync()
    set_back(mirror, model_id, ModelState.QUEUED, "the object changed while it was fetched")
    assert len(server.storage_requests(key)) < 50


def test_an_object_of_another_size_than_the_manifest_says(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.replace(server.key_of(model_id, "weights/big.bin"), Content(BIG.size + 1, seed=5))
    mirror.sync()
    set_back(mirror, model_id, ModelState.QUEUED, f"storage has {BIG.size + 1} bytes where the manifest says {BIG.size}")
    assert len(server.storage_requests()) < 50


def test_manifest_that_changes_during_the_download(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    fresh, key = Content(BIG.size + 5, seed=7), server.key_of(model_id, "weights/big.bin")

    def change() -> None:
        server.replace(key, fresh)
        next(entry for entry in server.manifests[model_id] if entry["key"] == key)["size"] = fresh.size

    server.inject(Fault(first=change), key, skip=3)
    mirror.sync()
    set_back(mirror, model_id, ModelState.QUEUED, "changed while they were fetched")
    mirror.sync()
    published(mirror, model_id, {**FILES, "weights/big.bin": fresh})
    fetched, asked = server.storage_requests(server.key_of(model_id, "config.json"))
    assert (fetched.sent, asked.sent) == (SMALL.size, 1)


# Bytes that storage's checksum disproves


def test_bytes_that_do_not_match_their_md5_are_fetched_again(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    key = server.key_of(model_id, "weights/big.bin")
    server.inject(Fault(body=Content(PART, seed=66)), key, skip=1)
    mirror.sync()
    published(mirror, model_id)
    assert len(server.storage_requests(server.key_of(model_id, "config.json"))) == 1
    assert server.sent() < 3 * BIG.size


def test_an_etag_of_one_part_disproves_the_bytes_as_an_md5_does(server: FaultyServer, mirror: MirrorHere) -> None:
    model_id = server.add_model("parts", "v1", {"config.json": SMALL}, part_size=8 << 20)
    assert str(server.objects[server.key_of(model_id, "config.json")].etag).endswith('-1"')
    server.inject(Fault(body=Content(SMALL.size, seed=66)), server.key_of(model_id, "config.json"))
    mirror.sync()
    assert proofs(published(mirror, model_id, {"config.json": SMALL})) == {"config.json": "proven"}


def test_bytes_that_never_match_block_the_model(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    """Each time other bytes arrive, so the ETag may be right."""
    key = server.key_of(model_id, "config.json")
    for seed in range(3):
        server.inject(Fault(body=Content(SMALL.size, seed=70 + seed)), key)
    mirror.sync()
    set_back(mirror, model_id, ModelState.BLOCKED, "config.json: its MD5 is")
    set_back(mirror, model_id, ModelState.BLOCKED, "3 times in a row")
    assert len(server.storage_requests(key)) == 3


def test_an_etag_that_is_wrong_twice_alike_is_no_md5(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    key = server.key_of(model_id, "weights/big.bin")
    server.objects[key].etag = f'"{"0" * 32}"'
    mirror.sync()
    [remark] = mirror.model(model_id).remarks
    assert remark.startswith("weights/big.bin: its MD5 is ")
    assert remark.endswith("; it came twice alike, so the ETag is taken for no MD5")
    assert proofs(mirror.folder / "chassis" / "v1")["weights/big.bin"] == "size only"
    assert BIG.fault_in(mirror.folder / "chassis" / "v1" / "weights/big.bin") is None
    assert 2 * BIG.size <= server.sent() < 3 * BIG.size
    server.requests.clear()
    second = server.add_model("chassis", "v2", {"other.bin": Content(BIG.size + 1, seed=12)})
    server.objects[server.key_of(second, "other.bin")].etag = f'"{"1" * 32}"'
    mirror.sync()
    published(mirror, second, {"other.bin": Content(BIG.size + 1, seed=12)})
    beginnings = [r for r in server.storage_requests(server.key_of(second, "other.bin")) if r.start == 0]
    assert len(beginnings) == 1, "of a host whose large objects have other ETags they are not tried again"


def test_an_etag_that_is_wrong_twice_is_damage_where_larger_objects_have_md5s(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    server.objects[server.key_of(model_id, "config.json")].etag = f'"{"0" * 32}"'
    mirror.sync()
    set_back(mirror, model_id, ModelState.BLOCKED, "config.json: its MD5 is")


def test_many_files_that_are_wrong_once_do_not_block_the_model(server: FaultyServer, mirror: MirrorHere) -> None:
    files = {f"{number}.bin": Content(1000, number) for number in range(5)}
    model_id = server.add_model("chassis", "v1", files)
    for rel in files:
        server.inject(Fault(body=bytes(1000)), server.key_of(model_id, rel))
    mirror.sync()
    published(mirror, model_id, files)
    assert len(server.storage_requests()) == 10


def test_checksums_can_be_switched_off(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    mirror.settings["verify"] = "size"
    server.objects[server.key_of(model_id, "weights/big.bin")].etag = f'"{"0" * 32}"'
    mirror.sync()
    assert set(proofs(published(mirror, model_id)).values()) == {"size only"}


# Final answers


REFUSALS = {
    "redirect": (Fault(307, {"Location": "http://127.0.0.1:1/elsewhere"}, b""), "it redirects"),
    "no such key": (s3_error(404, "NoSuchKey", "The specified key does not exist."), "NoSuchKey"),
    "not implemented": (s3_error(400, "InvalidArgument", "Unsupported"), "answered 400 (InvalidArgument: Unsupported)"),
}


@pytest.mark.parametrize(("fault", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_final_refusal_blocks_the_model_with_its_words(
    server: FaultyServer, mirror: MirrorHere, model_id: str, fault: Fault, reason: str
) -> None:
    server.inject(fault, server.key_of(model_id, "weights/big.bin"), times=FOREVER)
    mirror.sync()
    set_back(mirror, model_id, ModelState.BLOCKED, reason)
    assert "Signature" not in str(mirror.model(model_id).reason)
    assert len(server.storage_requests()) <= mirror.lanes + 2


BAD_URLS = {
    "no address": "not a url",
    "a file": "file:///etc/passwd",
    "another scheme": "ftp://127.0.0.1/x",
    "no host": "http:///x",
    "broken": "http://[::1/x",
    "a port that is none": "http://127.0.0.1:99999/x",
    "a password": "http://user:secret@127.0.0.1:9/x",
    "plain http to far away": "http://storage.example/x",
}


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS.keys())
def test_url_that_is_not_signed_blocks_the_model(server: FaultyServer, mirror: MirrorHere, model_id: str, url: str) -> None:
    entry = {"rel": "a", "size": 5, "url": url}
    server.inject(json_answer({"model_id": model_id, "files": [entry]}), "/download", times=FOREVER)
    mirror.sync()
    set_back(mirror, model_id, ModelState.BLOCKED, "plain http" if "example" in url else "not a signed URL of storage")
    assert "secret" not in str(mirror.model(model_id).reason)


def test_a_storage_that_refuses_every_url_is_not_hammered(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(EXPIRED, times=FOREVER)
    mirror.sync()
    set_back(mirror, model_id, ModelState.QUEUED, "AccessDenied: Request has expired")
    assert len(server.storage_requests()) <= 2 * (5 + mirror.lanes)
    assert len(server.console_requests("/download")) <= 2 * (5 + mirror.lanes)


# The console


ODD_ANSWERS = {
    "HTML": Fault(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><html><title>Sign in</title></html>"),
    "empty": Fault(200, body=b""),
    "huge": Fault(200, body=Content(65 * MIB, head=b"[" + b" " * MIB)),
    "cut": Fault(200, cut=10),
    "reset": Fault(cut=0, ending="reset"),
    "bad gateway": Fault(502, body=b"<html>Bad Gateway</html>"),
}


@pytest.mark.parametrize("fault", ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
@pytest.mark.parametrize("path", ["/models", "/download"])
def test_an_odd_answer_of_the_console_is_asked_again(
    server: FaultyServer, mirror: MirrorHere, model_id: str, fault: Fault, path: str
) -> None:
    server.inject(fault, path)
    mirror.sync()
    published(mirror, model_id)
    assert len(server.console_requests()) == 3


def test_a_manifest_without_its_documented_form_blocks_the_model(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    server.inject(json_answer({"model_id": model_id, "files": [{"rel": "a"}]}), "/download")
    mirror.sync()
    set_back(mirror, model_id, ModelState.BLOCKED, "the download manifest lacks its documented form: files.0.size")


@pytest.mark.parametrize("answer", [{"models": 3}, 3, {"a": [], "b": []}])
def test_a_catalog_that_is_no_list_removes_nothing(
    server: FaultyServer, mirror: MirrorHere, model_id: str, answer: object
) -> None:
    mirror.sync()
    server.inject(json_answer(answer), "/models", times=FOREVER)
    with pytest.raises(Transient, match="no list"):
        mirror.sync()
    published(mirror, model_id)


@pytest.mark.parametrize("fault", ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
def test_a_console_that_only_gives_odd_answers_is_worth_a_retry(
    server: FaultyServer, mirror: MirrorHere, model_id: str, fault: Fault
) -> None:
    server.inject(fault, "/models", times=FOREVER)
    with pytest.raises(Transient):
        mirror.sync()
    assert len(server.requests) <= 3


def test_a_console_that_asks_for_a_long_pause_gets_it(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(Fault(503, {"Retry-After": "600"}, b""), "/models", times=FOREVER)
    began = time.monotonic()
    with pytest.raises(Transient) as failure:
        mirror.sync()
    assert failure.value.retry_after == 600
    assert len(server.requests) == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("path", "worker", "answers"),
    [
        ("/models", "mirror", [Fault(503), json_answer([], Link="<?page=2>; rel=next"), json_answer([])]),
        ("/download", "model", [Fault(503), Fault(503), Fault()]),
    ],
)
def test_a_console_that_is_slow_several_times_in_a_row_is_not_called_a_hang(
    server: FaultyServer,
    mirror: MirrorHere,
    model_id: str,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    worker: str,
    answers: list[Fault],
) -> None:
    clock = HandClock()
    liveness = Liveness(60.0, clock)
    monkeypatch.setattr("tests.rig.contexts.Liveness", lambda *_: liveness)
    hanging: list[bool] = []

    def slow() -> None:
        clock.now += 50
        hanging.append(worker in liveness.hanging())

    for answer in answers:
        server.inject(dataclasses.replace(answer, first=slow), path)
    with mirror.running():
        eventually("three answers", lambda: len(hanging) == 3)
    assert hanging == [False] * 3


def test_a_pull_that_waits_for_another_poll_is_not_called_a_hang(
    mirror: MirrorHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class HeldTwice:
        def acquire(self, *_: object, **__: object) -> bool:
            seen.append("waits")
            return len(seen) > 4

        def release(self) -> None:
            seen.append("done")

    with mirror.context() as context:
        here = Mirror(context)
        monkeypatch.setattr(here, "_poll_lock", HeldTwice())
        with pytest.raises(Rejected):
            here.pull("nothing", lambda: seen.append("beat"))
    assert (seen[:5], seen[-1]) == (["waits", "beat", "waits", "beat", "waits"], "done")


def test_a_console_that_redirects_is_not_followed(server: FaultyServer, mirror: MirrorHere) -> None:
    server.inject(Fault(302, {"Location": f"{server.endpoint}/bucket/steal"}, b""), "/models", times=FOREVER)
    with pytest.raises(Rejected, match=r"redirects elsewhere \(302\)"):
        mirror.sync()
    assert [r.path for r in server.requests] == ["/api/models"]


@pytest.mark.parametrize("wrap", [lambda models: {"data": models}, lambda models: {"total": 1, "models": models}])
def test_a_list_in_an_object(server: FaultyServer, mirror: MirrorHere, model_id: str, wrap: object) -> None:
    assert callable(wrap)
    server.inject(json_answer(wrap(server.models)), "/models")
    mirror.sync()
    published(mirror, model_id)


def test_a_list_in_pages_goes_on_where_the_link_leads(server: FaultyServer, mirror: MirrorHere) -> None:
    ids = [server.add_model("chassis", f"v{number}", {"a": Content(10, number)}) for number in range(3)]
    first, *others = server.models
    server.inject(json_answer([first], Link='</api/models?page=2>; rel="next"'), "/models")
    server.inject(json_answer(others), "/models", where=lambda request: request.query == {"page": "2"})
    mirror.sync()
    assert [mirror.model(model_id).state for model_id in ids] == [ModelState.PUBLISHED] * 3
    assert (mirror.folder / "chassis" / "current").readlink() == Path("v2")


def test_pages_that_go_round_in_circles_end(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(
        json_answer(server.models, Link=f'<{server.url}/models>; rel="next"'),
        where=lambda r: r.path == "/api/models",
        path="",
        times=FOREVER,
    )
    mirror.sync()
    published(mirror, model_id)
    assert len(server.console_requests()) == 2


def test_pages_that_lead_to_another_host_get_no_key(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    with FaultyServer() as other:
        server.inject(json_answer(server.models, Link=f'<{other.url}/models>; rel="next"'), "/models")
        with pytest.raises(Rejected, match="another host"):
            mirror.sync()
        assert other.requests == []


def test_unknown_fields_statuses_and_entries_do_no_harm(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    odd = server.add_model("chassis", "v2", {"a": SMALL}, status="quantum-annealing")
    server.models[0]["new"] = {"deep": [1, 2]}
    no_objects: list[Any] = [None, 7]
    server.models += [{"id": 5}, {"name": "no id"}, *no_objects, {**server.models[0], "id": ""}, server.models[1]]
    mirror.sync()
    published(mirror, model_id)
    assert mirror.model(odd).state == ModelState.WAITING
    assert mirror.model(odd).reason == "the console says 'quantum-annealing'"


def test_an_id_that_is_listed_twice_counts_once(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.models.append({**server.models[0], "status": "archived", "name": "old"})
    mirror.sync()
    assert published(mirror, model_id) == mirror.folder / "chassis" / "v1"
    assert len(server.console_requests("/download")) == 1


def test_a_listed_model_whose_manifest_is_not_there_is_told_and_tried_again(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    server.inject(Fault(404, body=b'{"detail": "not found"}'), "/download", times=2)
    for _ in range(2):
        mirror.sync()
        set_back(mirror, model_id, ModelState.QUEUED, "does not know it when asked for its files (404)")
    mirror.sync()
    published(mirror, model_id)


def test_a_model_that_vanishes_before_its_manifest_is_gone(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(Fault(404, body=b'{"detail": "not found"}', first=server.models.clear), "/download")
    mirror.sync()
    mirror.sync()
    model = mirror.model(model_id)
    assert (model.state, model.next_attempt) == (ModelState.GONE, None)


@pytest.mark.parametrize("meanwhile", ["building", "not listed"])
def test_a_model_that_was_corrected_is_fetched_at_once(
    server: FaultyServer, mirror: MirrorHere, model_id: str, meanwhile: str
) -> None:
    """Its old files were refused for an hour; it was taken back, and published anew."""
    good, listed = server.manifests[model_id], list(server.models)
    server.manifests[model_id] = [{**good[0], "rel": "../x"}]
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.BLOCKED
    assert mirror.model(model_id).next_attempt is not None
    if meanwhile == "building":
        server.models[0]["status"] = meanwhile
    else:
        server.models.clear()
    mirror.sync()
    server.manifests[model_id], server.models = good, listed
    server.models[0]["status"] = "ready"
    mirror.settings["poll"] = "1s"
    with mirror.running():
        eventually("the model", lambda: mirror.model(model_id).state == ModelState.PUBLISHED)
    published(mirror, model_id)


def test_a_model_that_vanishes_half_way_leaves_what_it_brought(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    manifest, listed = server.manifests[model_id], list(server.models)

    def vanish() -> None:
        server.revoke_urls()
        server.manifests.clear()

    server.inject(Fault(first=vanish), skip=5)
    mirror.sync()
    server.models.clear()
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.GONE
    kept = mirror.model(model_id).bytes_done
    assert kept > 0
    server.manifests[model_id], server.models = manifest, listed
    server.requests.clear()
    mirror.sync()
    published(mirror, model_id)
    complete = [request for request in server.storage_requests() if request.sent == 1]  # requested again, by one byte
    assert server.asked() == BIG.size + SMALL.size - kept + len(complete)


def test_a_manifest_of_another_model_is_not_used(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(json_answer({"model_id": "other", "files": []}), "/download", times=FOREVER)
    mirror.sync()
    set_back(mirror, model_id, ModelState.QUEUED, "the manifest of another model (other)")
    assert server.storage_requests() == []


def test_key_refused_during_the_download(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    from axomsync.core.errors import KeyRefused

    server.inject(Fault(401, body=b'{"detail": "revoked"}'), "/download", times=FOREVER)
    with pytest.raises(KeyRefused, match="revoked"):
        mirror.sync()
    set_back(mirror, model_id, ModelState.QUEUED, "the console refuses the API key (revoked)")


def test_key_without_the_scope_names_the_scope(server: FaultyServer, mirror: MirrorHere, model_id: str) -> None:
    server.inject(Fault(403, body=b'{"detail": "the key lacks it"}'), "/download", times=FOREVER)
    mirror.sync()
    set_back(mirror, model_id, ModelState.BLOCKED, "the API key lacks the scope 'models'")
    assert len(server.console_requests("/download")) == 1


def test_bytes_of_an_object_that_changed_are_never_recorded_for_the_new_one(
    server: FaultyServer, mirror: MirrorHere, model_id: str
) -> None:
    """A lane in the middle of the old object brings no more bytes after another lane has met the new object.

    Without a checksum only the ledger tells which bytes are there, so it must be right.
    """
    key, fresh = server.key_of(model_id, "weights/big.bin"), Content(BIG.size, seed=99)
    mirror.settings["verify"] = "size"
    mirror.patience = 1.0
    server.inject(Fault(rate=3 * MIB), key, times=3)
    server.inject(Fault(first=lambda: server.replace(key, fresh)), key)
    server.inject(Fault(cut=0, ending="reset"), key, skip=2, times=FOREVER)
    mirror.sync()
    assert mirror.model(model_id).state == ModelState.QUEUED
    server.heal()
    mirror.sync()
    published(mirror, model_id, {**FILES, "weights/big.bin": fresh})
